"""Attention with gradients over a pack: its prompts as the rows of a padded batch, in one call of PyTorch's attention.

Projections, norms and feed-forwards, which take most of the time, run on the pack without padding. Attention alone is
padded: on short prompts this costs less than a call, and a backward pass, for each run.

The tokens that all prompts begin with are computed once per pack and copied into every row; their gradient is the sum
over rows.

Shapes: H heads, T tokens of the pack, C prompts (rows), L tokens of the longest, Q query tokens of a row (L, or fewer
where only pooled tokens are queries), N query tokens of the pack, X slots of the batch, E width of a head, F = H × E.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.engine.frozen_linear import draw_kept
from echoembed.engine.pack import Layout

_SHORT = 256  # on a CPU, up to this length, scores are stored for the backward pass rather than computed again


@dataclass(frozen=True, slots=True)
class Slots:
    """Where the tokens of a pack stand in the padded batch.

    Attributes:
        token_CQ: The index in the pack of each slot's token; padding repeats the first token.
        slot_N: The slot of each token, counted row by row.
        shared: The number of prefix tokens, which stand in every row.
    """

    token_CQ: Tensor
    slot_N: Tensor
    shared: int


class PaddedBatch:
    """The prompts of a pack as a padded batch.

    Args:
        layout: The pack.
        device: The device of the batch's tensors.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.masks: dict[tuple[int, bool], Tensor] = {}

    @cached_property
    def all(self) -> Slots:
        """The slots of all tokens."""
        runs = [run for run in self.layout.runs if run.pooled]
        prefix = runs[0].prefix
        longest = prefix + max(run.length for run in runs)
        rows, slots, row = [], [torch.arange(prefix)], 0
        for run in runs:
            own_places = torch.arange(run.start, run.start + run.count * run.length).view(run.count, run.length)
            padding = own_places.new_zeros(run.count, longest - prefix - run.length)
            rows.append(torch.cat([torch.arange(prefix).expand(run.count, -1), own_places, padding], dim=1))
            start_C1 = longest * torch.arange(row, row + run.count)[:, None] + prefix
            slots.append((start_C1 + torch.arange(run.length)).flatten())
            row += run.count
        return Slots(torch.cat(rows).to(self.device), torch.cat(slots).to(self.device), prefix)

    @cached_property
    def pooled(self) -> Slots:
        """The slots of pooled tokens as the only queries, in the order of ``Layout.pooled``."""
        runs = [run for run in self.layout.runs if run.pooled]
        longest = max(run.pooled for run in runs)
        rows, slots, row = [], [], 0
        for run in runs:
            pooled_places = torch.arange(run.pooled_start, run.pooled_start + run.count * run.pooled).view(
                run.count, run.pooled
            )
            rows.append(torch.cat([pooled_places, pooled_places.new_zeros(run.count, longest - run.pooled)], dim=1))
            start_C1 = longest * torch.arange(row, row + run.count)[:, None]
            slots.append((start_C1 + torch.arange(run.pooled)).flatten())
            row += run.count
        return Slots(torch.cat(rows).to(self.device), torch.cat(slots).to(self.device), 0)

    def allowed(self, rule: Any, causal: bool, pooled: bool) -> Tensor:
        """Return which keys each query attends to, ``_C1QL``; padding attends to some key too, as it would be NaN."""
        runs = [run for run in self.layout.runs if run.pooled]
        longest = self.all.token_CQ.shape[1]
        key_L = torch.arange(longest, device=self.device)
        window = rule.window is not None and any(run.prefix + run.length > rule.window for run in runs)
        rows = []
        for run in runs:
            total = run.prefix + run.length
            start, count = (run.span[0], self.pooled.token_CQ.shape[1]) if pooled else (0, longest)
            query_Q = (start + torch.arange(count, device=self.device)).clamp(max=total - 1)
            allowed_QL = key_L[None] < total
            if window:
                allowed_QL = allowed_QL & rule.allowed(query_Q, key_L)
            elif causal:
                allowed_QL = allowed_QL & (key_L[None] <= query_Q[:, None])
            rows.append(allowed_QL.expand(count, longest)[None, None].expand(run.count, -1, -1, -1))
        return torch.cat(rows)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        number: int,
        rule: Any,
        causal: bool,
        pooled: bool,
        scale: float,
        softcap: float | None,
        dropout: float,
    ) -> Tensor:
        """Compute the attention of ``query`` (``_1HNE``) over ``key`` and ``value`` (``_1HTE``), as ``_1NHE``.

        Args:
            query: Queries of all tokens, or of the pooled tokens.
            key: Keys of all tokens; several query heads may share a key head.
            value: Values of all tokens.
            number: The index of the layer's mask rule.
            rule: The layer's mask (``attention.Rule``).
            causal: Whether attention is causal; if not, it is bidirectional.
            pooled: Whether only pooled tokens are queries.
            scale: The factor of scores.
            softcap: The soft-cap on scores; None for none.
            dropout: The probability with which an attention weight is dropped.
        """
        slots = self.pooled if pooled else self.all
        query_CHQE, key_CHLE, value_CHLE = _pad(query, slots), _pad(key, self.all), _pad(value, self.all)
        # 1. Plain causal attention needs no mask of its own, as padding comes after all tokens that a query attends to.
        longest = self.all.token_CQ.shape[1]
        window = rule.window is not None and rule.window < longest
        plain = causal and not pooled and not window
        if not plain and (number, pooled) not in self.masks:
            self.masks[number, pooled] = self.allowed(rule, causal, pooled)
        mask_C1QL = None if plain else self.masks[number, pooled]
        # 2. One call for all prompts. For short prompts on a CPU, the written-out formula is faster.
        if softcap is not None or (longest <= _SHORT and self.device.type == "cpu"):
            if plain:
                mask_C1QL = torch.ones(1, 1, longest, longest, dtype=torch.bool, device=self.device).tril()
            assert mask_C1QL is not None
            out_CHQE = _written_out(query_CHQE, key_CHLE, value_CHLE, mask_C1QL, scale, softcap, dropout)
        else:
            groups = query_CHQE.shape[1] // key_CHLE.shape[1]
            key_CHLE, value_CHLE = (states.repeat_interleave(groups, dim=1) for states in (key_CHLE, value_CHLE))
            out_CHQE = nn.functional.scaled_dot_product_attention(
                query_CHQE, key_CHLE, value_CHLE, mask_C1QL, dropout, is_causal=plain, scale=scale
            )
        # 3. Gather the results back into the order of the pack, without padding.
        out_XF = out_CHQE.transpose(1, 2).reshape(-1, query.shape[1] * value.shape[-1])
        out_NF: Tensor = _Unpad.apply(out_XF, slots.slot_N)  # type: ignore[no-untyped-call]
        return out_NF.view(1, -1, query.shape[1], value.shape[-1])


