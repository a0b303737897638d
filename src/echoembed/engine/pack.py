"""How prompts lie in a pack: one sequence without padding.

    [ shared prefix ][ prompt 0 ][ prompt 1 ][ prompt 2 ] …

Neighbouring prompts with the same length and span form a run, on which attention is one batched call. A prompt's "own"
tokens are those after the shared prefix. Positions count from the beginning of the prompt, prefix included.

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
    """Neighbouring prompts with the same length and span.

    Attributes:
        start: Where in the pack the first prompt's own tokens begin.
        count: The number of prompts.
        length: Own tokens of each prompt.
        prefix: Shared tokens before them.
        span: Pooled positions of each prompt; empty for the prefix itself.
        pooled_start: Where the first prompt's pooled tokens begin among the pooled tokens of the pack.
    """

    start: int
    count: int
    length: int
    prefix: int
    span: tuple[int, int]
    pooled_start: int

    @property
    def pooled(self) -> int:
        """Pooled tokens of each prompt."""
        return self.span[1] - self.span[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """A pack.

    Attributes:
        ids: Token ids, ``_T``.
        positions: The position of each token in its prompt, ``_T``.
        pooled: Indices of the pooled tokens in the pack, run by run, ``_P``.
        runs: The runs in the order of the pack; the shared prefix, if any, is the first.
        order: The index, in the caller's list, of each prompt of the pack.
    """

    ids: Tensor
    positions: Tensor
    pooled: Tensor
    runs: tuple[Run, ...]
    order: tuple[int, ...]

    def to(self, device: torch.device) -> Layout:
        """Return the same pack with its tensors on another device."""
        ids, positions, pooled = (tensor.to(device) for tensor in (self.ids, self.positions, self.pooled))
        return replace(self, ids=ids, positions=positions, pooled=pooled)


def cut(prompts: Sequence[Rendered], prefix: int, budget: int) -> Iterator[list[int]]:
    """Group prompts, shortest first, so that the tokens of a group stay within the budget.

    Args:
        prompts: The prompts.
        prefix: Tokens of the prefix that all prompts share.
        budget: The most tokens of a group; a longer prompt is a group by itself.

    Yields:
        Indices of prompts, those with the same length and span next to each other.
    """
    group: list[int] = []
    tokens = prefix
    for index in sorted(range(len(prompts)), key=lambda index: (len(prompts[index].ids), prompts[index].span)):
        own_tokens = len(prompts[index].ids) - prefix
        if group and tokens + own_tokens > budget:
            yield group
            group, tokens = [], prefix
        group.append(index)
        tokens += own_tokens
    if group:
        yield group


def lay_out(prompts: Sequence[Rendered], group: Sequence[int], prefix: int) -> Layout:
    """Lay the prompts of a group (see ``cut``) end to end."""
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
