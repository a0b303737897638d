"""Attention with gradients over a pack: its texts as the rows of one padded table, in one call of PyTorch's attention.

Projections, norms and feed-forwards, where the time goes, run on the pack without padding; attention alone is padded,
which costs little on short texts and spares one call (and one piece of the backward pass) for each shape of text.

Tokens that all texts begin with are computed once a pack and stand in every row; their gradient is the sum over rows.

Shapes: H heads, T tokens of the pack, C texts, L tokens of the longest, Q query tokens of a row (L, or fewer where
pooled tokens alone are queries), N query tokens of the pack, E width of a head, F = H × E.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.engine.pack import Layout

_SHORT = 256  # tokens of the longest text up to which scores are kept rather than computed again


@dataclass(frozen=True, slots=True)
class GridPlaces:
    """Where the tokens of a pack stand in the table.

    Attributes:
        token_CQ: Which token stands in each place; padding repeats the first token of the pack.
        place_N: The place of each token, counted row by row.
        shared: Tokens at the beginning that stand in every row.
    """

    token_CQ: Tensor
    place_N: Tensor
    shared: int


class Grid:
    """The table of a pack.

    Args:
        layout: The pack.
        device: Where its tensors are to be.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.device = device
        self.masks: dict[tuple[int, bool], Tensor] = {}

    @cached_property
    def all(self) -> GridPlaces:
        """Every token as a query or a key."""
        runs = [run for run in self.layout.runs if run.pooled]
        prefix = runs[0].prefix
        longest = prefix + max(run.length for run in runs)
        rows, places, row = [], [torch.arange(prefix)], 0
        for run in runs:
            own = torch.arange(run.start, run.start + run.count * run.length).view(run.count, run.length)
            padding = own.new_zeros(run.count, longest - prefix - run.length)
            rows.append(torch.cat([torch.arange(prefix).expand(run.count, -1), own, padding], dim=1))
            first = longest * torch.arange(row, row + run.count)[:, None] + prefix
            places.append((first + torch.arange(run.length)).flatten())
            row += run.count
        return GridPlaces(torch.cat(rows).to(self.device), torch.cat(places).to(self.device), prefix)

    @cached_property
    def pooled(self) -> GridPlaces:
        """The pooled tokens as queries, numbered as ``Layout.pooled`` has them."""
        runs = [run for run in self.layout.runs if run.pooled]
        longest = max(run.pooled for run in runs)
        rows, places, row = [], [], 0
        for run in runs:
            own = torch.arange(run.pooled_start, run.pooled_start + run.count * run.pooled).view(run.count, run.pooled)
            rows.append(torch.cat([own, own.new_zeros(run.count, longest - run.pooled)], dim=1))
            first = longest * torch.arange(row, row + run.count)[:, None]
            places.append((first + torch.arange(run.pooled)).flatten())
            row += run.count
        return GridPlaces(torch.cat(rows).to(self.device), torch.cat(places).to(self.device), 0)

    def allowed(self, rule: Any, causal: bool, pooled: bool) -> Tensor:
        """Which keys each query may see, ``_C1QL``; a query that is padding may see something, or its row were NaN."""
        runs = [run for run in self.layout.runs if run.pooled]
        longest = self.all.token_CQ.shape[1]
        key_L = torch.arange(longest, device=self.device)
        window = rule.window is not None and any(run.prefix + run.length > rule.window for run in runs)
        rows = []
        for run in runs:
            total = run.prefix + run.length
            first, count = (run.span[0], self.pooled.token_CQ.shape[1]) if pooled else (0, longest)
            query_Q = (first + torch.arange(count, device=self.device)).clamp(max=total - 1)
            seen_QL = key_L[None] < total
            if window:
                seen_QL = seen_QL & rule.allowed(query_Q, key_L)
            elif causal:
                seen_QL = seen_QL & (key_L[None] <= query_Q[:, None])
            rows.append(seen_QL.expand(count, longest)[None, None].expand(run.count, -1, -1, -1))
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
        """Attention of ``query`` (``_1HNE``) over ``key`` and ``value`` (``_1HTE``), as ``_1NHE``.

        Args:
            query: Of all tokens, or of the pooled ones.
            key: Of all tokens; its heads may be fewer, each for several of the query.
            value: Of all tokens.
            number: Of the mask's rule.
            rule: What a layer's tokens may see (``attention.Rule``).
            causal: Whether tokens see only what is before them.
            pooled: Whether the pooled tokens alone are queries.
            scale: What scores are multiplied by.
            softcap: What scores are bent below, if anything.
            dropout: Probability with which an attention weight is dropped.
        """
        places = self.pooled if pooled else self.all
        query_CHQE, key_CHLE, value_CHLE = (
            _spread(states, where) for states, where in ((query, places), (key, self.all), (value, self.all))
        )
        # 1. Where tokens see what is before them and nothing else is asked, padding comes after all that is seen.
        longest = self.all.token_CQ.shape[1]
        window = rule.window is not None and rule.window < longest
        plain = causal and not pooled and not window
        if not plain and (number, pooled) not in self.masks:
            self.masks[number, pooled] = self.allowed(rule, causal, pooled)
        mask_C1QL = None if plain else self.masks[number, pooled]
        # 2. One call for all texts: of short ones the scores are small, and written out is faster.
        if softcap is not None or longest <= _SHORT:
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
        # 3. Back into the order of the pack.
        out_XF = out_CHQE.transpose(1, 2).reshape(-1, query.shape[1] * value.shape[-1])
        collected: Tensor = _Collect.apply(out_XF, places.place_N)  # type: ignore[no-untyped-call]
        return collected.view(1, -1, query.shape[1], value.shape[-1])


