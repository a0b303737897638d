"""Items of a task add up to mteb's score of it, for recipes and for other systems."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, v_measure_score

import echoembed
from echoembed.evaluation.items import differences, score_of
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.peers import System
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Store


def letters(texts):
    """Counts of letters: another system, of which nothing is ours."""
    vectors = np.asarray([[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz "] for text in texts])
    return (vectors + 0.01).astype(np.float32)


COUNTS = System(name="letters", model="none", identity="letters 1", encode=letters)


@pytest.fixture(scope="module")
def model():
    return echoembed.load("tiny", recipe="classical")


@pytest.mark.parametrize("system", ["recipe", "other"])
def test_items_add_up_to_the_score(real, model, system):
    scores = evaluate(model if system == "recipe" else COUNTS, local_tasks(real), items=True)
    assert len({score.kind for score in scores}) == 6
    for score in scores:
        assert score_of(score.kind, score.items) == pytest.approx(score.score, abs=1e-5), score.task


def test_a_score_kept_without_items_is_made_again_when_they_are_wanted(real, tmp_path):
    store, tasks = Store(tmp_path), local_tasks(real, ["sts"])
    assert evaluate(COUNTS, tasks, store=store)[0].items is None
    assert evaluate(COUNTS, tasks, store=store)[0].reused
    made = evaluate(COUNTS, tasks, store=store, items=True)[0]
    assert made.items
    assert not made.reused
    assert evaluate(COUNTS, tasks, store=store)[0].reused


def test_another_system_with_another_identity_is_scored_anew(real, tmp_path):
    store, tasks = Store(tmp_path), local_tasks(real, ["sts"])
    evaluate(COUNTS, tasks, store=store)
    other = System(name="letters", model="none", identity="letters 2", encode=letters)
    assert not evaluate(other, tasks, store=store)[0].reused


def test_differences_are_those_of_scipys_paired_bootstrap():
    random = np.random.default_rng(3)
    truth = random.integers(0, 2, size=150).astype(float)
    one, two = truth + random.normal(size=150), truth + 2 * random.normal(size=150)
    items = [{"estimate": estimate, "truth": truth} for estimate in (one, two)]
    drawn = differences("PairClassification", *items, random=np.random.default_rng(1), draws=600)
    expected = stats.bootstrap(
        (one, two, truth),
        lambda a, b, t: average_precision_score(t, a) - average_precision_score(t, b),
        paired=True,
        vectorized=False,
        n_resamples=600,
        method="percentile",
        random_state=2,
    ).confidence_interval
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_a_system_does_not_differ_from_itself():
    items = {"outcome": [0.1, 0.9, 0.5, 1.0]}
    assert not differences("Retrieval", items, items, random=np.random.default_rng(0), draws=20).any()


def test_fast_statistics_are_scikit_learns():
    random = np.random.default_rng(5)
    for count in random.integers(2, 60, size=100):
        cosines, labels = random.integers(0, 12, count) / 3, random.integers(0, 2, count).astype(float)
        labels[0] = 1
        pairs = {"estimate": cosines, "truth": labels}
        assert score_of("PairClassification", pairs) == pytest.approx(average_precision_score(labels, cosines))
        found, true = random.integers(0, 5, count).astype(float), random.integers(0, 4, count).astype(float)
        clusters = {"estimate": found, "truth": true}
        assert score_of("Clustering", clusters) == pytest.approx(v_measure_score(true, found), abs=1e-9)
