"""How far two computations of the same states differ, and how far they may. Shapes: N states of width D."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 5e-3}
"""The largest relative difference, by dtype, that counts as rounding: sums in another order, nothing more."""
VISIBLE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""The smallest relative difference, by dtype, which shows that a query token attends to an edited token.

It lies well above rounding: a mixture of experts sums in another order when a late token takes another expert, which
moves the states by 5e-7 in float32. An edit that is attended to moves them by 1e-2 and more.
"""

LEAST_COSINE = {"bfloat16": 0.9998, "int8": 0.999}
"""The least cosine of a text's vector to its float32 vector with which ``dtype="auto"`` takes a dtype."""


def relative_difference(states: Tensor, other: Tensor) -> float:
    """Return the median, over dimensions, of the largest difference relative to the dimension's largest state.

    Language models have dimensions thousands of times larger than the rest, which would hide a change in the others.

    Args:
        states: States, ``_ND`` or with more dimensions in front.
        other: The states that ``states`` should equal, of the same shape.

    Returns:
        0 where both are equal; NaN where a state is not a number.
    """
    states_ND, other_ND = (tensor.detach().float().flatten(0, -2) for tensor in (states, other))
    scale_D = other_ND.abs().amax(dim=0).clamp_min(1e-30)
    return float(((states_ND - other_ND).abs().amax(dim=0) / scale_D).median())
