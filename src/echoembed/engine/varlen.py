"""Attention over all texts of a pack in one kernel: PyTorch's flash attention for unequal lengths, on a GPU.

On a CPU, and where the kernel lacks what a model needs (float32, soft-caps, texts beyond a sliding window), attention
is one call per run of texts of one shape (``attention.py``), which a GPU would spend on starting kernels.

Shapes: H heads, T tokens of the pack, Q queries of all texts, K keys of all texts, N texts, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from echoembed.engine.pack import Layout

LEAST_CAPABILITY = (8, 0)
WIDEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each text's queries and keys lie.

    Attributes:
        keys: Which tokens of the pack are the keys, text by text, ``_K``; None where they are as they lie.
        query_bounds: Where each text's queries begin among all, and the end, ``_N+1``, int32.
        key_bounds: The same of keys.
        most_queries: Of one text.
        most_keys: Of one text.
    """

    keys: Tensor | None
    query_bounds: Tensor
    key_bounds: Tensor
    most_queries: int
    most_keys: int


def kernel() -> Callable[..., Any] | None:
    """PyTorch's flash attention for unequal lengths; None where this PyTorch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    kernel: Callable[..., Any] = varlen_attn
    return kernel


def supported(query: Tensor) -> bool:
    """Whether the kernel runs on these queries' device and type."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(query.device) >= LEAST_CAPABILITY
        and kernel() is not None
    )


def fits(query: Tensor, value: Tensor, layout: Layout, *, window: int | None, softcap: float | None) -> bool:
    """Whether the kernel does what a layer needs.

    Args:
        query: ``_1HQE``.
        value: ``_1HTE``.
        layout: The pack.
        window: Most tokens that one sees, itself included; None for all.
        softcap: Where scores are bent below a cap.
    """
    width = query.shape[-1]
    if softcap is not None or width != value.shape[-1] or width % 8 or width > WIDEST_HEAD or not supported(query):
        return False
    return window is None or all(run.prefix + run.length <= window for run in layout.runs)


def packing(layout: Layout, causal: bool, pooled: bool, device: torch.device) -> Packing:
    """Where queries and keys lie, if all tokens are queries or pooled ones only."""
    keys: list[int] = []
    query_counts: list[int] = []
    key_counts: list[int] = []
    for run in layout.runs:
        asking, last = (run.pooled, run.span[1]) if pooled else (run.length, run.prefix + run.length)
        if not asking:
            continue
        # The kernel's causal mask has the last query see the last key: keys after it are left out.
        count = last if causal else run.prefix + run.length
        for text in range(run.count):
            start = run.start + text * run.length
            keys.extend(range(run.prefix))
            keys.extend(range(start, start + count - run.prefix))
        query_counts += [asking] * run.count
        key_counts += [count] * run.count
    as_they_lie = keys == list(range(len(layout.ids)))
    return Packing(
        keys=None if as_they_lie else torch.tensor(keys, device=device),
        query_bounds=_bounds(query_counts, device),
        key_bounds=_bounds(key_counts, device),
        most_queries=max(query_counts),
        most_keys=max(key_counts),
    )


def _bounds(counts: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)


def attend(query_HQE: Tensor, key_HTE: Tensor, value_HTE: Tensor, where: Packing, causal: bool, scale: float) -> Tensor:
    """Attention inside each text; gives ``_QHE``. Keys and values may have fewer heads than queries."""
    run = kernel()
    assert run is not None  # ``supported`` has looked
    key_KHE, value_KHE = (
        states.transpose(0, 1) if where.keys is None else states.index_select(1, where.keys).transpose(0, 1)
        for states in (key_HTE, value_HTE)
    )
    out_QHE: Tensor = run(
        query_HQE.transpose(0, 1).contiguous(),
        key_KHE.contiguous(),
        value_KHE.contiguous(),
        where.query_bounds,
        where.key_bounds,
        where.most_queries,
        where.most_keys,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query_HQE.shape[0] != key_HTE.shape[0],
    )
    return out_QHE
