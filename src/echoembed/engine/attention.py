"""Attention inside each prompt of a pack, registered with transformers.

The model's own code calls this attention with the queries, keys and values of the whole pack. Projections, rotary
positions, norms, the soft-cap and the choice between full and sliding-window layers stay the model's. Which key tokens
a query token attends to follows from the mask function that the model hands to transformers. That function is evaluated
at positions in the prompt, not in the pack, so that it means the same as without packing.

Shapes: H heads, T tokens of the pack, C prompts of a run, Q queries and K keys of each, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from echoembed.engine import varlen
from echoembed.engine.pack import Layout, Run
from echoembed.engine.padded_batch import PaddedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "echoembed_packed"
_GRID = 24  # positions at which a full layer's mask function is checked to be causal or bidirectional


class UnsupportedError(Exception):
    """The model's attention is of a kind that packing does not support. Caught at load; users never see it."""


class KeysAndValues(NamedTuple):
    """A layer's keys and values for all tokens of a pack: ``_1HTE``."""

    key: Tensor
    value: Tensor


class Captured(Exception):  # noqa: N818
    """Carries the keys and values of a layer out of the model's code; not an error.

    Do not keep this exception after it is caught: its traceback holds the frames it passed through, and these frames
    hold the states of the pack.
    """

    def __init__(self, states: KeysAndValues) -> None:
        self.states = states


@dataclass(frozen=True, slots=True)
class Rule:
    """A layer's mask: transformers' mask function, and the size of its sliding window if it has one."""

    function: Callable[[Any, Any, Any, Any], Any]
    window: int | None

    def allowed(self, query_Q: Tensor, key_K: Tensor) -> Tensor:
        """Return whether the query token at each position attends to the key token at each position, ``_QK``."""
        zero = torch.zeros((), dtype=torch.long, device=key_K.device)  # index of row and head: all have the same mask
        allowed: Tensor = self.function(zero, zero, query_Q[:, None], key_K[None, :])
        return allowed.expand(len(query_Q), len(key_K))


@dataclass(slots=True)
class Pass:
    """One forward of the model over a pack.

    Attributes:
        layout: The pack.
        causal: Whether attention is causal; if not, it is bidirectional.
        verify: Whether to check the model's mask functions against ``causal``.
        mode: ``all``: every token is a query. ``capture``: attention is not computed, and raises ``Captured`` with the
            keys and values. ``pooled``: only pooled tokens are queries; keys and values are the captured ones.
        captured: The keys and values of the last layer, between ``capture`` and ``pooled``.
        called: Whether the model has called the attention.
        padded: With gradients: the padded batch of the pack's prompts, on which attention runs; None without.
        rules: The masks that the model has made, in order; a layer's ``attention_mask`` is an index into them.
        masks: Additive masks that are already made, by rule, run and mode.
        packings: Bounds for the GPU kernel that are already made, by mode.
    """

    layout: Layout
    causal: bool
    verify: bool = False
    mode: Literal["all", "capture", "pooled"] = "all"
    captured: KeysAndValues | None = None
    called: bool = False
    padded: PaddedBatch | None = None
    rules: list[Rule] = field(default_factory=list)
    masks: dict[tuple[int, Run, str], Tensor] = field(default_factory=dict)
    packings: dict[str, varlen.Packing] = field(default_factory=dict)


ACTIVE: ContextVar[Pass | None] = ContextVar("active_pass", default=None)


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Let the model use this module's attention inside a ``with`` block."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def mask(mask_function: Callable[..., Any], device: torch.device, **kwargs: Any) -> Tensor | None:
    """Stand in for transformers' mask: record the rule, and return its index in the shape of a mask."""
    active = ACTIVE.get()
    if active is None:  # another thread's ordinary forward
        from transformers.masking_utils import sdpa_mask

        plain: Tensor | None = sdpa_mask(mask_function=mask_function, device=device, **kwargs)
        return plain
    if kwargs.get("use_vmap"):
        raise UnsupportedError("its mask depends on more than positions")
    rule = Rule(mask_function, kwargs.get("local_size"))
    if active.verify:
        _verify(rule, active.causal)
    active.rules.append(rule)
    return torch.full((1, 1, 1, 1), len(active.rules) - 1)


