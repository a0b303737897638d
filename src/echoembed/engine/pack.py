"""How texts lie in a pack: one sequence without padding.

    [ prefix that all share ][ text 0 ][ text 1 ][ text 2 ] …

Texts of one shape are neighbours and form a run, on which attention is one batched call. "Own" tokens are
those after the shared prefix; positions count from the beginning of the prompt, prefix and all.

Shapes: T tokens of the pack, P pooled tokens of the pack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from echoembed.prompts.template import Rendered


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours of one shape.

    Attributes:
        start: Where in the pack the first one's own tokens begin.
        count: How many they are.
        length: Own tokens of each.
        prefix: Shared tokens before them.
        span: Pooled positions of each; empty for the prefix itself.
        pooled_start: Where the first one's pooled tokens begin among those of the pack.
    """

    start: int
    count: int
    length: int
    prefix: int
    span: tuple[int, int]
    pooled_start: int

    @property
    def pooled(self) -> int:
        """Pooled tokens of each."""
        return self.span[1] - self.span[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """A pack.

    Attributes:
        ids: Token ids, ``_T``.
        positions: Position of each token in its prompt, ``_T``.
        pooled: Which tokens are pooled, run by run, ``_P``.
        runs: What lies where, the prefix (if any) first.
        order: The prompts of the runs, as numbers in the list they were given in.
    """

    ids: Tensor
    positions: Tensor
    pooled: Tensor
    runs: tuple[Run, ...]
    order: tuple[int, ...]

    def to(self, device: torch.device) -> Layout:
        """The same pack with its tensors on another device."""
        ids, positions, pooled = (tensor.to(device) for tensor in (self.ids, self.positions, self.pooled))
        return replace(self, ids=ids, positions=positions, pooled=pooled)


def cut(prompts: Sequence[Rendered], prefix: int, budget: int) -> Iterator[list[int]]:
    """Group prompts, shortest first, so that a group's own tokens stay within the budget.

    Args:
        prompts: The prompts.
        prefix: Tokens at the beginning that all share.
        budget: Most tokens of a group; a longer prompt is a group by itself.

    Yields:
        Numbers of prompts, those of one shape next to each other.
    """
    group: list[int] = []
    tokens = prefix
    for index in sorted(range(len(prompts)), key=lambda index: (len(prompts[index].ids), prompts[index].span)):
        own = len(prompts[index].ids) - prefix
        if group and tokens + own > budget:
            yield group
            group, tokens = [], prefix
        group.append(index)
        tokens += own
    if group:
        yield group


def lay_out(prompts: Sequence[Rendered], group: Sequence[int], prefix: int) -> Layout:
    """Put the prompts of a group (see ``cut``) one after the other."""
    ids: list[int] = list(prompts[group[0]].ids[:prefix])
    positions: list[int] = list(range(prefix))
    pooled: list[int] = []
    runs = [Run(0, 1, prefix, 0, (0, 0), 0)] if prefix else []
    shapes = groupby(group, key=lambda index: (len(prompts[index].ids), prompts[index].span))
    for (length, span), members in shapes:
        start, pooled_start, count = len(ids), len(pooled), 0
        for index in members:
            pooled.extend(range(len(ids) + span[0] - prefix, len(ids) + span[1] - prefix))
            ids.extend(prompts[index].ids[prefix:])
            positions.extend(range(prefix, length))
            count += 1
        runs.append(Run(start, count, length - prefix, prefix, span, pooled_start))
    return Layout(torch.tensor(ids), torch.tensor(positions), torch.tensor(pooled), tuple(runs), tuple(group))
