"""Which forward a model runs: the one that the caller asks for, if it passes the proof on the model's device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from echoembed import errors
from echoembed.engine.determinism import is_invariant
from echoembed.engine.onednn import available
from echoembed.engine.proof import Choice, choose

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Engine = Literal["packed", "padded"]


@dataclass(kw_only=True)
class Selector:
    """Chooses a model's forward, once for each device and dtype.

    Attributes:
        name: What errors call the model.
        causal: Whether attention is causal; if not, it is bidirectional.
        context: The most tokens that the model reads at once.
        wanted: The forward that the caller asks for; None for the packed engine where it passes the proof.
        deterministic: Whether a text's vector must have the same bits whatever texts are encoded with it.
        tokens: The most tokens of a pack; None for the number that suits the model and the device.
    """

    name: str
    causal: bool
    context: int | None
    wanted: Engine | None = None
    deterministic: bool = False
    tokens: int | None = None
    _choices: dict[tuple[str, torch.dtype], Choice] = field(default_factory=dict)

    def choice(self, model: PreTrainedModel) -> Choice:
        """Return the forward to run.

        Raises:
            ModelError: If the caller asks for the packed engine, or for deterministic vectors, and the engine does not
                pass the proof.
        """
        weight = next(model.parameters())
        key = (weight.device.type, weight.dtype)
        if key not in self._choices:
            self._choices[key] = self._choose(model)
        return self._choices[key]

    def retest_invariance(self, model: PreTrainedModel) -> None:
        """Test batch invariance again, after the model's layers were replaced."""
        weight = next(model.parameters())
        key = (weight.device.type, weight.dtype)
        choice = self.choice(model)
        if not self.deterministic or choice.engine is None or choice.engine.solo:
            return
        if not is_invariant(choice.engine, model, self.context):
            reason = choice.reason.replace("bits tried in many packs", "a text at a time")
            self._choices[key] = replace(choice, engine=replace(choice.engine, solo=True), reason=reason)

    def _choose(self, model: PreTrainedModel) -> Choice:
        if self.wanted == "padded" and not self.deterministic:
            return Choice(None, "asked for")
        choice = choose(model, causal=self.causal, context=self.context)
        if choice.engine is None and (self.wanted == "packed" or self.deterministic):
            raise errors.model_engine_unsupported(self.name, choice.reason)
        if choice.engine is not None:
            choice = replace(choice, engine=replace(choice.engine, tokens=self.tokens))
        if choice.engine is not None and self.deterministic:
            # A shared prefix changes the order of sums, so that a prompt's bits would depend on whether it is shared.
            fast = next(model.parameters()).device.type == "cpu" and available()  # MKL's bits depend on the batch
            engine = replace(choice.engine, share_prefix=False, fast_linear=fast)
            solo = not is_invariant(engine, model, self.context)
            how = "a text at a time" if solo else "bits tried in many packs"
            reason = choice.reason.replace(", shared prefix", "")
            return replace(choice, engine=replace(engine, solo=solo), reason=f"{reason}, deterministic: {how}")
        return choice
