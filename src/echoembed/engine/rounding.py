"""Products in eight bits: what the processor does in one pass, and how states become codes.

Activations have one scale for each row (token), found as they come, so that a row's codes depend on nothing but that
row. In a few rows one number is so large that its scale leaves the rest few levels: language models put massive
activations at the first tokens of a prompt, and gated layers give such rows anywhere. These *peaked* rows get twice
eight bits: what their codes leave over is coded again, in steps 254 times as fine, and goes through the same product
as one more row. So no weight is held twice, and every route that a prompt can take rounds alike.

Shapes: R rows (tokens), P peaked rows, S = R + P and what fills it up, K inputs, N outputs, J inputs that stand out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

CHUNK = 256
"""Rows of a product at a time: what is in between stays in the processor's cache."""
STEP = 32
"""Products have a multiple of so many rows: oneDNN prepares each new number of rows, which can cost as much as the
product, and how many rows are peaked differs from layer to layer."""
LEVELS = 127
"""The largest code."""
_OFFSET = 128
"""What is added to a code to make it unsigned."""
PEAKED = 12.0
"""A row is peaked if its largest number is above this many times its root mean square: about one row in ten."""


@cache
def fused() -> bool:
    """Whether products and scales of weights are one pass here: with VNNI, if a probe of extremes comes out exact."""
    if not (torch.cpu._is_vnni_supported() and torch._C._has_mkldnn):
        return False
    signs_NK = torch.where(torch.arange(32 * 64).view(32, 64) % 3 == 0, -LEVELS, LEVELS).to(torch.int8)
    codes_RK = torch.stack([torch.zeros(64), torch.full((64,), 255.0), torch.arange(64.0) * 4]).to(torch.uint8)
    wanted_RN = (codes_RK.double() - _OFFSET) @ signs_NK.double().t()
    try:
        with torch.no_grad():
            found_RN = product(codes_RK, pack(signs_NK), torch.ones(32))
    except (AttributeError, RuntimeError):  # another PyTorch, without the operation
        return False
    return torch.equal(found_RN.double(), wanted_RN)


def pack(weight_NK: Tensor) -> Tensor:
    """A matrix of codes as the one-pass product wants it."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_NK.contiguous(), [CHUNK, weight_NK.shape[1]])
    return packed


def product(codes_RK: Tensor, packed: Tensor, scale_N: Tensor) -> Tensor:
    """Unsigned codes times packed weights times the weights' scales, ``_RN`` in float32."""
    zero_N = torch.zeros(len(scale_N), dtype=torch.int32)
    out_RN: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes_RK, 1.0, _OFFSET, packed, scale_N, zero_N, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return out_RN


@dataclass(frozen=True, slots=True)
class Codes:
    """States in eight bits, those of peaked rows in twice eight.

    Attributes:
        codes: ``_SK``: R rows, what the first code of each peaked row leaves over, in finer steps, and rows of zeros.
        scale: Size of a step in each of them, ``_S1``.
        peaked: Numbers of the peaked rows, ``_P``.
    """

    codes: Tensor
    scale: Tensor
    peaked: Tensor


class Rounded:
    """The states that were rounded last, and what became of them. Copies and pickles of a model begin with none."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int | None, Tensor, Codes] | None = None

    def __call__(self, states: Tensor, rows_RK: Tensor, outlier_J: Tensor) -> Codes:
        """Codes of ``rows_RK``, which is ``states`` as a matrix, with the columns that stand out as zeros.

        Computed again unless the states and the columns are the same.
        """
        last = self._last  # read once: another thread may put its own there
        written = None if states.is_inference() else states._version  # how often it was changed in place
        if last is None or last[0] is not states or last[1] != written or not torch.equal(last[2], outlier_J):
            even_RK = rows_RK.index_fill(1, outlier_J, 0) if len(outlier_J) else rows_RK
            last = self._last = (states, written, outlier_J, _round(even_RK))
        return last[3]

    def forget(self) -> None:
        """Let the states go."""
        self._last = None

    def __reduce__(self) -> tuple[type[Rounded], tuple[()]]:
        return Rounded, ()


def _round(rows_RK: Tensor) -> Codes:
    # 1. A step for each row: its largest number has the last code.
    # Two reductions: aminmax, which would be one, is not vectorised along a row and takes ten times as long.
    largest_R1 = torch.maximum(rows_RK.amax(dim=1, keepdim=True), rows_RK.amin(dim=1, keepdim=True).neg_())
    largest_R1 = largest_R1.float()
    scale_R1 = largest_R1.clamp_min(1e-30).mul_(1 / LEVELS)
    # 2. Rows whose largest number is many times their mean size. Each row decides for itself, in whatever company.
    size_R1 = torch.linalg.vector_norm(rows_RK, dim=1, keepdim=True, dtype=torch.float32)
    peaked_P = torch.nonzero(largest_R1[:, 0] > size_R1[:, 0] * (PEAKED * rows_RK.shape[1] ** -0.5))[:, 0]
    # 3. Codes of all rows, and of what they leave over of the peaked ones.
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
        here = slice(start, min(start + CHUNK, rows))
        levels_RK = torch.div(rows_RK[here], scale_R1[here]).round_()
        codes_SK[here] = levels_RK.add_(_OFFSET) if unsigned else levels_RK
    if len(peaked_P):
        peaked_PK, step_P1 = rows_RK.index_select(0, peaked_P).float(), scale_R1.index_select(0, peaked_P)
        left_PK = peaked_PK.div_(step_P1)
        left_PK = left_PK.sub_(left_PK.round()).mul_(2 * LEVELS).round_()
        codes_SK[rows:used] = left_PK.add_(_OFFSET) if unsigned else left_PK
        scale_S1[rows:used] = step_P1 / (2 * LEVELS)
    return Codes(codes_SK, scale_S1, peaked_P)