def _written_out(
    query_CHQE: Tensor,
    key_CGLE: Tensor,
    value_CGLE: Tensor,
    mask_C1QL: Tensor,
    scale: float,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """Attention as the formula has it; the heads of a group are further queries of its one key head (G)."""
    texts, heads, queries, width = query_CHQE.shape
    groups = heads // key_CGLE.shape[1]
    query_CGQE = query_CHQE.reshape(texts, heads // groups, groups * queries, width)
    score_CGQL = (query_CGQE * scale) @ key_CGLE.transpose(2, 3)
    if softcap is not None:
        score_CGQL = torch.tanh(score_CGQL / softcap) * softcap
    score_CHQL = score_CGQL.view(texts, heads, queries, -1)
    hidden_C1QL = torch.zeros(mask_C1QL.shape, dtype=score_CHQL.dtype, device=mask_C1QL.device)
    weight_CHQL = (score_CHQL + hidden_C1QL.masked_fill_(~mask_C1QL, -torch.inf)).softmax(dim=-1)
    if dropout:
        weight_CHQL = nn.functional.dropout(weight_CHQL, dropout)
    out_CGQE = weight_CHQL.view(score_CGQL.shape) @ value_CGLE
    return out_CGQE.view(texts, heads, queries, -1)


def _spread(states_1HTE: Tensor, places: GridPlaces) -> Tensor:
    """Put tokens in their places of the table: ``_CHQE``."""
    _, heads, tokens, width = states_1HTE.shape
    states_TF = states_1HTE.transpose(1, 2).reshape(tokens, heads * width)
    table_XF: Tensor = _Spread.apply(states_TF, places.token_CQ, places.place_N, places.shared)  # type: ignore[no-untyped-call]
    return table_XF.view(*places.token_CQ.shape, heads, width).transpose(1, 2)


class _Spread(torch.autograd.Function):
    """Rows by their numbers. The gradient is gathered too, which is faster than adding up what was scattered."""

    @staticmethod
    def forward(ctx: Any, states_TF: Tensor, token_CQ: Tensor, place_N: Tensor, shared: int) -> Tensor:
        ctx.shape, ctx.shared = token_CQ.shape, shared
        ctx.save_for_backward(place_N)
        return states_TF.index_select(0, token_CQ.flatten())

    @staticmethod
    def backward(ctx: Any, gradient_XF: Tensor) -> tuple[Tensor, None, None, None]:
        (place_N,) = ctx.saved_tensors
        own_NF = gradient_XF.index_select(0, place_N)
        if ctx.shared:
            rows_CQF = gradient_XF.view(*ctx.shape, -1)
            own_NF[: ctx.shared] = rows_CQF[:, : ctx.shared].sum(dim=0, dtype=torch.float32)
        return own_NF, None, None, None


class _Collect(torch.autograd.Function):
    """The rows at some places, none of them twice."""

    @staticmethod
    def forward(ctx: Any, table_XF: Tensor, place_N: Tensor) -> Tensor:
        ctx.rows = len(table_XF)
        ctx.save_for_backward(place_N)
        return table_XF.index_select(0, place_N)

    @staticmethod
    def backward(ctx: Any, gradient_NF: Tensor) -> tuple[Tensor, None]:
        (place_N,) = ctx.saved_tensors
        table_XF = gradient_NF.new_zeros(ctx.rows, gradient_NF.shape[1])
        return table_XF.index_copy_(0, place_N, gradient_NF), None
