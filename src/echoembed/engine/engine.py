"""The engine: prompts in, pooled states out, through packs without padding.

    engine = PackedEngine(causal=True)
    states_BSD, mask_BS = engine.states(model, prompts)
    states_LBSD, mask_BS = engine.states(model, prompts, layers=True)

Equal prompts are computed once. While a pack runs, some of the model's modules have other forwards (``patches.py``);
they are put back after it, and one pack runs at a time.

Shapes: B prompts, S tokens of the longest span, P pooled tokens of a pack, D width of the model, L layers and one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from echoembed.engine import attention, int8
from echoembed.engine.last_layer import last_layer, trimmed
from echoembed.engine.pack import Layout, cut, lay_out
from echoembed.engine.patches import patched
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOCK = RLock()  # of all engines: they take turns in the modules' forwards
MEMORY = 128 * 2**20
"""Bytes that the widest activations of a pack may take on a CPU."""
CPU_TOKENS = 2048
GPU_TOKENS = 16384


@dataclass(frozen=True, kw_only=True)
class PackedEngine:
    """The packed forward of a model.

    Attributes:
        causal: Whether tokens see only what is before them; else everything.
        share_prefix: Whether the tokens that all prompts begin with are computed once a pack.
        trim: Whether the last layer works on pooled tokens only.
        fast_linear: Whether float32 products go to oneDNN (see ``onednn.py``).
        fused: Whether norms, gates and rotations take fewer passes over memory (see ``fused.py``).
        tokens: Most tokens of a pack; None for what suits the model and the device.
        solo: Whether each prompt is a pack by itself.
    """

    causal: bool
    share_prefix: bool = True
    trim: bool = True
    fast_linear: bool = True
    fused: bool = True
    tokens: int | None = None
    solo: bool = False

    def states(
        self, model: PreTrainedModel, prompts: Sequence[Rendered], *, layers: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The pooled states of prompts.

        Args:
            model: The language model, without its head.
            prompts: B prompts; equal ones are computed once.
            layers: Whether the states of every layer are given, from the same forward: as transformers'
                ``output_hidden_states``, first the token embeddings, then each layer's, the last after the norm.

        Returns:
            ``states_BSD`` (``states_LBSD`` of every layer) in float32, on the left and zeros after them, and
            ``mask_BS`` in int64.
        """
        unique = {(prompt.ids, prompt.span): prompt for prompt in prompts}
        number = {key: index for index, key in enumerate(unique)}
        distinct = list(unique.values())
        pooled = [prompt.span[1] - prompt.span[0] for prompt in distinct]
        out: Tensor | None = None  # ``_BSD`` or ``_LBSD``
        for order, states in self.run(model, distinct, layers=layers):
            if out is None:
                shape = (*states.shape[:-2], len(distinct), max(pooled), states.shape[-1])
                out = states.new_zeros(shape, dtype=torch.float32)
            start = 0
            for index in order:
                out[..., index, : pooled[index], :] = states[..., start : start + pooled[index], :]
                start += pooled[index]
        assert out is not None
        rows_B = torch.tensor([number[prompt.ids, prompt.span] for prompt in prompts])
        slot_S = torch.arange(max(pooled))
        mask_BS = (slot_S < torch.tensor(pooled)[rows_B, None]).long().to(out.device)
        if len(distinct) < len(prompts):
            out = out.index_select(-3, rows_B.to(out.device))
        return out, mask_BS

    def run(
        self, model: PreTrainedModel, prompts: Sequence[Rendered], *, verify: bool = False, layers: bool = False
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Run the model over prompts, pack by pack.

        Args:
            model: The language model, without its head.
            prompts: The prompts, best without equal ones.
            verify: Whether the model's masks are compared with what is assumed of them.
            layers: As for ``states``.

        Yields:
            Numbers of prompts, and the states of their pooled tokens in that order, ``_PD`` (``_LPD`` of every layer)
            in the model's dtype.
        """
        prefix = self._prefix(prompts)
        budget = 1 if self.solo else self.most_tokens(model)
        for group in _by_rotary(model, prompts, prefix, budget):
            layout = lay_out(prompts, group, prefix)
            yield layout.order, self._forward(model, layout, verify=verify, layers=layers)

    def most_tokens(self, model: nn.Module) -> int:
        """Most tokens in flight at once; a longer prompt is a pack by itself."""
        return self.tokens or tokens_in_flight(model)

    def _prefix(self, prompts: Sequence[Rendered]) -> int:
        """Tokens that are computed once a pack: the template's constant ones, none of them pooled.

        A text alone shares them with nobody and yet is computed in the same way: rounding must not depend on company.
        """
        if not (self.share_prefix and self.causal) or self.solo:
            return 0
        count = min(min(prompt.prefix, prompt.span[0]) for prompt in prompts)
        return count if len({prompt.ids[:count] for prompt in prompts}) == 1 else 0

    @torch.no_grad()
    def _forward(self, model: PreTrainedModel, layout: Layout, *, verify: bool, layers: bool) -> Tensor:
        layout = layout.to(model.device)
        active = attention.Pass(layout, self.causal, verify)
        with self._prepared(model, active):
            output = model(
                input_ids=layout.ids[None],
                attention_mask=torch.ones_like(layout.ids)[None],  # given: transformers looks for packing else
                position_ids=layout.positions[None],
                use_cache=False,
                output_hidden_states=layers,
            )
        if not active.called:
            raise attention.UnsupportedError("it ignores the attention it is given")
        if layers:  # trimming widens the last layer's states again, so that every layer's are of all tokens
            return torch.stack([states_1TD[0].index_select(0, layout.pooled) for states_1TD in output.hidden_states])
        states_PD: Tensor = output.last_hidden_state[0].index_select(0, layout.pooled)
        return states_PD

    @contextmanager
    def _prepared(self, model: PreTrainedModel, active: attention.Pass) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(LOCK)
            attention.register()
            stack.enter_context(attention.packed(model))
            light = self.fused and model.device.type == "cpu"
            stack.enter_context(patched(model, fast_linear=self.fast_linear, light=light))
            layer = last_layer(model) if self.trim else None
            if layer is not None and len(active.layout.pooled) < len(active.layout.ids):
                stack.enter_context(trimmed(layer, active))
            token = attention.ACTIVE.set(active)
            try:
                yield
            finally:
                attention.ACTIVE.reset(token)
                int8.forget(model)


def tokens_in_flight(model: nn.Module) -> int:
    """Tokens of a pack that suit the model's width and its device."""
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return GPU_TOKENS
    widest = max(1, *map(_width, model.modules()))
    return max(256, min(CPU_TOKENS, MEMORY // (4 * widest * weight.element_size())))


def _width(module: nn.Module) -> int:
    width = getattr(module, "out_features", getattr(module, "nf", 0))  # nf: GPT-2's name for it
    return width if isinstance(width, int) else 0


def _by_rotary(model: PreTrainedModel, prompts: Sequence[Rendered], prefix: int, budget: int) -> Iterator[list[int]]:
    """Groups as ``cut`` makes them, never across the length at which the model changes its rotary positions.

    Some models (longrope, dynamic NTK) choose them by the longest text of the call.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    limit = rope.get("original_max_position_embeddings") if isinstance(rope, dict) else None
    for group in cut(prompts, prefix, budget):
        short = [index for index in group if not isinstance(limit, int) or len(prompts[index].ids) <= limit]
        yield from (part for part in (short, group[len(short) :]) if part)
