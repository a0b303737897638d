"""Which rows make which batch: every batch from one data set, drawn by ratio (paper, Section 4.4).

1. For each step, a data set is drawn by its share, and one of its instructions, all alike.
2. The batch is the next rows of that data set's own shuffled round. A round gives every row once.
3. The next round is shuffled anew. A batch that takes rows of two rounds holds no row twice: rows of the old round
   change places with later rows of the new one.

All draws are a function of the seed: a resumed run passes over the batches that it has trained on and gets the rest.
Under several processes accelerate cuts each batch into consecutive pieces, one for each process (``split_batches`` in
``run.py``), so that together they train on what a single process would.
"""

from __future__ import annotations

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

_DRAWS, _INSTRUCTIONS, _ROUNDS = range(3)  # streams of randomness under one seed


def shares(ratios: Sequence[float], rows: Sequence[int]) -> list[float]:
    """Share of the batches of each data set: by ratio or, where there are none, by number of rows; they add up to 1."""
    weights = list(ratios) if any(ratios) else [float(count) for count in rows]
    return [weight / sum(weights) for weight in weights]


class RatioSampler(MultiDatasetDefaultBatchSampler):
    """The batches of a whole run, one for each step.

    Args:
        dataset: The rows of each of ``config.parts``, one after the other, as ``rows.read_all`` gives them.
        batch_samplers: Made by the trainer, one for each part; not used, as the configuration says all.
        generator: Not used: the draws depend on the seed alone.
        seed: Decides all draws.
        config: The run, in force (see ``TrainConfig.effective``).

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
        """For each data set, where the rows under each of its instructions begin."""
        self.neighbours = [entry.neighbours for entry in config.data]
        self.shares = shares([entry.ratio for entry in config.data], self.rows)
        for entry, rows in zip(config.data, self.rows, strict=True):
            if rows < self.batch_size:
                raise errors.training_data_too_small(entry.name, rows, self.batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        # 1. A data set and an instruction for each step; the instruction as a fraction, whatever their number.
        fractions = self._random(_INSTRUCTIONS).random(self.steps)
        rounds = [self._rounds(number) for number in range(len(self.rows))]
        for number, fraction in zip(self.draws(), fractions, strict=True):
            start = self.starts[number][int(fraction * len(self.starts[number]))]
            yield (next(rounds[number]) + start).tolist()

    def draws(self) -> NDArray[np.int64]:
        """The number of the data set of each step."""
        return self._random(_DRAWS).choice(len(self.rows), size=self.steps, p=self.shares)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *stream])

    def _rounds(self, number: int) -> Iterator[NDArray[np.int64]]:
        """The batches of one data set, without end: round after round, no row twice in a batch."""
        random = self._random(_ROUNDS, number)
        together = self.neighbours[number]  # rows that are drawn as one
        size, groups = self.batch_size // together, self.rows[number] // together
        rest = random.permutation(groups)
        while True:
            # 2. Whole batches of this round.
            while len(rest) >= size:
                yield (rest[:size, None] * together + np.arange(together)).flatten()
                rest = rest[size:]
            # 3. The rows that are left begin the next batch; the new round completes it with others.
            new_round = random.permutation(groups)
            rest = np.concatenate([rest, _put_off(new_round, rest, size - len(rest))])


def _put_off(order: NDArray[np.int64], taken: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The order with none of ``taken`` among its first ``count``: each changes places with a later row."""
    early = np.flatnonzero(np.isin(order[:count], taken))
    free = count + np.flatnonzero(~np.isin(order[count:], taken))[: len(early)]
    order[early], order[free] = order[free], order[early]
    return order
