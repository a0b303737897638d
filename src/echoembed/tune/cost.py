"""What a recipe costs: processor time in units of a stock classical embedding of the same texts on this machine.

One unit is the time in which sentence-transformers embeds the bare texts: in padded batches of 32, with the whole
model, in the model's dtype. A recipe's time is counted in layer-tokens (the tokens that are read, times the layers that
run). The time of a layer-token is measured once, by the model's own forward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer

from echoembed.model.encode import encode_prompts
from echoembed.model.groups import PADDED_TEXTS
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.prompts.template import Rendered
from echoembed.recipe import Recipe

TEXTS = 64
"""The number of texts that are timed."""
_TIMES = 2
BARE = Recipe(name="bare", query_template="{bos}{text:pool}")


@dataclass(frozen=True)
class Costs:
    """The costs of one model in one dtype, on one machine.

    Attributes:
        texts: The texts that were timed.
        unit_seconds: The seconds of a unit: a stock classical embedding of these texts.
        layer_token: The cost of a layer-token, in units.
    """

    texts: Sequence[str]
    unit_seconds: float
    layer_token: float

    def of(self, model: SentenceTransformer, recipe: Recipe, layer: int) -> float:
        """Return the cost of a recipe up to a layer, in units."""
        return self.layer_token * _tokens(_prompts(model, recipe, self.texts)) * layer


@torch.inference_mode()
def measured(model: SentenceTransformer, texts: Sequence[str], recipe: Recipe) -> Costs:
    """Time the unit and a layer-token.

    Args:
        model: From ``load``, with all its layers.
        texts: Some of the texts that will be embedded.
        recipe: The recipe with which a layer-token is timed.
    """
    transformer = transformer_of(model)
    model.eval()
    bare = sorted(_prompts(model, BARE, texts), key=lambda prompt: -len(prompt.ids))
    prompts = _prompts(model, recipe, texts)

    def stock() -> None:
        for start in range(0, len(bare), PADDED_TEXTS):
            features = transformer.features(bare[start : start + PADDED_TEXTS])
            ids_BT, mask_BT = (features[key].to(model.device) for key in ("input_ids", "attention_mask"))
            transformer.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)

    whole = under(model, recipe)
    unit = _seconds(stock, model.device)
    seconds = _seconds(lambda: encode_prompts(whole, prompts), model.device)
    return Costs(tuple(texts), unit, seconds / unit / (_tokens(prompts) * max(transformer.layers, 1)))


def _prompts(model: SentenceTransformer, recipe: Recipe, texts: Sequence[str]) -> list[Rendered]:
    transformer = transformer_of(model)
    return recipe.reader(transformer.pieces, context=transformer.context, overflow="ignore").render(texts)


def _tokens(prompts: Sequence[Rendered]) -> int:
    """Count the tokens that are read; the prefix is left out, as it is computed once for many prompts."""
    return sum(len(prompt.ids) - prompt.prefix for prompt in prompts)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest time of a few runs. On a CPU it is processor time, as others may use the machine too."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    work()  # the first run also chooses kernels and packs weights
    times = []
    for _ in range(_TIMES):
        begun = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - begun)
    return min(times)
