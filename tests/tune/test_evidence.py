"""Scores of evidence are those of scipy, halves share no text, and what says nothing is refused."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from echoembed import errors
from echoembed.tune.evidence import Halves, LabelledPairs, halves_of, merits

DRAW = np.random.default_rng(5)
WORDS = ["river", "stone", "lamp", "glass", "cloud", "bread", "horse", "paper", "night", "green", "wheel", "music"]


def text(length):
    return " ".join(DRAW.choice(WORDS, length)) + f" {DRAW.integers(1e9)}"


def unit(count, width=8):
    vectors = DRAW.normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_pairs_are_scored_by_spearmans_correlation_also_with_ties():
    pairs = [(text(5), text(5), float(grade)) for grade in DRAW.integers(0, 4, 40)]
    evidence = LabelledPairs.of(pairs)
    vectors = unit(len(evidence.texts))
    place = {one: number for number, one in enumerate(evidence.texts)}
    cosines = [float(vectors[place[left]] @ vectors[place[right]]) for left, right, _ in pairs]
    sample = np.arange(0, 40, 3)
    expected = spearmanr(np.array(cosines)[sample], np.array([gold for *_, gold in pairs])[sample]).statistic
    assert evidence.score(evidence.values(vectors), sample) == pytest.approx(100 * expected, abs=1e-4)


def test_halves_find_each_other_under_vectors_that_know_the_text():
    texts = [text(8) for _ in range(30)]
    evidence = Halves.of(texts)
    shared = unit(30)
    vectors = np.zeros((len(evidence.texts), 8), dtype=np.float32)
    vectors[evidence.left_N], vectors[evidence.right_N] = shared, shared
    everything = np.arange(30)
    assert evidence.score(evidence.values(vectors), everything) == pytest.approx(100)
    assert evidence.score(evidence.values(unit(len(evidence.texts))), everything) < 40
    left, right = evidence.texts[evidence.left_N[0]], evidence.texts[evidence.right_N[0]]
    assert f"{left} {right}" in {" ".join(one.split()) for one in texts}


def test_the_two_halves_of_the_evidence_share_no_text():
    texts = [text(4) for _ in range(60)]
    pairs = [(texts[DRAW.integers(60)], texts[DRAW.integers(60)], float(number)) for number in range(45)]
    evidence = LabelledPairs.of(pairs)
    choose, judge = halves_of(evidence, 3)
    assert sorted([*choose, *judge]) == list(range(45))
    read = [{*evidence.left_N[half], *evidence.right_N[half]} for half in (choose, judge)]
    assert not read[0] & read[1]
    again = halves_of(evidence, 3)
    assert all(np.array_equal(one, other) for one, other in zip((choose, judge), again, strict=True))


def test_an_interval_holds_its_score_and_is_the_same_again():
    evidence = LabelledPairs.of([(text(5), text(5), float(number)) for number in range(60)])
    values, sample = evidence.values(unit(len(evidence.texts))), np.arange(60)
    low, high = evidence.interval(values, sample, seed=1)
    assert low < evidence.score(values, sample) < high
    assert (low, high) == evidence.interval(values, sample, seed=1)


def test_evidence_that_says_nothing_is_refused():
    with pytest.raises(errors.DataError, match="Got 3 pairs"):
        LabelledPairs.of([("a", "b", 1.0)] * 3)
    with pytest.raises(errors.DataError, match="have the label 1"):
        LabelledPairs.of([(text(3), text(3), 1.0) for _ in range(30)])
    with pytest.raises(errors.DataError, match="texts of 6 words"):
        Halves.of(["too short"] * 50)


def test_halves_are_also_judged_by_how_evenly_their_vectors_lie():
    draw = np.random.default_rng(3)
    even = draw.normal(size=(40, 8))
    crowded = even + 4
    even, crowded = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (even, crowded))
    halves = Halves.of([f"{n} the cat sat on the mat {n}" for n in range(30)])
    by_hand = [np.exp(-2 * ((even[i] - even[j]) ** 2).sum()) for i in range(40) for j in range(i)]
    assert abs(halves.spread(even.astype(np.float32)) + np.log(np.mean(by_hand))) < 1e-5
    assert halves.spread(crowded.astype(np.float32)) < halves.spread(even.astype(np.float32))
    assert merits([3.0, 1.0, 2.0], [0.5, 0.1, 0.7]).tolist() == [5, 2, 5]
    assert merits([3.0, 1.0], [0.0, 0.0]).tolist() == [3, 1], "labelled pairs are judged by their score alone"
