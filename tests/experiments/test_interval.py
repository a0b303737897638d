"""How sure a difference is: against scipy's bootstrap, and against the scores that an evaluation gives."""

import numpy as np
import pytest
from scipy import stats

import echoembed
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.experiments import interval, selection
from echoembed.experiments.interval import correlation


def test_the_interval_is_the_percentile_bootstrap_of_scipy():
    random = np.random.default_rng(7)
    gold = random.normal(size=120)
    first, second = gold + random.normal(size=120), gold + 2 * random.normal(size=120)
    low, high = interval.ends(
        interval.bootstrap(interval.difference, first, second, gold, random=np.random.default_rng(1))
    )
    expected = stats.bootstrap(
        (first, second, gold),
        lambda *drawn: stats.spearmanr(drawn[0], drawn[2])[0] - stats.spearmanr(drawn[1], drawn[2])[0],
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        random_state=2,
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert low < interval.difference(first, second, gold) < high


def test_a_system_does_not_differ_from_itself():
    numbers = np.random.default_rng(3).normal(size=(2, 40))
    drawn = interval.bootstrap(interval.difference, numbers[0], numbers[0], numbers[1], random=np.random.default_rng(4))
    assert not drawn.any()


def test_scores_item_by_item_add_up_to_those_of_an_evaluation(data):
    model = echoembed.load("tiny")
    by_task = {score.task: score.score for score in evaluate(model, local_tasks(data, ["sts/one", "search"]))}

    (search,) = selection.searches(data)
    similarities = model.encode_query(search.queries) @ model.encode_document(search.passages).T
    ndcg = interval.ndcg_at_10(similarities, search.grades)
    assert ndcg.mean() == pytest.approx(by_task["search"], abs=1e-5)

    pairs = next(pairs for pairs in selection.sts_pairs(data, quick=False, seed=1) if pairs.name == "one")
    cosines = np.sum(model.encode(pairs.first) * model.encode(pairs.second), axis=1)
    assert correlation(cosines, pairs.gold) == pytest.approx(by_task["one"], abs=1e-5)


def test_titles_are_read_before_the_text_and_grades_follow_the_passages(tmp_path):
    folder = tmp_path / "retrieval" / "small"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        '{"_id": "a", "text": "no title"}\n{"_id": "b", "title": "Bees", "text": "They dance."}\n'
    )
    (folder / "queries.jsonl").write_text('{"_id": "x", "text": "who dances"}\n{"_id": "y", "text": "not judged"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nx\tb\t2\n")
    (search,) = selection.searches(tmp_path)
    assert search.queries == ["who dances"]
    assert search.passages == ["no title", "Bees They dance."]
    assert search.grades.tolist() == [[0, 2]]
