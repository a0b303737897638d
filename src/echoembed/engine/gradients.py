"""The packed forward with gradients: the forward of training, where the model passes the proof.

    engine = TrainingEngine.of(model, causal=True, dtype=torch.bfloat16)
    gradients.use(model, engine)          # in training, EchoTransformer's forward then runs this engine

All prompts of a call lie end to end in one sequence. Linear layers, norms and gates compute no padding; attention runs
on a padded batch of the prompts (``padded_batch.py``); the last layer computes pooled tokens only; the tokens that all
prompts begin with are computed once. Gradients flow through all of these, except to frozen weights, whose products are
in ``dtype`` (``frozen.py``).

Shapes: B prompts, S tokens of the longest span, P pooled tokens of the pack, D width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from echoembed.engine import attention, frozen, fused
from echoembed.engine.engine import LOCK
from echoembed.engine.frozen_linear import Dtypes, Forward
from echoembed.engine.last_layer import last_layer, trimmed
from echoembed.engine.pack import lay_out
from echoembed.engine.padded_batch import PaddedBatch
from echoembed.engine.patches import replacements
from echoembed.engine.proof import probes
from echoembed.engine.rotary import by_rotary
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_AGREES = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""The largest relative difference of states and gradients that counts as rounding; a wrong one is about 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingEngine:
    """The packed forward of a model that is being trained.

    Attributes:
        causal: Whether attention is causal; if not, it is bidirectional.
        forwards: The model's modules, each with its forward for training.
        rotations: Python modules of transformers, each with its replacement for ``apply_rotary_pos_emb``.
        trim: Whether the last layer computes pooled tokens only.
        random: Whether dropout acts. If so, no prefix is shared, as each prompt draws its own dropout.
    """

    causal: bool
    forwards: tuple[tuple[nn.Module, Forward], ...] = ()
    rotations: tuple[tuple[ModuleType, Forward], ...] = ()
    trim: bool = True
    random: bool = False

    @classmethod
    def of(
        cls, model: PreTrainedModel, *, causal: bool, dtype: torch.dtype = torch.float32, random: bool = False
    ) -> TrainingEngine:
        """Make the engine of a model as it is now, all its weights frozen except those that are trained.

        Args:
            model: The language model, without its head; frozen weights are copied in ``dtype``.
            causal: Whether attention is causal; if not, it is bidirectional.
            dtype: The dtype of products with frozen weights; on a CPU, of those of the backward pass.
            random: Whether dropout acts.
        """
        with torch.no_grad():
            on_cpu = model.device.type == "cpu"
            forwards = frozen.forwards(model, Dtypes(torch.float32 if on_cpu else dtype, dtype))
            rotations = [
                (home, frozen.rotation_like(rotation.replaces, torch.float32))  # type: ignore[attr-defined]
                for home, rotation in fused.rotations(model)
            ]
        return cls(causal=causal, forwards=tuple(forwards), rotations=tuple(rotations), random=random)

    def states(self, model: PreTrainedModel, prompts: Sequence[Rendered]) -> tuple[Tensor, Tensor]:
        """Compute the pooled states of prompts, with gradients.

        Args:
            model: The language model, without its head.
            prompts: B prompts.

        Returns:
            ``states_BSD`` in float32, padded with zeros on the right, and ``mask_BS`` in int64.
        """
        groups = by_rotary(model, [len(prompt.ids) for prompt in prompts])
        if len(groups) == 1:
            return self._pack(model, prompts)
        parts = [self._pack(model, [prompts[index] for index in group]) for group in groups]
        order = [index for group in groups for index in group]
        place_B = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=model.device)
        rows = [states_SD for states_BSD, _ in parts for states_SD in states_BSD]
        masks = [mask_S for _, mask_BS in parts for mask_S in mask_BS]
        return pad_sequence(rows, batch_first=True)[place_B], pad_sequence(masks, batch_first=True)[place_B]

    def _pack(self, model: PreTrainedModel, prompts: Sequence[Rendered]) -> tuple[Tensor, Tensor]:
        """Compute the states of prompts that take the same rotary positions, as ``states`` does."""
        # 1. Lay the prompts end to end, those with the same length and span next to each other.
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index].ids), prompts[index].span))
        layout = lay_out(prompts, order, self._shared_prefix(prompts)).to(model.device)
        # 2. Run the model's own code over the pack, with this engine's attention and forwards in place.
        active = attention.Pass(layout, self.causal, padded=PaddedBatch(layout, model.device))
        with ExitStack() as stack:
            stack.enter_context(LOCK)
            attention.register()
            stack.enter_context(attention.packed(model))
            stack.enter_context(replacements(self.forwards, self.rotations))
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
        # 3. Scatter the pooled states: a row for each prompt, padded on the right.
        pooled = [prompt.span[1] - prompt.span[0] for prompt in prompts]
        row_P = torch.tensor([index for index in layout.order for _ in range(pooled[index])], device=model.device)
        slot_P = torch.tensor([slot for index in layout.order for slot in range(pooled[index])], device=model.device)
        out_BSD = states_PD.new_zeros(len(prompts), max(pooled), states_PD.shape[-1])
        mask_BS = torch.arange(max(pooled)) < torch.tensor(pooled)[:, None]
        return out_BSD.index_put((row_P, slot_P), states_PD), mask_BS.long().to(model.device)

    def _shared_prefix(self, prompts: Sequence[Rendered]) -> int:
        """Count the tokens that all prompts begin with, none pooled; 0 where later tokens or dropout change them."""
        if not self.causal or self.random or len(prompts) < 2:
            return 0
        count = min(prompt.span[0] for prompt in prompts)
        starts = [prompt.ids[:count] for prompt in prompts]
        pairs = zip(min(starts), max(starts), strict=True)  # all prompts share what the first and last in order share
        return next((place for place, (low, high) in enumerate(pairs) if low != high), count)


@dataclass(frozen=True, slots=True)
class TrainingChoice:
    """Which forward a model is trained through, and why.

    Attributes:
        engine: The packed engine, or None for the model's own padded forward.
        reason: The result of the proof; empty if nothing was to be proven.
    """

    engine: TrainingEngine | None
    reason: str


def choose(model: PreTrainedModel, *, causal: bool, dtype: torch.dtype, random: bool = False) -> TrainingChoice:
    """Choose the packed forward, if its states and gradients are those of the model's own padded forward.

    A few prompts go through both, without dropout. If they differ, the packed forward is tried again without the
    trimmed last layer.

    Args:
        model: The language model as it will be trained.
        causal: Whether attention is causal; if not, it is bidirectional.
        dtype: The dtype of products with frozen weights.
        random: Whether dropout will act.
    """
    if int(model.config.num_hidden_layers) == 0:
        return TrainingChoice(None, "")  # token embeddings need no forward
    with kept_modes(model):
        model.train(False)  # peft adds its modules in training mode
        return _proven(model, causal=causal, dtype=dtype, random=random)


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Restore every module's mode, of training or evaluation, after a ``with`` block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _proven(model: PreTrainedModel, *, causal: bool, dtype: torch.dtype, random: bool) -> TrainingChoice:
    """Make the packed forward of a model in evaluation mode, and prove it."""
    prompts = probes(int(model.config.vocab_size))
    reason = ""
    try:
        expected = _with_gradients(model, prompts, None)
        engine = TrainingEngine.of(model, causal=causal, dtype=dtype, random=random)
    except Exception as error:  # whatever a model's code raises here, its own forward remains
        return TrainingChoice(None, f"{type(error).__name__}: {error}")
    for trim in (True, False):
        engine = replace(engine, trim=trim)
        try:
            packed = _with_gradients(model, prompts, engine)
        except Exception as error:
            reason = str(error) if isinstance(error, attention.UnsupportedError) else f"{type(error).__name__}: {error}"
            continue
        pairs = zip(packed, expected, strict=True)
        differences = [float((row - padded).norm() / padded.norm()) for row, padded in pairs]
        difference = math.nan if any(map(math.isnan, differences)) else max(differences)  # max alone may lose a NaN
        if difference <= _AGREES[dtype]:
            return TrainingChoice(engine, f"checked, with gradients{', trimmed last layer' * trim}")
        reason = f"its states or gradients differ from the padded ones by {difference:.1e}"
    return TrainingChoice(None, " ".join(reason.split())[:200])


def _with_gradients(
    model: PreTrainedModel, prompts: Sequence[Rendered], engine: TrainingEngine | None
) -> tuple[Tensor, Tensor]:
    """Compute the pooled states of prompts, and the gradient of a weighted sum of them, each as one flat tensor."""
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
    pairs = zip(gradients, zeros, strict=True)
    row = torch.cat([(zero if gradient is None else gradient).flatten() for gradient, zero in pairs])
    return states_PD.detach().flatten(), row


_IN_USE: WeakKeyDictionary[nn.Module, TrainingEngine] = WeakKeyDictionary()


def use(model: nn.Module, engine: TrainingEngine | None) -> None:
    """Train a language model through an engine; with None, through its own padded forward again."""
    if engine is None:
        _IN_USE.pop(model, None)
    else:
        _IN_USE[model] = engine


def in_use(model: nn.Module) -> TrainingEngine | None:
    """Return the engine that a language model is trained through, if any."""
    return _IN_USE.get(model)
