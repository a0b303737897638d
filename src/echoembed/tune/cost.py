"""What a recipe costs: processor time in units of a stock classical embedding of the same texts on this machine.

The unit is what sentence-transformers does with the bare texts: batches of 32, padded, the whole model, in the dtype at
hand. A recipe's time is counted in layer-tokens (each token that is read, times the layers that run); what one of them
takes is measured once, by the forward that the model runs.
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
"""Texts that are timed."""
_TIMES = 2
_BARE = Recipe(name="bare", query_template="{bos}{text:pool}")


@dataclass(frozen=True)
class Costs:
    """Costs on one machine, of one model in one dtype.

    Attributes:
        texts: What was timed.
        unit_seconds: A stock classical embedding of these.
        layer_token: What reading one token in one layer costs, in units.
    """

    texts: Sequence[str]
    unit_seconds: float
    layer_token: float

    def of(self, model: SentenceTransformer, recipe: Recipe, layer: int) -> float:
        """The cost of a recipe up to a layer, in units."""
        return self.layer_token * _tokens(_prompts(model, recipe, self.texts)) * layer


@torch.inference_mode()
def measured(model: SentenceTransformer, texts: Sequence[str], recipe: Recipe) -> Costs:
    """Time the unit and a layer-token.

    Args:
        model: From ``load``, whole.
        texts: Some of those that will be embedded.
        recipe: The recipe by which a layer-token is timed.
    """
    transformer = transformer_of(model)
    model.eval()
    bare = sorted(_prompts(model, _BARE, texts), key=lambda prompt: -len(prompt.ids))
    read = _prompts(model, recipe, texts)

    def stock() -> None:
        for start in range(0, len(bare), PADDED_TEXTS):
            features = transformer.features(bare[start : start + PADDED_TEXTS])
            ids_BT, mask_BT = (features[key].to(model.device) for key in ("input_ids", "attention_mask"))
            transformer.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)

    whole = under(model, recipe)
    unit = _seconds(stock, model.device)
    seconds = _seconds(lambda: encode_prompts(whole, read), model.device)
    return Costs(tuple(texts), unit, seconds / unit / (_tokens(read) * max(transformer.layers, 1)))


def _prompts(model: SentenceTransformer, recipe: Recipe, texts: Sequence[str]) -> list[Rendered]:
    transformer = transformer_of(model)
    return recipe.reader(transformer.pieces, context=transformer.context, overflow="ignore").render(texts)


def _tokens(prompts: Sequence[Rendered]) -> int:
    """Tokens that are read: those before the text are read once for all."""
    return sum(len(prompt.ids) - prompt.prefix for prompt in prompts)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The least of some times; of the processor where it does the work, as others may use the machine too."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    work()  # what is done once: kernels chosen, weights packed
    taken = []
    for _ in range(_TIMES):
        begun = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(clock() - begun)
    return min(taken)
