"""Batches are drawn whole from one data set, by ratio, and are a function of the seed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import partial
from itertools import chain, islice

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler, skip_first_batches
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, SequentialSampler

from echoembed.errors import TrainingError
from echoembed.training.config import DataConfig, OptimiserConfig, TrainConfig
from echoembed.training.sampler import RatioSampler, shares


def make(sizes, *, batch_size=4, steps=50, ratios=None, seed=0, instructions=None):
    """A sampler as the trainer makes it."""
    data = [
        DataConfig(
            path=f"{number}.jsonl",
            ratio=ratios[number] if ratios else 0,
            instruction=(instructions or {}).get(number, ["do"]),
        )
        for number in range(len(sizes))
    ]
    config = TrainConfig(
        output="out",
        recipe="echo-finetuned-last",
        data=data,
        optimiser=OptimiserConfig(batch_size=batch_size, steps=steps, warmup_steps=0),
    )
    sets = ConcatDataset([range(sizes[part.source]) for part in config.parts])
    inner = [BatchSampler(SequentialSampler(part), batch_size, True) for part in sets.datasets]
    return RatioSampler(sets, inner, generator=None, seed=seed, config=config)


def source_of(batch, sizes):
    ends = np.cumsum(sizes)
    return {int(np.searchsorted(ends, row, side="right")) for row in batch}


sizes_and_batch = st.integers(1, 12).flatmap(
    lambda batch: st.tuples(st.lists(st.integers(batch, 40), min_size=1, max_size=4), st.just(batch))
)


@given(sizes_and_batch, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_batch_is_of_one_data_set_full_and_without_a_row_twice(case, seed):
    sizes, batch_size = case
    batch_size = max(2, batch_size)
    sizes = [max(size, batch_size) for size in sizes]
    batches = list(make(sizes, batch_size=batch_size, steps=30, seed=seed))
    assert len(batches) == 30
    for batch in batches:
        assert len(source_of(batch, sizes)) == 1
        assert len(set(batch)) == batch_size
        assert 0 <= min(batch) <= max(batch) < sum(sizes)


@given(st.integers(2, 9), st.integers(0, 30), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_round_gives_every_row_once_before_the_next_begins(batch_size, more, seed):
    size = batch_size + more
    rows = [row for batch in make([size], batch_size=batch_size, steps=40, seed=seed) for row in batch]
    for start in range(0, len(rows) - size + 1, size):
        assert sorted(rows[start : start + size]) == list(range(size))


def test_rounds_are_shuffled_and_differ():
    rows = [row for batch in make([64], batch_size=8, steps=16) for row in batch]
    assert rows[:64] != sorted(rows[:64])
    assert rows[:64] != rows[64:]


@pytest.mark.parametrize(
    ("ratios", "expected"), [([1, 2, 5], [1, 2, 5]), (None, [10, 30, 60]), ([0.1, 0.1, 0.8], [1, 1, 8])]
)
def test_data_sets_are_drawn_by_ratio_or_by_their_rows(ratios, expected):
    sizes, steps = [10, 30, 60], 4000
    drawn = Counter(source_of(batch, sizes).pop() for batch in make(sizes, ratios=ratios, steps=steps))
    wanted = np.array(expected) / sum(expected) * steps
    assert chisquare([drawn[number] for number in range(3)], wanted).pvalue > 0.001


def test_shares_add_up_to_one():
    assert shares([0, 0], [10, 30]) == [0.25, 0.75]
    assert shares([2, 6], [10, 30]) == [0.25, 0.75]
    assert shares([1e308, 1e308], [10, 30]) == [0.5, 0.5]


def test_of_several_instructions_each_batch_is_given_one_drawn_alike_and_they_share_rounds():
    size, steps = 20, 2000
    sampler = make([size], batch_size=4, steps=steps, instructions={0: ["a", "b"]})
    batches = list(sampler)
    parts = [{row // size for row in batch} for batch in batches]
    assert all(len(one) == 1 for one in parts)
    drawn = Counter(one.pop() for one in parts)
    assert chisquare([drawn[0], drawn[1]]).pvalue > 0.001
    for start in range(0, steps, size // 4):
        assert sorted(row % size for batch in batches[start : start + 5] for row in batch) == list(range(size))


def test_instructions_do_not_change_how_often_a_data_set_is_drawn():
    one = make([20, 20], steps=200)
    two = make([20, 20], steps=200, instructions={0: ["a", "b", "c"]})
    assert one.draws().tolist() == two.draws().tolist()
    assert one.shares == two.shares


# Determinism


def test_the_seed_alone_decides():
    batches = list(make([20, 30], seed=3))
    sampler = make([20, 30], seed=3)
    assert list(sampler) == batches
    assert list(sampler) == batches  # also a second time
    assert list(make([20, 30], seed=4)) != batches


def test_a_data_set_goes_its_own_way_whatever_else_is_drawn():
    alone = list(make([20, 30], ratios=[1, 1e-9], steps=10))
    mixed = [batch for batch in make([20, 30], ratios=[1, 1], steps=60) if max(batch) < 20]
    assert mixed[:10] == alone


@pytest.mark.parametrize("done", [0, 1, 7, 49])
def test_a_resumed_run_gets_the_rest(done):
    whole = list(make([20, 30]))
    assert list(SkipBatchSampler(make([20, 30]), done)) == whole[done:]
    loader = DataLoader(ConcatDataset([range(20), range(30)]), batch_sampler=make([20, 30]))
    assert [len(batch) for batch in skip_first_batches(loader, done)] == [4] * (50 - done)


def test_more_steps_begin_alike():
    assert list(make([20, 30], steps=20)) == list(islice(make([20, 30], steps=50), 20))


# Several processes


@pytest.mark.parametrize("processes", [2, 4])
def test_the_pieces_of_all_processes_are_the_single_process_batch(processes):
    """As accelerate cuts batches under ``split_batches``, which is how a run is set up (``run.py``)."""
    whole = list(make([20, 30], batch_size=8))
    shards = [
        list(BatchSamplerShard(make([20, 30], batch_size=8), processes, rank, split_batches=True, even_batches=False))
        for rank in range(processes)
    ]
    assert {len(piece) for shard in shards for piece in shard} == {8 // processes}
    assert [list(chain(*pieces)) for pieces in zip(*shards, strict=True)] == whole


def config_of(batch_size):
    optimiser = OptimiserConfig(batch_size=batch_size)
    return TrainConfig(output="out", data=[DataConfig(path="a.jsonl")], optimiser=optimiser)


def test_a_data_set_that_cannot_fill_a_batch_is_refused():
    with pytest.raises(TrainingError, match=r"'1' has 3 rows.* takes 4"):
        make([20, 3])


# In the library's hands


def test_the_trainer_takes_it_and_its_batches_arrive(tmp_path):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    import echoembed

    model = echoembed.load("tiny", engine="padded", device="cpu")
    config = dataclasses.replace(
        config_of(4),
        data=(DataConfig(path="a.jsonl"), DataConfig(path="b.jsonl")),
        optimiser=OptimiserConfig(batch_size=4, steps=6, warmup_steps=0),
    )
    data = DatasetDict(
        {
            name: Dataset.from_dict(
                {"query": [f"{name} {n}" for n in range(9)], "positive": [f"{n}" for n in range(9)]}
            )
            for name in ("a", "b")
        }
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=6,
            seed=5,
            use_cpu=True,
            report_to="none",
            router_mapping={name: {"query": "query", "positive": "document"} for name in ("a", "b")},
            multi_dataset_batch_sampler=partial(RatioSampler, config=config),
        ),
        train_dataset=data,
        loss=MultipleNegativesRankingLoss(model),
    )
    sampler = trainer.get_train_dataloader().batch_sampler
    assert isinstance(sampler, RatioSampler)
    expected = RatioSampler(ConcatDataset([range(9), range(9)]), [sampler.batch_samplers[0]] * 2, seed=5, config=config)
    assert list(sampler) == list(expected)
    names = [batch["dataset_name"] for batch in trainer.get_train_dataloader()]
    assert names == ["ab"[number] for number in expected.draws()]
