"""Searches for a recipe that cannot start."""

from __future__ import annotations

from echoembed.errors.base import DataError


def tune_too_few(what: str, count: int, least: int) -> DataError:
    """Too few pairs or texts to choose by.

    Args:
        what: What there is too little of.
        count: The number given.
        least: The number needed.
    """
    return DataError(f"Got {count} {what}. A search needs at least {least} to choose by. Add more.")


def tune_halves(fault: str) -> DataError:
    """Comparisons that cannot be split into one half to choose by and one to judge by."""
    return DataError(
        f"The comparisons cannot be split into two halves that share no text, one to choose by and one to judge by: in "
        f"one half, {fault}. Add pairs of other texts, or of each label; without pairs, texts that begin and end in "
        "different ways."
    )


def tune_no_prompt(name: str, context: int | None) -> DataError:
    """A model that can read none of the prompts."""
    return DataError(
        f"{name} can read none of the prompts of the table, as its context has {context} tokens, or its tokenizer "
        "lacks theirs. Allowed: a model with a longer context. Choose another model."
    )


def tune_too_dear(cost: float, least: float) -> DataError:
    """A limit on cost that no candidate meets.

    Args:
        cost: The limit, in units of a stock classical embedding.
        least: The cost of the first layer with the cheapest prompt.
    """
    return DataError(
        f"Got a cost of {cost:g}, and the first layer alone costs {least:.3f} under the cheapest prompt. Nothing is "
        "allowed below that: raise the cost."
    )


def tune_layer_given(layer: int) -> DataError:
    """A layer given to a search over layers."""
    return DataError(f"Got layer = {layer}, which is what a search finds. Nothing is allowed here: leave --layer out.")
