"""Attention over all prompts of a pack in one kernel: PyTorch's variable-length flash attention, on a GPU.

Elsewhere, attention is one call per run (``attention.py``): on a CPU, and where the kernel lacks what a model needs
(float32, soft-caps, prompts longer than a sliding window). A GPU would spend most of the time of such small calls on
launching kernels.

Shapes: H heads, T tokens of the pack, Q queries of all prompts, K keys of all prompts, N prompts, E width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from echoembed.engine.pack import Layout

LEAST_CAPABILITY = (8, 0)
WIDEST_HEAD = 256
_ARGUMENTS = {"scale", "window_size"}
_SHARED_HEADS = "enable_gqa"
"""The argument that lets query heads share keys and values; PyTorch 2.11 does not have it yet."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each prompt's queries and keys lie.

    Attributes:
        keys: The tokens of the pack that are keys, prompt by prompt, ``_K``; None where these are all tokens in order.
        query_bounds: Where each prompt's queries begin, and where the last prompt's end, ``_N+1``, int32.
        key_bounds: The same for keys.
        most_queries: The most queries of a prompt.
        most_keys: The most keys of a prompt.
    """

    keys: Tensor | None
    query_bounds: Tensor
    key_bounds: Tensor
    most_queries: int
    most_keys: int


@cache
def kernel() -> Callable[..., Any] | None:
    """Return PyTorch's variable-length flash attention; None where PyTorch has none, or one with fewer arguments."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    kernel: Callable[..., Any] = varlen_attn
    return kernel if inspect.signature(kernel).parameters.keys() >= _ARGUMENTS else None


def supported(query: Tensor) -> bool:
    """Return whether the kernel runs on these queries' device and dtype."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(query.device) >= LEAST_CAPABILITY
        and kernel() is not None
    )


def fits(query: Tensor, value: Tensor, layout: Layout, *, window: int | None, softcap: float | None) -> bool:
    """Return whether the kernel does what a layer needs.

    Args:
        query: ``_1HQE``.
        value: ``_1HTE``.
        layout: The pack.
        window: The most tokens that a query attends to, itself included; None for all.
        softcap: The layer's soft-cap on scores; None for none.
    """
    width = query.shape[-1]
    if softcap is not None or width != value.shape[-1] or width % 8 or width > WIDEST_HEAD or not supported(query):
        return False
    return window is None or all(run.prefix + run.length <= window for run in layout.runs)


def packing(layout: Layout, causal: bool, pooled: bool, device: torch.device) -> Packing:
    """Compute where queries and keys lie, for all tokens as queries or (``pooled``) for pooled tokens only."""
    keys: list[int] = []
    query_counts: list[int] = []
    key_counts: list[int] = []
    for run in layout.runs:
        queries, end = (run.pooled, run.span[1]) if pooled else (run.length, run.prefix + run.length)
        if not queries:
            continue
        # The kernel's causal mask aligns the last query with the last key, so that keys after it are left out.
        key_count = end if causal else run.prefix + run.length
        for number in range(run.count):
            start = run.start + number * run.length
            keys.extend(range(run.prefix))
            keys.extend(range(start, start + key_count - run.prefix))
        query_counts += [queries] * run.count
        key_counts += [key_count] * run.count
    in_order = keys == list(range(len(layout.ids)))
    return Packing(
        keys=None if in_order else torch.tensor(keys, device=device),
        query_bounds=_bounds(query_counts, device),
        key_bounds=_bounds(key_counts, device),
        most_queries=max(query_counts),
        most_keys=max(key_counts),
    )


def _bounds(counts: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)


def attend(
    query_HQE: Tensor, key_HTE: Tensor, value_HTE: Tensor, bounds: Packing, causal: bool, scale: float
) -> Tensor:
    """Compute attention inside each prompt, ``_QHE``. Keys and values may have fewer heads than queries."""
    flash_attention = kernel()
    assert flash_attention is not None  # ``supported`` has checked
    groups = query_HQE.shape[0] // key_HTE.shape[0]
    key_KHE, value_KHE = (
        states.transpose(0, 1) if bounds.keys is None else states.index_select(1, bounds.keys).transpose(0, 1)
        for states in (key_HTE, value_HTE)
    )
    sharing: dict[str, bool] = {}
    if _shares_heads(flash_attention):
        sharing = {_SHARED_HEADS: groups > 1}
    elif groups > 1:
        key_KHE, value_KHE = (states.repeat_interleave(groups, dim=1) for states in (key_KHE, value_KHE))
    out_QHE: Tensor = flash_attention(
        query_HQE.transpose(0, 1).contiguous(),
        key_KHE.contiguous(),
        value_KHE.contiguous(),
        bounds.query_bounds,
        bounds.key_bounds,
        bounds.most_queries,
        bounds.most_keys,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        **sharing,
    )
    return out_QHE


@cache
def _shares_heads(kernel: Callable[..., Any]) -> bool:
    return _SHARED_HEADS in inspect.signature(kernel).parameters