def _verify(rule: Rule, causal: bool) -> None:
    position = torch.arange(_GRID if rule.window is None else min(_GRID, rule.window))
    full = torch.ones(len(position), len(position), dtype=torch.bool)
    if not torch.equal(rule.allowed(position, position), full.tril() if causal else full):
        raise UnsupportedError("its mask is neither causal nor bidirectional")


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stand in for transformers' attention: ``query``, ``key`` and ``value`` are ``_1HTE``, the result ``_1THE``."""
    active = ACTIVE.get()
    if active is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, softcap=softcap, **kwargs
        )
        return plain
    # 1. Refuse what packing does not support. The proof at load meets it, so users never see this error.
    active.called = True
    if attention_mask is None or attention_mask.numel() != 1:
        raise UnsupportedError("it makes its masks itself")
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise UnsupportedError("its attention has sinks or biases of its own")
    # 2. In the last layer, which is called twice: hand out keys and values, then use those for the pooled queries.
    if active.mode == "capture":
        raise Captured(KeysAndValues(key, value))
    if active.mode == "pooled" and active.captured is not None:
        key, value = active.captured
    # 3. With gradients: a padded batch of all prompts. Without gradients, on a GPU: the whole pack in one kernel.
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    number = int(attention_mask)
    if active.padded is not None:
        out_1THE = active.padded.attend(
            query.float(),  # as gradients are sensitive to rounded scores
            key.float(),
            value.float(),
            number=number,
            rule=active.rules[number],
            causal=active.causal,
            pooled=active.mode == "pooled",
            scale=scale,
            softcap=softcap,
            dropout=float(kwargs.get("dropout") or 0.0),
        )
        return out_1THE.to(value.dtype), None
    window = active.rules[number].window
    if varlen.fits(query, value, active.layout, window=window, softcap=softcap):
        if active.mode not in active.packings:
            pooled = active.mode == "pooled"
            active.packings[active.mode] = varlen.packing(active.layout, active.causal, pooled, query.device)
        packing = active.packings[active.mode]
        return varlen.attend(query[0], key[0], value[0], packing, active.causal, scale)[None], None
    # 4. Elsewhere: one call per run, as all prompts of a run have the same length and span.
    out_THE = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    for run in active.layout.runs:
        queries = _queries(run, active.mode)
        if not queries.count:
            continue
        key_CHKE, value_CHKE = (_keys(states[0], run, queries.keys(active.causal)) for states in (key, value))
        place = slice(queries.start, queries.start + run.count * queries.count)
        query_CHQE = torch.unflatten(query[0, :, place], 1, (run.count, queries.count)).transpose(0, 1)
        mask_QK, is_causal, lead = _mask(active, number, run, queries, query)
        if lead:
            query_CHQE = nn.functional.pad(query_CHQE, (0, 0, lead, 0))
        if softcap is None:
            out_CHQE = nn.functional.scaled_dot_product_attention(
                query_CHQE,
                key_CHKE,
                value_CHKE,
                attn_mask=mask_QK,
                is_causal=is_causal,
                scale=scale,
                enable_gqa=groups > 1,  # heads that share keys and values read them without a copy
            )
        else:
            if groups > 1:
                key_CHKE, value_CHKE = (states.repeat_interleave(groups, dim=1) for states in (key_CHKE, value_CHKE))
            out_CHQE = _soft_capped(query_CHQE, key_CHKE, value_CHKE, mask_QK, is_causal, scale, softcap)
        rows_CQHE = torch.unflatten(out_THE[place], 0, (run.count, queries.count))
        rows_CQHE.copy_(out_CHQE[:, :, lead:].transpose(1, 2))
    return out_THE[None], None


