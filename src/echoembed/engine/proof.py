"""Proof, when a model is loaded, that the packed engine gives the padded forward's states.

A few prompts of different lengths and spans, with a shared prefix, go through both forwards. If the states differ, the
engine is tried again without its fused pieces, without the shared prefix and without the trimmed last layer. If they
still differ, the model runs padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echoembed.engine.attention import UnsupportedError
from echoembed.engine.engine import PackedEngine
from echoembed.engine.onednn import wanted
from echoembed.numerics import TOLERANCE, relative_difference
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARED = 3
_OWN = (2, 7, 7, 13, 4)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which forward a model runs, and why.

    Attributes:
        engine: The packed engine, or None for the padded forward.
        reason: The result of the proof.
        difference: How far the engine's states are from the padded forward's (see ``relative_difference``).
    """

    engine: PackedEngine | None
    reason: str
    difference: float = 0.0

    @property
    def name(self) -> str:
        """``packed`` or ``padded``."""
        return "padded" if self.engine is None else "packed"


def choose(model: PreTrainedModel, *, causal: bool, context: int | None = None) -> Choice:
    """Choose the packed engine with all settings that pass the proof, or the padded forward and the reason.

    Args:
        model: The language model, without its head, in evaluation mode, on the device where it will run.
        causal: Whether attention is causal; if not, it is bidirectional.
        context: The most tokens that the model reads at once.
    """
    if int(model.config.num_hidden_layers) == 0:
        return Choice(None, "token embeddings need no forward")
    if context is not None and context < _SHARED + max(_OWN):
        return Choice(None, f"a context of {context} tokens is too short to check it")
    prompts = probes(int(model.config.vocab_size))
    expected = _padded(model, prompts)
    reason = ""
    cpu = next(model.parameters()).device.type == "cpu"
    both, none = (True, False), (False,)
    for trim, share_prefix, fused in product(both, both if causal else none, both if cpu else none):
        engine = PackedEngine(
            causal=causal, trim=trim, share_prefix=share_prefix, fast_linear=cpu and wanted(), fused=fused
        )
        try:
            difference = _difference(engine, model, prompts, expected)
        except Exception as error:  # whatever a model's code raises here, the padded forward remains
            reason = str(error) if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {error}"
            continue
        if difference <= TOLERANCE[model.dtype]:
            parts = ["shared prefix"] * share_prefix + ["trimmed last layer"] * trim
            return Choice(engine, f"checked{''.join(f', {part}' for part in parts)}", difference)
        reason = f"its states differ from the padded ones by {difference:.1e}"
    return Choice(None, " ".join(reason.split())[:200])


def probes(vocabulary: int) -> list[Rendered]:
    """Make prompts with a shared prefix, whose spans are at the end, in the middle, or one token long."""
    size = min(vocabulary, 4096)
    shared = tuple((31 * place + 11) % size for place in range(_SHARED))
    prompts = []
    for row, own_length in enumerate(_OWN):
        length = _SHARED + own_length
        ids = shared + tuple((17 * place * place + 101 * row + 5 * place + 7) % size for place in range(own_length))
        start = _SHARED + own_length // 2
        span = [(start, length), (start, length - 1), (length - 1, length)][row % 3 if own_length > 2 else 0]
        prompts.append(Rendered(ids, span, _SHARED))
    return prompts


@torch.no_grad()
def _padded(model: PreTrainedModel, prompts: list[Rendered]) -> list[Tensor]:
    """Compute the pooled states of each prompt by the model's own padded forward; ``_SD`` each."""
    longest = max(len(prompt.ids) for prompt in prompts)
    pad = getattr(model.config, "pad_token_id", None)
    rows = [prompt.ids + (pad if isinstance(pad, int) else 0,) * (longest - len(prompt.ids)) for prompt in prompts]
    mask = [[1] * len(prompt.ids) + [0] * (longest - len(prompt.ids)) for prompt in prompts]
    states_BTD = model(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        use_cache=False,
    ).last_hidden_state
    return [states[slice(*prompt.span)] for states, prompt in zip(states_BTD, prompts, strict=True)]


def _difference(engine: PackedEngine, model: PreTrainedModel, prompts: list[Rendered], expected: list[Tensor]) -> float:
    worst = 0.0
    for order, states_PD in engine.run(model, prompts, verify=True):
        difference = relative_difference(states_PD, torch.cat([expected[index] for index in order]))
        worst = max(worst, difference if difference == difference else torch.inf)  # NaN counts as different
    return worst
