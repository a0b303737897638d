"""Rotary positions that depend on the longest prompt of a forward, so that prompts of both kinds may not share one.

Under ``longrope``, a model has a set of frequencies for prompts up to a limit and another for longer ones. transformers
takes the second for all prompts of a forward as soon as one of them is over the limit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def limits_of(model: PreTrainedModel) -> list[int]:
    """Return the lengths over which a prompt takes other rotary positions; empty for most models."""
    return sorted(set(_limits(getattr(model.config, "rope_parameters", None))))


def by_rotary(model: PreTrainedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Group prompts that take the same rotary positions.

    Args:
        model: The language model.
        lengths: The number of tokens of each prompt.

    Returns:
        The indices of the prompts of each group, in order; the first group is that of the first prompt.
    """
    limits = limits_of(model)
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(bisect_left(limits, length), []).append(index)
    return list(groups.values())


def _limits(table: object) -> Iterator[int]:
    """Yield the limits in a table of rotary parameters, and in the tables inside it, one for each type of layer."""
    if isinstance(table, dict):
        if isinstance(limit := table.get("original_max_position_embeddings"), int):
            yield limit
        for inner in table.values():
            yield from _limits(inner)
