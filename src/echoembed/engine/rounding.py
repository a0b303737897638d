"""Products in 8 bits: how states become codes, and the product of codes and weights in one pass.

Activations have one scale per row (token), computed during the forward, so that a row's codes depend on that row alone.
In a few rows one number is so large that its scale leaves the rest few levels: language models have massive activations
at the first tokens of a prompt, and gated layers give such rows anywhere. These *peaked* rows get 16 bits: the
remainder that their codes leave is coded again, in steps 254 times as fine, and goes through the same product as one
more row. So no weight is stored twice, and a prompt is rounded in the same way on every route through the engine.

Shapes: R rows (tokens), P peaked rows, S = R + P and rows that fill up, K inputs, N outputs, J outlier columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

CHUNK = 256
"""Rows that are multiplied at a time, so that intermediate results stay in the processor's cache."""
STEP = 32
"""The number of rows of a product is rounded up to a multiple of this. oneDNN prepares a kernel for each new number of
rows, which can cost as much as the product, and the number of peaked rows differs from layer to layer."""
LEVELS = 127
"""The largest code."""
_OFFSET = 128
"""Added to a code to make it unsigned."""
PEAKED = 12.0
"""A row is peaked if its largest number is above this many times its root mean square; about one row in ten is."""


@cache
def fused() -> bool:
    """Return whether one pass multiplies and scales here: with VNNI, if a product of extreme codes comes out exact."""
    if not (torch.cpu._is_vnni_supported() and torch._C._has_mkldnn):
        return False
    signs_NK = torch.where(torch.arange(32 * 64).view(32, 64) % 3 == 0, -LEVELS, LEVELS).to(torch.int8)
    codes_RK = torch.stack([torch.zeros(64), torch.full((64,), 255.0), torch.arange(64.0) * 4]).to(torch.uint8)
    expected_RN = (codes_RK.double() - _OFFSET) @ signs_NK.double().t()
    try:
        with torch.no_grad():
            out_RN = product(codes_RK, pack(signs_NK), torch.ones(32))
    except (AttributeError, RuntimeError):  # another PyTorch, without the operation
        return False
    return torch.equal(out_RN.double(), expected_RN)


def pack(weight_NK: Tensor) -> Tensor:
    """Pack a matrix of codes for the one-pass product."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_NK.contiguous(), [CHUNK, weight_NK.shape[1]])
    return packed


def product(codes_RK: Tensor, packed: Tensor, scale_N: Tensor) -> Tensor:
    """Multiply unsigned codes, packed weights and the weights' scales; ``_RN`` in float32."""
    zero_N = torch.zeros(len(scale_N), dtype=torch.int32)
    out_RN: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes_RK, 1.0, _OFFSET, packed, scale_N, zero_N, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return out_RN


@dataclass(frozen=True, slots=True)
class Codes:
    """States as 8-bit codes; peaked rows have 16 bits.

    Attributes:
        codes: ``_SK``: R rows, then the remainder of each peaked row in finer steps, then rows of zeros.
        scale: The size of a step in each row, ``_S1``.
        peaked: Indices of the peaked rows, ``_P``.
        exact: The outlier columns, ``_RJ``, in float32.
    """

    codes: Tensor
    scale: Tensor
    peaked: Tensor
    exact: Tensor


class Rounded:
    """The states that were rounded last, and their codes. Copies and pickles of a model begin without any."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int | None, Tensor, Codes] | None = None

    def __call__(self, states: Tensor, rows_RK: Tensor, outlier_J: Tensor) -> Codes:
        """Return the codes of ``rows_RK``, which is ``states`` as a matrix, with outlier columns set to zero.

        The codes of the call before are returned again if the states and the outlier columns are the same.
        """
        last = self._last  # read only once: another thread may replace it
        written = None if states.is_inference() else states._version  # how often the tensor was changed in place
        if last is None or last[0] is not states or last[1] != written or not torch.equal(last[2], outlier_J):
            even_RK = rows_RK.index_fill(1, outlier_J, 0) if len(outlier_J) else rows_RK
            exact_RJ = rows_RK.index_select(1, outlier_J).float()
            last = self._last = (states, written, outlier_J, codes_of(even_RK, exact_RJ))
        return last[3]

    def forget(self) -> None:
        """Release the states."""
        self._last = None

    def __reduce__(self) -> tuple[type[Rounded], tuple[()]]:
        return Rounded, ()


def codes_of(rows_RK: Tensor, exact_RJ: Tensor) -> Codes:
    """Return the codes of each row in its own steps, and of what the codes of peaked rows leave over.

    Args:
        rows_RK: States, with outlier columns set to zero.
        exact_RJ: The outlier columns, handed on.
    """
    # 1. The size of a step in each row, so that the row's largest number gets the largest code.
    # Two reductions, as ``aminmax`` is not vectorised along a row and takes ten times as long.
    largest_R1 = torch.maximum(rows_RK.amax(dim=1, keepdim=True), rows_RK.amin(dim=1, keepdim=True).neg_())
    largest_R1 = largest_R1.float()
    scale_R1 = largest_R1.clamp_min(1e-30).mul_(1 / LEVELS)
    # 2. Peaked rows: the largest number is many times the row's root mean square. No other row matters.
    size_R1 = torch.linalg.vector_norm(rows_RK, dim=1, keepdim=True, dtype=torch.float32)
    peaked_P = torch.nonzero(largest_R1[:, 0] > size_R1[:, 0] * (PEAKED * rows_RK.shape[1] ** -0.5))[:, 0]
    # 3. The codes of all rows, and of the remainders of peaked rows.
    rows, used = len(rows_RK), len(rows_RK) + len(peaked_P)
    total = -(-used // STEP) * STEP
    unsigned = fused()
    codes_SK = torch.empty(
        total, rows_RK.shape[1], dtype=torch.uint8 if unsigned else torch.int8, device=rows_RK.device
    )
    codes_SK[used:] = _OFFSET if unsigned else 0
    scale_S1 = torch.zeros(total, 1, device=rows_RK.device)
    scale_S1[:rows] = scale_R1
    for start in range(0, rows, CHUNK):
        chunk = slice(start, min(start + CHUNK, rows))
        levels_RK = torch.div(rows_RK[chunk], scale_R1[chunk]).round_()
        codes_SK[chunk] = levels_RK.add_(_OFFSET) if unsigned else levels_RK
    if len(peaked_P):
        peaked_PK, step_P1 = rows_RK.index_select(0, peaked_P).float(), scale_R1.index_select(0, peaked_P)
        rest_PK = peaked_PK.div_(step_P1)
        rest_PK = rest_PK.sub_(rest_PK.round()).mul_(2 * LEVELS).round_()
        codes_SK[rows:used] = rest_PK.add_(_OFFSET) if unsigned else rest_PK
        scale_S1[rows:used] = step_P1 / (2 * LEVELS)
    return Codes(codes_SK, scale_S1, peaked_P, exact_RJ)
