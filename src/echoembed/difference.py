"""How far two computations of the same states are apart. Shapes: N states of width D."""

from __future__ import annotations

from torch import Tensor


def relative_difference(one: Tensor, other: Tensor) -> float:
    """Largest difference in a dimension, relative to that dimension's largest state; of all dimensions the median.

    Language models have dimensions thousands of times larger than the rest, which would hide a change of the others.

    Args:
        one: States, ``_ND`` or with more dimensions in front.
        other: The states it should equal, of the same shape.

    Returns:
        0 where they are equal; NaN where a state is not a number.
    """
    one_ND, other_ND = (states.detach().float().flatten(0, -2) for states in (one, other))
    scale_D = other_ND.abs().amax(dim=0).clamp_min(1e-30)
    return float(((one_ND - other_ND).abs().amax(dim=0) / scale_D).median())
