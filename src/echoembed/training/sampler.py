"""Which rows make which batch: every batch from one data set, drawn by ratio (paper, Section 4.4).

For each step a data set is drawn; the batch is the next rows of that data set's own shuffled round. A round gives
every row once; the next one is shuffled anew, and where it begins within a batch, it begins with rows that the batch
has not got. Of several instructions, each batch is given one, drawn alike. All is a function of the seed: a resumed
run, which passes over the batches that it has had, gets the rest.

A step's batch, over all processes, is cut into consecutive pieces, one for each process. accelerate hands piece k of
the sampler to process k modulo their number, so that together they see what a single process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
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


def ratio_sampler(config: TrainConfig, *, processes: int = 1) -> Callable[..., RatioSampler]:
    """What sentence-transformers' arguments take as ``multi_dataset_batch_sampler``.

    Args:
        config: The run, in force (see ``TrainConfig.effective``).
        processes: How many train together.

    Raises:
        TrainingError: If the processes cannot share a batch evenly.
    """
    rows_per_process(config, processes)
    return partial(RatioSampler, config=config, processes=processes)


def rows_per_process(config: TrainConfig, processes: int) -> int:
    """Rows of a batch that each process takes.

    Raises:
        TrainingError: If they cannot share a batch evenly.
    """
    rows, left = divmod(config.optimiser.batch_size, processes)
    if left:
        raise errors.training_batch_indivisible(config.optimiser.batch_size, processes)
    return rows


def shares(ratios: Sequence[float], rows: Sequence[int]) -> list[float]:
    """Share of the batches of each data set: by ratio or, where there are none, by number of rows; they add up to 1."""
    weights = list(ratios) if any(ratios) else [float(count) for count in rows]
    return [weight / sum(weights) for weight in weights]


class RatioSampler(MultiDatasetDefaultBatchSampler):
    """The batches of a whole run: for each step, the piece of each process in turn.

    Args:
        dataset: The rows of each of ``config.parts``, one after the other, as ``rows.read_all`` gives them.
        batch_samplers: Made by the trainer, one for each; not used, as the configuration says all.
        generator: Not used: what is drawn hangs on the seed alone.
        seed: Decides all that is drawn.
        config: The run, in force (see ``TrainConfig.effective``).
        processes: How many train together.

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
        processes: int = 1,
    ) -> None:
        super().__init__(dataset, batch_samplers, generator=generator, seed=seed)
        self.whole_batch = config.optimiser.batch_size
        self.processes = processes
        self.batch_size = rows_per_process(config, processes)
        self.steps = config.optimiser.steps
        sources = [part.source for part in config.parts]
        sizes = [len(one) for one in dataset.datasets]  # type: ignore[arg-type]
        starts = [0, *accumulate(sizes)]
        self.rows = [sizes[sources.index(source)] for source in range(len(config.data))]
        self.starts = [
            [start for start, source in zip(starts, sources, strict=False) if source == number]
            for number in range(len(config.data))
        ]
        """For each data set, where the rows under each of its instructions begin."""
        self.shares = shares([entry.ratio for entry in config.data], self.rows)
        for entry, rows in zip(config.data, self.rows, strict=True):
            if rows < self.whole_batch:
                raise errors.training_data_too_small(entry.name, rows, self.whole_batch)

    def __len__(self) -> int:
        return self.steps * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        rounds = [self._rounds(number) for number in range(len(self.rows))]
        fractions = self._random(_INSTRUCTIONS).random(self.steps)
        for number, fraction in zip(self.draws(), fractions, strict=True):
            start = self.starts[number][int(fraction * len(self.starts[number]))]
            yield from (next(rounds[number]) + start).reshape(self.processes, self.batch_size).tolist()

    def draws(self) -> NDArray[np.int64]:
        """The number of the data set of each step."""
        return self._random(_DRAWS).choice(len(self.rows), size=self.steps, p=self.shares)

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *stream])

    def _rounds(self, number: int) -> Iterator[NDArray[np.int64]]:
        """The batches of one data set, without end: round after round, no row twice in a batch."""
        random = self._random(_ROUNDS, number)
        size = self.whole_batch
        rest = random.permutation(self.rows[number])
        while True:
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
            rest = np.concatenate([rest, _put_off(random.permutation(self.rows[number]), rest, size - len(rest))])


def _put_off(order: NDArray[np.int64], taken: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """The order, changed so that none of ``taken`` is among its first: each changes places with a later row."""
    early = np.flatnonzero(np.isin(order[:first], taken))
    free = first + np.flatnonzero(~np.isin(order[first:], taken))[: len(early)]
    order[early], order[free] = order[free], order[early]
    return order
