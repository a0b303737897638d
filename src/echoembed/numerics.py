"""How far two computations of the same states are apart, and how far they may be. Shapes: N states of width D."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 5e-3}
"""Largest relative difference that counts as rounding, by dtype: sums in another order, nothing more."""
VISIBLE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Smallest relative difference that shows that an edited token was seen, by dtype.

It lies well above rounding, as a mixture of experts sums in another order when a late token takes another expert
(5e-7 in float32); an edit that is seen moves the states by 1e-2 and more.
"""

LEAST_COSINE = {"bfloat16": 0.9998, "int8": 0.999}
"""Least cosine of a text's vector to float32's with which ``dtype="auto"`` takes a dtype."""


def relative_difference(states: Tensor, other: Tensor) -> float:
    """Largest difference in a dimension, relative to that dimension's largest state; of all dimensions the median.

    Language models have dimensions thousands of times larger than the rest, which would hide a change of the others.

    Args:
        states: States, ``_ND`` or with more dimensions in front.
        other: The states they should equal, of the same shape.

    Returns:
        0 where they are equal; NaN where a state is not a number.
    """
    states_ND, other_ND = (given.detach().float().flatten(0, -2) for given in (states, other))
    scale_D = other_ND.abs().amax(dim=0).clamp_min(1e-30)
    return float(((states_ND - other_ND).abs().amax(dim=0) / scale_D).median())
