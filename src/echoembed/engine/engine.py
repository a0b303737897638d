"""The engine: padded features in, pooled states out, through packs without padding.

    engine = PackedEngine("causal")
    states_BSD, mask_BS = engine.states(model, ids_BT, mask_BT, span_BT)

Equal prompts are computed once. The model is not touched: what is changed for a pack is put back after it, and
one pack of a model runs at a time.

Shapes: B texts, T tokens of the longest prompt, S tokens of the longest span, P pooled tokens of a pack, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from echoembed.engine import attention, int8, onednn
from echoembed.engine.fused import lighter
from echoembed.engine.last_layer import last_layer, trimmed
from echoembed.engine.pack import Layout, Prompt, cut, lay_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOCK = RLock()  # of all engines: they take turns in the modules' forwards
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
        lighter: Whether norms, gates and rotations take fewer passes over memory (see ``fused.py``).
        tokens: Most tokens of a pack; None for what suits the model and the device.
        solo: Whether every text is a pack of its own.
    """

    causal: bool
    share_prefix: bool = True
    trim: bool = True
    fast_linear: bool = True
    lighter: bool = True
    tokens: int | None = None
    solo: bool = False

    def states(
        self,
        model: PreTrainedModel,
        ids_BT: Tensor,
        mask_BT: Tensor,
        span_BT: Tensor,
        shared_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The pooled states of padded prompts.

        Args:
            model: The language model, without its head.
            ids_BT: Token ids.
            mask_BT: 1 for a token, 0 for padding.
            span_BT: 1 for a pooled token, in one unbroken run of each row.
            shared_B: How many tokens at the beginning are the same in every prompt of this kind. None: none.

        Returns:
            ``states_BSD`` in float32, on the left and zeros after them, and ``mask_BS`` in int64.
        """
        prompts = _prompts(ids_BT, mask_BT, span_BT)
        unique = list(dict.fromkeys(prompts))
        number = {prompt: index for index, prompt in enumerate(unique)}
        length_B = span_BT.sum(dim=1)
        shared = 0 if shared_B is None else int(shared_B.min())
        out_BSD: Tensor | None = None
        slot_S = torch.arange(int(length_B.max()), device=ids_BT.device)
        for order, states_PD in self.run(model, unique, shared):
            if out_BSD is None:
                out_BSD = states_PD.new_zeros(len(unique), len(slot_S), states_PD.shape[-1], dtype=torch.float32)
            start = 0
            for index in order:
                count = unique[index].span[1] - unique[index].span[0]
                out_BSD[index, :count] = states_PD[start : start + count]
                start += count
        assert out_BSD is not None
        if len(unique) < len(prompts):
            out_BSD = out_BSD[torch.tensor([number[prompt] for prompt in prompts], device=out_BSD.device)]
        return out_BSD, (slot_S < length_B[:, None]).long()

    def run(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], shared: int = 0, *, verify: bool = False
    ) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Run the model over prompts, pack by pack.

        Args:
            model: The language model, without its head.
            prompts: The prompts, best without equal ones.
            shared: How many tokens at the beginning all of them share.
            verify: Whether the model's masks are compared with what is assumed of them.

        Yields:
            Numbers of prompts, and the states of their pooled tokens in that order, ``_PD`` in the model's dtype.
        """
        prefix = self._prefix(prompts, shared)
        budget = 1 if self.solo else self.tokens or tokens_in_flight(model)
        for group in _by_rotary(model, prompts, prefix, budget):
            layout = lay_out(prompts, group, prefix)
            yield layout.order, self._forward(model, layout, verify=verify)

    def _prefix(self, prompts: Sequence[Prompt], shared: int) -> int:
        """Tokens that are computed once: none of them pooled, and in causal attention only."""
        if not (self.share_prefix and self.causal) or len(prompts) < 2 or self.solo:
            return 0
        count = min(shared, min(prompt.span[0] for prompt in prompts))
        return count if len({prompt.ids[:count] for prompt in prompts}) == 1 else 0

    @torch.no_grad()
    def _forward(self, model: PreTrainedModel, layout: Layout, *, verify: bool) -> Tensor:
        device = model.device
        layout = Layout(
            layout.ids.to(device),
            layout.positions.to(device),
            layout.pooled.to(device),
            layout.runs,
            layout.order,
        )
        active = attention.Pass(layout, self.causal, verify)
        with self._prepared(model, active):
            output = model(
                input_ids=layout.ids[None],
                attention_mask=torch.ones_like(layout.ids)[None],  # given: transformers looks for packing else
                position_ids=layout.positions[None],
                use_cache=False,
            )
        if not active.called:
            raise attention.UnsupportedError("it ignores the attention it is given")
        states_PD: Tensor = output.last_hidden_state[0].index_select(0, layout.pooled)
        return states_PD

    @contextmanager
    def _prepared(self, model: PreTrainedModel, active: attention.Pass) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(_LOCK)
            attention.register()
            stack.enter_context(attention.packed(model))
            if self.fast_linear:
                stack.enter_context(onednn.fast_linears(model))
            if self.lighter and model.device.type == "cpu":
                stack.enter_context(lighter(model))
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


def _by_rotary(model: PreTrainedModel, prompts: Sequence[Prompt], prefix: int, budget: int) -> Iterator[list[int]]:
    """Groups as ``cut`` makes them, never across the length at which the model changes its rotary positions.

    Some models (longrope, dynamic NTK) choose them by the longest text of the call.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    limit = rope.get("original_max_position_embeddings") if isinstance(rope, dict) else None
    for group in cut(prompts, prefix, budget):
        short = [index for index in group if not isinstance(limit, int) or len(prompts[index].ids) <= limit]
        yield from (part for part in (short, group[len(short) :]) if part)


def _prompts(ids_BT: Tensor, mask_BT: Tensor, span_BT: Tensor) -> list[Prompt]:
    """The prompts without their padding, on whichever side it is."""
    first_B = mask_BT.argmax(dim=1)
    start_B = span_BT.argmax(dim=1)
    bounds_B4 = torch.stack([first_B, first_B + mask_BT.sum(dim=1), start_B, start_B + span_BT.sum(dim=1)], dim=1)
    return [
        Prompt(tuple(ids[first:stop]), (start - first, end - first))
        for ids, (first, stop, start, end) in zip(ids_BT.tolist(), bounds_B4.tolist(), strict=True)
    ]
