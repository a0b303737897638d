"""The packed forward with gradients: what training runs, where the model passes the proof.

    engine = TrainingEngine.of(model, causal=True, dtype=torch.bfloat16)
    gradients.use(model, engine)          # EchoTransformer's forward then takes it in training

All prompts of a call lie end to end in one sequence: linear layers, norms and gates compute no padding, attention runs
on a table of the texts (``grid.py``), the last layer on pooled tokens only, and tokens that all prompts begin with are
computed once. The gradient flows through all of it. Frozen weights get none, and their products are in ``dtype``
(``frozen.py``).

Shapes: B prompts, S tokens of the longest span, P pooled tokens of the pack, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from echoembed.engine import attention, frozen, fused
from echoembed.engine.engine import LOCK
from echoembed.engine.grid import Grid
from echoembed.engine.last_layer import last_layer, trimmed
from echoembed.engine.pack import lay_out
from echoembed.engine.patches import worn
from echoembed.engine.proof import probes
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_AGREES = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest difference of states and gradients that counts as rounding, of their size; an error of kind is about 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingEngine:
    """The packed forward of a model that is being trained.

    Attributes:
        causal: Whether tokens see only what is before them.
        forwards: Modules, each with its forward for training.
        rotations: Modules of transformers' code, each with its function that rotates queries and keys.
        trim: Whether the last layer works on pooled tokens only.
        random: Whether dropout acts: then tokens that prompts share are computed for each, as each draws its own.
    """

    causal: bool
    forwards: tuple[tuple[nn.Module, frozen.Forward], ...] = ()
    rotations: tuple[tuple[ModuleType, frozen.Forward], ...] = ()
    trim: bool = True
    random: bool = False

    @classmethod
    def of(
        cls, model: PreTrainedModel, *, causal: bool, dtype: torch.dtype = torch.float32, random: bool = False
    ) -> TrainingEngine:
        """The engine of a model as it is now, its weights frozen but for what is trained.

        Args:
            model: The language model, without its head; frozen weights are copied in ``dtype``.
            causal: Whether tokens see only what is before them.
            dtype: Of products with frozen weights.
            random: Whether dropout acts.
        """
        with torch.no_grad():
            forwards = frozen.forwards(model, dtype)
            rotations = [
                (home, frozen.rotation_like(rotation.replaces, torch.float32))  # type: ignore[attr-defined]
                for home, rotation in fused.rotations(model)
            ]
        return cls(causal=causal, forwards=tuple(forwards), rotations=tuple(rotations), random=random)

    def states(self, model: PreTrainedModel, prompts: Sequence[Rendered]) -> tuple[Tensor, Tensor]:
        """The pooled states of prompts, through which gradients flow.

        Args:
            model: The language model, without its head.
            prompts: B prompts.

        Returns:
            ``states_BSD`` in float32, on the left and zeros after them, and ``mask_BS`` in int64.
        """
        # 1. Neighbours of one shape, the tokens that all begin with in front.
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index].ids), prompts[index].span))
        layout = lay_out(prompts, order, self._shared(prompts)).to(model.device)
        # 2. The model's own code over the pack, with this engine's attention and forwards in it.
        active = attention.Pass(layout, self.causal, grid=Grid(layout, model.device))
        with ExitStack() as stack:
            stack.enter_context(LOCK)
            attention.register()
            stack.enter_context(attention.packed(model))
            stack.enter_context(worn(self.forwards, self.rotations))
            layer = last_layer(model) if self.trim else None
            if layer is not None and len(layout.pooled) < len(layout.ids):
                stack.enter_context(trimmed(layer, active))
            token = attention.ACTIVE.set(active)
            try:
                output = model(
                    input_ids=layout.ids[None],
                    attention_mask=torch.ones_like(layout.ids)[None],
                    position_ids=layout.positions[None],
                    use_cache=False,
                )
            finally:
                attention.ACTIVE.reset(token)
        if not active.called:
            raise attention.UnsupportedError("it ignores the attention it is given")
        states_PD: Tensor = output.last_hidden_state[0].index_select(0, layout.pooled).float()
        # 3. The pooled states of each prompt in its row, on the left.
        pooled = [prompt.span[1] - prompt.span[0] for prompt in prompts]
        row_P = torch.tensor([index for index in layout.order for _ in range(pooled[index])], device=model.device)
        slot_P = torch.tensor([slot for index in layout.order for slot in range(pooled[index])], device=model.device)
        out_BSD = states_PD.new_zeros(len(prompts), max(pooled), states_PD.shape[-1])
        mask_BS = torch.arange(max(pooled)) < torch.tensor(pooled)[:, None]
        return out_BSD.index_put((row_P, slot_P), states_PD), mask_BS.long().to(model.device)

    def _shared(self, prompts: Sequence[Rendered]) -> int:
        """Tokens that all prompts begin with, none of them pooled; 0 where later tokens or dropout tell them apart."""
        if not self.causal or self.random or len(prompts) < 2:
            return 0
        count = min(prompt.span[0] for prompt in prompts)
        starts = [prompt.ids[:count] for prompt in prompts]
        pairs = zip(min(starts), max(starts), strict=True)  # what these two have in common, all have
        return next((place for place, (one, other) in enumerate(pairs) if one != other), count)


@dataclass(frozen=True, slots=True)
class TrainingChoice:
    """Which forward a model is trained through, and why.

    Attributes:
        engine: The packed one, or None for the model's own padded one.
        reason: What the proof found.
    """

    engine: TrainingEngine | None
    reason: str


def choose(model: PreTrainedModel, *, causal: bool, dtype: torch.dtype, random: bool = False) -> TrainingChoice:
    """The packed forward, if its states and gradients are those of the model's own padded forward.

    A handful of prompts goes through both; what does not pass is left out, first the trimmed last layer, then packing.

    Args:
        model: The language model as it will be trained, in evaluation mode.
        causal: Whether tokens see only what is before them.
        dtype: Of products with frozen weights.
        random: Whether dropout will act.
    """
    if int(model.config.num_hidden_layers) == 0:
        return TrainingChoice(None, "token embeddings need no forward")
    prompts = probes(int(model.config.vocab_size))
    reason = ""
    try:
        wanted = _with_gradients(model, prompts, None)
        engine = TrainingEngine.of(model, causal=causal, dtype=dtype, random=random)
    except Exception as error:  # whatever a model's code does here, its own forward is there
        return TrainingChoice(None, f"{type(error).__name__}: {error}")
    for trim in (True, False):
        engine = replace(engine, trim=trim)
        try:
            got = _with_gradients(model, prompts, engine)
        except Exception as error:
            reason = str(error) if isinstance(error, attention.UnsupportedError) else f"{type(error).__name__}: {error}"
            continue
        difference = max(float((one - other).norm() / other.norm()) for one, other in zip(got, wanted, strict=True))
        if difference <= _AGREES[dtype]:
            return TrainingChoice(engine, f"checked, with gradients{', trimmed last layer' * trim}")
        reason = f"its states or gradients differ from the padded ones by {difference:.1e}"
    return TrainingChoice(None, " ".join(reason.split())[:200])


def _with_gradients(
    model: PreTrainedModel, prompts: Sequence[Rendered], engine: TrainingEngine | None
) -> tuple[Tensor, Tensor]:
    """The pooled states of prompts, and the gradient of a sum of them by all that is trained, each as one row."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.enable_grad():
        if engine is not None:
            states_BSD, mask_BS = engine.states(model, prompts)
            states_PD = states_BSD[mask_BS.bool()]
        else:
            longest = max(len(prompt.ids) for prompt in prompts)
            ids = [[*prompt.ids, *[0] * (longest - len(prompt.ids))] for prompt in prompts]
            mask = [[1] * len(prompt.ids) + [0] * (longest - len(prompt.ids)) for prompt in prompts]
            ids_BT, mask_BT = (torch.tensor(rows, device=model.device) for rows in (ids, mask))
            all_BTD = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
            spans = [states_TD[slice(*prompt.span)] for states_TD, prompt in zip(all_BTD, prompts, strict=True)]
            states_PD = torch.cat(spans).float()
        noise_PD = torch.randn(states_PD.shape, generator=torch.Generator().manual_seed(0)).to(states_PD.device)
        gradients = torch.autograd.grad((states_PD * noise_PD).sum(), trained, allow_unused=True)
    zeros = [torch.zeros_like(weight) for weight in trained]
    row = [(zero if given is None else given).flatten() for given, zero in zip(gradients, zeros, strict=True)]
    return states_PD.detach().flatten(), torch.cat(row)


_IN_USE: WeakKeyDictionary[nn.Module, TrainingEngine] = WeakKeyDictionary()


def use(model: nn.Module, engine: TrainingEngine | None) -> None:
    """Have a language model trained through an engine, or through its own padded forward again."""
    if engine is None:
        _IN_USE.pop(model, None)
    else:
        _IN_USE[model] = engine


def in_use(model: nn.Module) -> TrainingEngine | None:
    """The engine that a language model is trained through, if any."""
    return _IN_USE.get(model)
