"""Which forward a model runs: the one that the caller wants, if it passes the proof on the model's device."""

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
    """Chooses once for each device and dtype.

    Attributes:
        name: What errors call the model.
        causal: Whether tokens see only what is before them.
        context: Most tokens the model reads at once.
        wanted: What the caller wants; None for the packed one where it passes the proof.
        deterministic: Whether vectors must have the same bits in any company.
        tokens: Most tokens of a pack; None for what suits the model and the device.
    """

    name: str
    causal: bool
    context: int | None
    wanted: Engine | None = None
    deterministic: bool = False
    tokens: int | None = None
    _choices: dict[tuple[str, torch.dtype], Choice] = field(default_factory=dict)

    def choice(self, model: PreTrainedModel) -> Choice:
        """The forward to run.

        Raises:
            ModelError: If the packed one was insisted on and does not pass.
        """
        weight = next(model.parameters())
        place = (weight.device.type, weight.dtype)
        if place not in self._choices:
            self._choices[place] = self._choose(model)
        return self._choices[place]

    def try_bits_again(self, model: PreTrainedModel) -> None:
        """Try anew whether neighbours change a prompt's bits, after the model's layers were replaced."""
        weight = next(model.parameters())
        place = (weight.device.type, weight.dtype)
        choice = self.choice(model)
        if not self.deterministic or choice.engine is None or choice.engine.solo:
            return
        if not is_invariant(choice.engine, model, self.context):
            reason = choice.reason.replace("bits tried in many packs", "a text at a time")
            self._choices[place] = replace(choice, engine=replace(choice.engine, solo=True), reason=reason)

    def _choose(self, model: PreTrainedModel) -> Choice:
        if self.wanted == "padded" and not self.deterministic:
            return Choice(None, "asked for")
        choice = choose(model, causal=self.causal, context=self.context)
        if choice.engine is None and (self.wanted == "packed" or self.deterministic):
            raise errors.model_engine_unsupported(self.name, choice.reason)
        if choice.engine is not None:
            choice = replace(choice, engine=replace(choice.engine, tokens=self.tokens))
        if choice.engine is not None and self.deterministic:
            # Alone there is no beginning to share, and sharing it adds up in another order.
            fast = next(model.parameters()).device.type == "cpu" and available()  # MKL's bits depend on the rows
            engine = replace(choice.engine, share_prefix=False, fast_linear=fast)
            solo = not is_invariant(engine, model, self.context)
            how = "a text at a time" if solo else "bits tried in many packs"
            reason = choice.reason.replace(", shared prefix", "")
            return replace(choice, engine=replace(engine, solo=solo), reason=f"{reason}, deterministic: {how}")
        return choice
