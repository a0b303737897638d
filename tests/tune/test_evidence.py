"""Scores of evidence are those of scipy, halves share no text, and what says nothing is refused."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from echoembed import errors
from echoembed.tune.evidence import Halves, LabelledPairs, cut_in_two, halves_of, merits

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


def paired(*pairs):
    return LabelledPairs.of([(f"text {left}", f"text {right}", float(label)) for left, right, label in pairs])


@pytest.mark.parametrize("name", ["chain", "all with all", "two hubs"])
def test_pairs_that_all_hang_together_are_parted(name):
    pairs = {
        "chain": [(n, n + 1, n % 5) for n in range(60)],
        "all with all": [(left, right, left % 3) for right in range(16) for left in range(right)],
        "two hubs": [(n % 2, n, n % 5) for n in range(2, 60)] + [(0, 1, 3)],
    }[name]
    evidence = paired(*pairs)
    halves = halves_of(evidence, 3)
    read = [{*evidence.left_N[half], *evidence.right_N[half]} for half in halves]
    assert not read[0] & read[1]
    assert min(map(len, halves)) >= len(pairs) / 6
    assert not any(map(evidence.fault, halves))


@pytest.mark.parametrize(
    ("pairs", "fault"),
    [
        ([(0, n, n % 5) for n in range(1, 60)], "the number of comparisons left is 0, and 5 are needed"),
        ([(2 * n, 2 * n + 1, n == 7) for n in range(40)], "all 20 pairs have the label 0"),
        ([(0, 1, n % 3) for n in range(40)], "the number of comparisons left is 0, and 5 are needed"),
    ],
)
def test_pairs_by_which_nothing_can_be_chosen_and_judged_are_refused(pairs, fault):
    with pytest.raises(errors.DataError, match=fault):
        halves_of(paired(*pairs), 3)


def test_texts_that_all_begin_alike_are_refused():
    with pytest.raises(errors.DataError, match="begin and end in different ways"):
        halves_of(Halves.of([f"the same words again {n} and {n + 1}" for n in range(50)]), 3)


def test_texts_without_blanks_are_cut_between_letters():
    chinese = "\u4eca\u65e5\u306f\u3068\u3066\u3082\u5929\u6c17\u304c\u3044\u3044\u306e\u3067\u6563\u6b69\u306b\u884c"
    left, right = cut_in_two(chinese)
    assert left + right == chinese
    assert abs(len(left) - len(right)) <= 1
    assert cut_in_two(chinese[:10]) is None
    assert cut_in_two("one two three four five six") == ("one two three", "four five six")
    assert cut_in_two("five words are not enough") is None
    assert len(Halves.of([chinese + str(n) for n in range(30)])) == 30


def test_halves_without_vectors_are_not_compared():
    evidence = Halves.of([text(8) for _ in range(30)])
    vectors, few = unit(len(evidence.texts)), np.arange(12)
    used = np.unique([evidence.left_N[few], evidence.right_N[few]])
    some = np.zeros_like(vectors)
    some[used] = vectors[used]
    alone = Halves(texts=evidence.texts, left_N=evidence.left_N[few], right_N=evidence.right_N[few])
    assert np.allclose(evidence.values(some)[few], alone.values(vectors))


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
