"""The rows of each batch. Every batch is from one data set, drawn by ratio (paper, Section 4.4).

1. For each step, draw a data set by its share, and one of its instructions with equal chances.
2. The batch is the next rows of that data set's current round. A round is a shuffle of all its rows.
3. The next round is shuffled anew. If a batch takes rows of two rounds, rows of the new round that are already in the
   batch change places with later rows, so that no row is twice in a batch.

All draws depend on the seed alone: a resumed run skips the batches that it has trained on, and gets the rest. With
several processes, accelerate cuts each batch into consecutive pieces, one for each process (``split_batches`` in
``run.py``), so that together they train on the same batches as a single process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.sampler import MultiDatasetDefaultBatchSampler
from torch.utils.data import BatchSampler, ConcatDataset

from echoembed import errors
from echoembed.training.config import TrainConfig

_DRAWS, _INSTRUCTIONS, _ROUNDS = range(3)  # independent random streams of one seed


def shares(ratios: Sequence[float], rows: Sequence[int]) -> list[float]:
    """Return each data set's share of the batches: by ratio or, without ratios, by number of rows. Shares sum to 1."""
    weights = list(ratios) if any(ratios) else [float(count) for count in rows]
    if math.isinf(sum(weights)):
        weights = [weight / max(weights) for weight in weights]
    return [weight / sum(weights) for weight in weights]


class RatioSampler(MultiDatasetDefaultBatchSampler):
    """Yields the batches of a whole run, one for each step.

    Args:
        dataset: The rows of all ``config.parts`` from ``rows.read_all``, one part after the other.
        batch_samplers: Not used; the trainer makes one for each part.
        generator: Not used, as the draws depend on the seed alone.
        seed: The seed of all draws.
        config: The run's configuration in force (see ``TrainConfig.effective``).

    Raises:
        TrainingError: If a data set has fewer rows than a batch.
    """

    def __init__(
        self,
        dataset: ConcatDataset[Any],
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int = 0,
        *,
        config: TrainConfig,
    ) -> None:
        super().__init__(dataset, batch_samplers, generator=generator, seed=seed)
        self.batch_size = config.optimiser.batch_size
        self.steps = config.optimiser.steps
        sources = [part.source for part in config.parts]
        sizes = [len(part) for part in dataset.datasets]  # type: ignore[arg-type]
        starts = [0, *accumulate(sizes)]
        self.rows = [sizes[sources.index(source)] for source in range(len(config.data))]
        self.starts = [
            [start for start, source in zip(starts, sources, strict=False) if source == number]
            for number in range(len(config.data))
        ]
        """For each data set, the index at which the rows of each of its instructions begin."""
        self.neighbours = [entry.neighbours for entry in config.data]
        self.shares = shares([entry.ratio for entry in config.data], self.rows)
        for entry, rows in zip(config.data, self.rows, strict=True):
            if rows < self.batch_size:
                raise errors.training_data_too_small(entry.name, rows, self.batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        # 1. Draw a data set and an instruction for each step; the instruction as a fraction of their number.
        fractions = self._random(_INSTRUCTIONS).random(self.steps)
        rounds = [self._rounds(number) for number in range(len(self.rows))]
        for number, fraction in zip(self.draws(), fractions, strict=True):
            start = self.starts[number][int(fraction * len(self.starts[number]))]
            yield (next(rounds[number]) + start).tolist()

    def draws(self) -> NDArray[np.int64]:
        """Return the index of each step's data set."""
        return self._random(_DRAWS).choice(len(self.rows), size=self.steps, p=self.shares)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *stream])

    def _rounds(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Yield batches of one data set without end, round after round, no row twice in a batch."""
        random = self._random(_ROUNDS, number)
        neighbours = self.neighbours[number]  # rows that are drawn together
        size, groups = self.batch_size // neighbours, self.rows[number] // neighbours
        rest = random.permutation(groups)
        while True:
            # 2. Yield whole batches of this round.
            while len(rest) >= size:
                yield (rest[:size, None] * neighbours + np.arange(neighbours)).flatten()
                rest = rest[size:]
            # 3. The remaining rows begin the next batch; other rows of the new round complete it.
            new_round = random.permutation(groups)
            rest = np.concatenate([rest, _without(new_round, rest, size - len(rest))])


def _without(order: NDArray[np.int64], taken: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Swap rows in ``taken`` out of the first ``count`` of the order, each with a later row, in place."""
    early = np.flatnonzero(np.isin(order[:count], taken))
    free = count + np.flatnonzero(~np.isin(order[count:], taken))[: len(early)]
    order[early], order[free] = order[free], order[early]
    return order