@dataclass(frozen=True, slots=True)
class _Queries:
    """The query tokens of a run.

    Attributes:
        start: Where the first prompt's queries begin among the queries of the pack.
        count: Queries of each prompt.
        position: Position in the prompt of its first query.
        total: Tokens of each prompt, the shared prefix included.
    """

    start: int
    count: int
    position: int
    total: int

    def keys(self, causal: bool) -> int:
        """Return how many of a prompt's first tokens its queries can attend to at most."""
        return self.position + self.count if causal else self.total


def _queries(run: Run, mode: str) -> _Queries:
    total = run.prefix + run.length
    if mode == "pooled":
        return _Queries(run.pooled_start, run.pooled, run.span[0], total)
    return _Queries(run.start, run.length, run.prefix, total)


def _keys(states_HTE: Tensor, run: Run, count: int) -> Tensor:
    """Keys or values of the first ``count`` tokens of each prompt of a run, its prefix included; ``_CHKE``."""
    own_HTE = states_HTE[:, run.start : run.start + run.count * run.length]
    own_HCKE = torch.unflatten(own_HTE, 1, (run.count, run.length))
    own_CHKE: Tensor = own_HCKE[:, :, : count - run.prefix].transpose(0, 1)
    if run.prefix:
        prefix_CHKE = states_HTE[None, :, : run.prefix].expand(run.count, -1, -1, -1)
        own_CHKE = torch.cat([prefix_CHKE, own_CHKE], dim=2)
    return own_CHKE


def _mask(active: Pass, number: int, run: Run, queries: _Queries, like: Tensor) -> tuple[Tensor | None, bool, int]:
    """Choose how a run's queries are masked.

    Returns:
        The additive mask, or None; whether to use the kernel's own causal mask instead; and how many empty queries to
        put in front for the kernel's mask. Empty queries for the shared prefix alone cost less than an additive mask.
    """
    rule = active.rules[number]
    count = queries.keys(active.causal)
    windowed = rule.window is not None and queries.total > rule.window
    if not windowed:
        if not active.causal or queries.count == 1:  # a single query is the last key, and attends to all
            return None, False, 0
        if queries.position <= run.prefix:
            return None, True, queries.position
    mask_key = (number if windowed else -1, run, active.mode)
    if mask_key not in active.masks:
        query_Q = torch.arange(queries.position, queries.position + queries.count, device=like.device)
        key_K = torch.arange(count, device=like.device)
        allowed_QK = rule.allowed(query_Q, key_K) if windowed else key_K <= query_Q[:, None]
        zero_QK = torch.zeros(allowed_QK.shape, dtype=like.dtype, device=like.device)
        active.masks[mask_key] = zero_QK.masked_fill_(~allowed_QK, -torch.inf)
    return active.masks[mask_key], False, 0


def _soft_capped(
    query_CHQE: Tensor,
    key_CHKE: Tensor,
    value_CHKE: Tensor,
    mask_QK: Tensor | None,
    is_causal: bool,
    scale: float,
    softcap: float,
) -> Tensor:
    """Attention whose scores are soft-capped, as in Gemma 2; no fused kernel does this on a CPU."""
    score_CHQK = query_CHQE @ key_CHKE.transpose(2, 3) * scale
    score_CHQK = torch.tanh(score_CHQK / softcap) * softcap
    if is_causal:
        later_QK = torch.ones(score_CHQK.shape[2:], dtype=torch.bool, device=score_CHQK.device).triu(1)
        score_CHQK = score_CHQK.masked_fill(later_QK, -torch.inf)
    elif mask_QK is not None:
        score_CHQK = score_CHQK + mask_QK
    return score_CHQK.float().softmax(dim=-1).to(value_CHKE.dtype) @ value_CHKE


def register() -> None:
    """Register the attention and its mask with transformers; a second call changes nothing."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, mask)
