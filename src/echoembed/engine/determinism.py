"""Whether a text's states have the same bits in any company, found by trying.

Sums in floating point depend on their order, and a matrix product may choose another for another number of rows.
Whether it does is a matter of the library and the processor: oneDNN's products (``onednn.py``) have, where this was
written, the same bits for a row among 1 or 2000. So packs may be of any size where the trial passes; where it does
not, each prompt is a pack by itself, which no neighbour can change.

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
    """Whether every linear layer and the whole model give the same bits in any company that is tried."""
    return _linears_are(model) and _model_is(engine, model, min(context or 96, 96))


def _linears_are(model: PreTrainedModel) -> bool:
    generator = torch.Generator().manual_seed(0)
    tried = set()
    with patched(model, light=False):
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


def _model_is(engine: PackedEngine, model: PreTrainedModel, longest: int) -> bool:
    chance = random.Random(0)  # noqa: S311 - no secrets here
    size = min(int(model.config.vocab_size), 4096)
    prompts = []
    for _ in range(_TRIALS):
        length = chance.choice([2, 3, longest // 2, longest // 2, chance.randint(2, longest)])
        start = chance.choice([0, length // 2, length - 1])
        prompts.append(Rendered(tuple(chance.randrange(size) for _ in range(length)), (start, length)))
    alone = [next(engine.run(model, [prompt]))[1] for prompt in prompts]
    for count in (2, _TRIALS // 2, _TRIALS):
        chosen = chance.sample(range(_TRIALS), count)
        for order, states in engine.run(model, [prompts[index] for index in chosen]):
            if not torch.equal(states, torch.cat([alone[chosen[index]] for index in order])):
                return False
    return True
