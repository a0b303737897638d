"""Batch invariance: whether a prompt's states have the same bits whatever prompts are computed with it.

A sum in floating point depends on its order, and a matrix product may choose another order for another number of rows.
Whether it does depends on the library and the processor, so that it is tested when a model is loaded. On the processors
that we tried, oneDNN (``onednn.py``) gives a row the same bits among 1 or 2000 rows. Where the test passes, packs may
have any size. Where it fails, each prompt is a pack by itself, so that no other prompt can change its bits.

Shapes: M rows, K inputs of a linear layer.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import nn

from echoembed.engine.patches import patched
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from echoembed.engine.engine import PackedEngine

ROWS = (*range(1, 20), 31, 32, 33, 47, 48, 63, 64, 65, 95, 96, 127, 128, 129, 200, 256, 333, 512, 777, 1024)
_TRIALS = 12


@torch.no_grad()
def is_invariant(engine: PackedEngine, model: PreTrainedModel, context: int | None) -> bool:
    """Return whether every linear layer and the whole model gave the same bits in all batches that were tried."""
    return _linears_invariant(model) and _model_invariant(engine, model, min(context or 96, 96))


def _linears_invariant(model: PreTrainedModel) -> bool:
    generator = torch.Generator().manual_seed(0)
    tried = set()
    with patched(model, fuse=False):
        for module in model.modules():
            if not isinstance(module, nn.Linear) or (shape := (module.weight.shape, module.bias is None)) in tried:
                continue
            tried.add(shape)
            rows_MK = torch.randn(max(ROWS), module.in_features, generator=generator)
            rows_1MK = rows_MK.to(module.weight)[None]
            together = module(rows_1MK)
            for count in ROWS:
                if not torch.equal(module(rows_1MK[:, :count]), together[:, :count]):
                    return False
                if not torch.equal(module(rows_1MK[:, -count:]), together[:, -count:]):
                    return False
    return True


def _model_invariant(engine: PackedEngine, model: PreTrainedModel, longest: int) -> bool:
    generator = random.Random(0)  # noqa: S311 - no secrets here
    size = min(int(model.config.vocab_size), 4096)
    prompts = []
    for _ in range(_TRIALS):
        length = generator.choice([2, 3, longest // 2, longest // 2, generator.randint(2, longest)])
        start = generator.choice([0, length // 2, length - 1])
        prompts.append(Rendered(tuple(generator.randrange(size) for _ in range(length)), (start, length)))
    alone = [next(engine.run(model, [prompt]))[1] for prompt in prompts]
    for count in (2, _TRIALS // 2, _TRIALS):
        chosen = generator.sample(range(_TRIALS), count)
        for order, states in engine.run(model, [prompts[index] for index in chosen]):
            if not torch.equal(states, torch.cat([alone[chosen[index]] for index in order])):
                return False
    return True
