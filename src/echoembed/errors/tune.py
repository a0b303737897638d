"""Searches for a recipe that cannot be made."""

from __future__ import annotations

from echoembed.errors.base import DataError


def tune_too_few(what: str, count: int, least: int) -> DataError:
    """Too little to choose by.

    Args:
        what: What there is too little of.
        count: How many there are.
        least: How many are needed.
    """
    return DataError(f"Got {count} {what}. A search needs at least {least} to choose by. Add more.")


def tune_too_dear(cost: float, least: float) -> DataError:
    """A cost that no candidate is within.

    Args:
        cost: What may be spent, in units of a stock classical embedding.
        least: What the first layer costs under the cheapest prompt.
    """
    return DataError(
        f"Got a cost of {cost:g}, and the first layer alone costs {least:.3f} under the cheapest prompt. Nothing is "
        "allowed below that: raise the cost."
    )


def tune_layer_given(layer: int) -> DataError:
    """A layer named where layers are searched."""
    return DataError(f"Got layer = {layer}, which is what a search finds. Nothing is allowed here: leave --layer out.")