def _written_out(
    query_CHQE: Tensor,
    key_CGLE: Tensor,
    value_CGLE: Tensor,
    mask_C1QL: Tensor,
    scale: float,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """Compute attention by its formula; query heads that share a key head (G) become further queries of that head."""
    texts, heads, queries, width = query_CHQE.shape
    groups = heads // key_CGLE.shape[1]
    query_CGQE = query_CHQE.reshape(texts, heads // groups, groups * queries, width)
    score_CGQL = (query_CGQE * scale) @ key_CGLE.transpose(2, 3)
    if softcap is not None:
        score_CGQL = torch.tanh(score_CGQL / softcap) * softcap
    score_CHQL = score_CGQL.view(texts, heads, queries, -1)
    hidden_C1QL = torch.zeros(mask_C1QL.shape, dtype=score_CHQL.dtype, device=mask_C1QL.device)
    weight_CHQL = (score_CHQL + hidden_C1QL.masked_fill_(~mask_C1QL, -torch.inf)).softmax(dim=-1)
    if dropout:  # the factor 1 / (1 - dropout) is applied to the values, which are fewer
        weight_CHQL = weight_CHQL * draw_kept(weight_CHQL, dropout)
        value_CGLE = value_CGLE / (1 - dropout)
    out_CGQE = weight_CHQL.view(score_CGQL.shape) @ value_CGLE
    return out_CGQE.view(texts, heads, queries, -1)


def _pad(states_1HTE: Tensor, slots: Slots) -> Tensor:
    """Gather the tokens of a pack into the padded batch: ``_CHQE``."""
    _, heads, tokens, width = states_1HTE.shape
    states_TF = states_1HTE.transpose(1, 2).reshape(tokens, heads * width)
    batch_XF: Tensor = _Pad.apply(states_TF, slots.token_CQ, slots.slot_N, slots.shared)  # type: ignore[no-untyped-call]
    return batch_XF.view(*slots.token_CQ.shape, heads, width).transpose(1, 2)


class _Pad(torch.autograd.Function):
    """Gather rows into the padded batch. Its backward pass gathers too, which is faster than a scatter with sums."""

    @staticmethod
    def forward(ctx: Any, states_TF: Tensor, token_CQ: Tensor, slot_N: Tensor, shared: int) -> Tensor:
        ctx.shape, ctx.shared = token_CQ.shape, shared
        ctx.save_for_backward(slot_N)
        return states_TF.index_select(0, token_CQ.flatten())

    @staticmethod
    def backward(ctx: Any, gradient_XF: Tensor) -> tuple[Tensor, None, None, None]:
        (slot_N,) = ctx.saved_tensors
        own_NF = gradient_XF.index_select(0, slot_N)
        if ctx.shared:
            rows_CQF = gradient_XF.view(*ctx.shape, -1)
            own_NF[: ctx.shared] = rows_CQF[:, : ctx.shared].sum(dim=0, dtype=torch.float32)
        return own_NF, None, None, None


class _Unpad(torch.autograd.Function):
    """Gather rows out of the padded batch, no row twice, so that the backward pass scatters without sums."""

    @staticmethod
    def forward(ctx: Any, batch_XF: Tensor, slot_N: Tensor) -> Tensor:
        ctx.rows = len(batch_XF)
        ctx.save_for_backward(slot_N)
        return batch_XF.index_select(0, slot_N)

    @staticmethod
    def backward(ctx: Any, gradient_NF: Tensor) -> tuple[Tensor, None]:
        (slot_N,) = ctx.saved_tensors
        batch_XF = gradient_NF.new_zeros(ctx.rows, gradient_NF.shape[1])
        return batch_XF.index_copy_(0, slot_N, gradient_NF), None
