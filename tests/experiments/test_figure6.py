"""Figure 6: ranks against scipy's, halves of texts, and the bag of words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from echoembed.experiments.figure6 import half_similarities, halves, rank_errors, top
from echoembed.experiments.interval import correlation
from echoembed.experiments.splitter import bag_of_words

NUMBERS = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=40)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_rank_errors_are_differences_of_scipys_ranks(numbers, random):
    gold = [float(random.randint(0, 5)) for _ in numbers]
    expected = (rankdata(numbers) - rankdata(gold)) / len(numbers)
    assert rank_errors(numbers, gold) == pytest.approx(expected)
    assert rank_errors(numbers, gold).sum() == pytest.approx(0, abs=1e-9)


def test_the_correlation_is_scipys():
    random = np.random.default_rng(0)
    first, second = random.normal(size=50), random.integers(0, 5, size=50)
    assert correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert correlation(first, np.zeros(50)) == 0


def test_an_overestimated_pair_has_an_error_above_0():
    assert rank_errors([0.9, 0.1, 0.2], [0, 1, 2])[0] > 0


def test_texts_are_cut_in_two_by_words():
    assert halves("a b c") == ("a b", "c")
    assert halves("a b c d") == ("a b", "c d")
    assert halves("one") == ("one", "one")


def test_the_tenth_that_is_most_alike_is_chosen():
    assert top(np.arange(30.0)) == {27, 28, 29}
    assert top(np.asarray([0.1, 0.3])) == {1}


def test_a_bag_of_words_knows_which_halves_are_alike():
    first, second = ["the cat sat down here"], ["The cat sat on top"]
    assert half_similarities(bag_of_words, first, second, 0)[0] == pytest.approx(1)
    assert half_similarities(bag_of_words, first, second, 1)[0] < 0.5
    assert np.linalg.norm(bag_of_words(["…", "a b"]), axis=1) == pytest.approx(1)
