"""How candidates are scored: by labelled pairs, or by texts alone.

Both compare two texts at a time, and both give a score for any sample of their comparisons. So the winner is chosen on
one half of the comparisons and judged on the other, and intervals come from the bootstrap.

Shapes: N comparisons, T texts, D width of their vectors.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from echoembed import errors

Numbers = NDArray[np.float64]
E = TypeVar("E", bound="Evidence")
LEAST_PAIRS = 20
LEAST_HALF = 5
"""The fewest comparisons of each half: one to choose by, one to judge by."""
LEAST_WORDS = 6
"""The fewest words of a text that is cut in two."""
LEAST_LETTERS = 16
"""The same, in letters, of a text that is written without blanks between its words."""
RESAMPLES = 500
_WITHOUT_BLANKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


@dataclass(frozen=True, kw_only=True)
class Evidence(ABC):
    """Comparisons of texts.

    Attributes:
        texts: The T different texts that are compared.
        left_N: The first text of each comparison, as an index into ``texts``.
        right_N: The second text of each comparison.
        name: The name of the score, for reports.
        labelled: Whether people have judged the comparisons.
    """

    labelled: ClassVar[bool]

    texts: Sequence[str] = field(repr=False)
    left_N: NDArray[np.int64] = field(repr=False)
    right_N: NDArray[np.int64] = field(repr=False)
    name: str = ""

    def __len__(self) -> int:
        return len(self.left_N)

    @abstractmethod
    def values(self, vectors_TD: NDArray[np.float32]) -> Numbers:
        """Compute a number for each comparison, ``_N``, from unit vectors of ``texts``."""

    @abstractmethod
    def score(self, values_N: Numbers, sample: NDArray[np.int64]) -> float:
        """Return the score × 100 of a sample of the comparisons, given as indices."""

    def spread(self, vectors_TD: NDArray[np.float32]) -> float:
        """Measure how evenly vectors are spread on the sphere, if the choice depends on that; else 0."""
        return 0.0

    def fault(self, sample: NDArray[np.int64]) -> str:
        """Say why nothing can be chosen by a sample of the comparisons; empty if something can."""
        few = len(sample) < LEAST_HALF
        return f"the number of comparisons left is {len(sample)}, and {LEAST_HALF} are needed" if few else ""

    def interval(self, values_N: Numbers, sample: NDArray[np.int64], seed: int) -> tuple[float, float]:
        """Return the bootstrap's 95 % interval: of the scores of samples drawn from the sample with replacement."""
        draw = np.random.default_rng(seed)
        scores = [self.score(values_N, draw.choice(sample, len(sample))) for _ in range(RESAMPLES)]
        low, high = np.quantile(scores, [0.025, 0.975])
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class LabelledPairs(Evidence):
    """Pairs of texts that people have judged; the score is Spearman's correlation of cosines with their judgement."""

    labelled = True
    gold_N: Numbers = field(repr=False)
    name: str = "Spearman × 100, given pairs"

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str, float]]) -> LabelledPairs:
        """Make evidence of pairs with their labels.

        Raises:
            DataError: If there are too few pairs, or all have the same label.
        """
        if len(pairs) < LEAST_PAIRS:
            raise errors.tune_too_few("pairs", len(pairs), LEAST_PAIRS)
        gold_N = np.array([gold for _, _, gold in pairs], dtype=np.float64)
        if gold_N.min() == gold_N.max():
            raise errors.data_says_nothing("the pairs", f"all {len(pairs)} have the label {gold_N[0]:g}")
        texts, (left_N, right_N) = _numbered([[pair[0] for pair in pairs], [pair[1] for pair in pairs]])
        return cls(texts=texts, left_N=left_N, right_N=right_N, gold_N=gold_N)

    def values(self, vectors_TD: NDArray[np.float32]) -> Numbers:
        """Compute the cosine of each pair."""
        cosine_N: Numbers = (vectors_TD[self.left_N] * vectors_TD[self.right_N]).sum(axis=1, dtype=np.float64)
        return cosine_N

    def score(self, values_N: Numbers, sample: NDArray[np.int64]) -> float:
        """Compute Spearman's correlation × 100; 0 if all values of a sample are the same."""
        ranks = [_ranks(numbers[sample]) for numbers in (values_N, self.gold_N)]
        centred = [rank - rank.mean() for rank in ranks]
        size = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
        return 100 * float(centred[0] @ centred[1]) / size if size else 0.0

    def fault(self, sample: NDArray[np.int64]) -> str:
        """Say why nothing can be chosen by a sample: it is too small, or has one label only."""
        labels = np.unique(self.gold_N[sample])
        same = f"all {len(sample)} pairs have the label {labels[0]:g}" if len(labels) == 1 else ""
        return super().fault(sample) or same


@dataclass(frozen=True, kw_only=True)
class Halves(Evidence):
    """Texts cut in two: each half must find its other half among those of all texts. Needs no labels."""

    labelled = False
    name: str = "halves that find each other, × 100"

    @classmethod
    def of(cls, texts: Sequence[str]) -> Halves:
        """Cut every text that is long enough in two.

        Raises:
            DataError: If there are too few such texts.
        """
        pairs = [pair for text in dict.fromkeys(texts) if (pair := cut_in_two(text))]
        if len(pairs) < LEAST_PAIRS:
            raise errors.tune_too_few(f"different texts of {LEAST_WORDS} words or more", len(pairs), LEAST_PAIRS)
        halves, (left_N, right_N) = _numbered([[left for left, _ in pairs], [right for _, right in pairs]])
        return cls(texts=halves, left_N=left_N, right_N=right_N)

    def values(self, vectors_TD: NDArray[np.float32]) -> Numbers:
        """Compute the reciprocal rank of the other half, among those with vectors, as the mean of both directions."""
        left_ND, right_ND = vectors_TD[self.left_N], vectors_TD[self.right_N]
        cosine_NN = left_ND @ right_ND.T
        cosine_NN[~left_ND.any(axis=1)] = cosine_NN[:, ~right_ND.any(axis=1)] = -np.inf  # no vectors: not compared
        own_N = np.diagonal(cosine_NN)
        rank_2N = [1 + (cosine_NN > own_N[:, None]).sum(axis=1), 1 + (cosine_NN > own_N[None, :]).sum(axis=0)]
        reciprocal_N: Numbers = np.mean([1 / rank_N for rank_N in rank_2N], axis=0)
        return reciprocal_N

    def spread(self, vectors_TD: NDArray[np.float32]) -> float:
        """Compute the uniformity: minus the logarithm of the mean Gaussian kernel of two vectors (Wang, Isola 2020)."""
        cosine_TT = vectors_TD @ vectors_TD.T
        cosine_P = cosine_TT[np.triu_indices(len(vectors_TD), 1)]
        return -float(np.log(np.mean(np.exp(4 * (cosine_P.astype(np.float64) - 1)))))

    def score(self, values_N: Numbers, sample: NDArray[np.int64]) -> float:
        """Return the mean × 100 of the reciprocal ranks."""
        return 100 * float(values_N[sample].mean())


def merits(scores: Sequence[float], spreads: Sequence[float]) -> Numbers:
    """Return the numbers by which candidates are compared: their scores, or with spreads, the sums of both ranks."""
    if not any(spreads):
        return np.asarray(scores, dtype=np.float64)
    return _ranks(np.asarray(scores, dtype=np.float64)) + _ranks(np.asarray(spreads, dtype=np.float64))


def cut_in_two(text: str) -> tuple[str, str] | None:
    """Cut a text in its middle, between words, or between letters if it has no blanks; None if it is too short."""
    letters = len(_WITHOUT_BLANKS.findall(text))
    by_letter = letters >= LEAST_LETTERS and 2 * letters > len(text)
    parts = list(text.strip()) if by_letter else text.split()
    if len(parts) < LEAST_WORDS:
        return None
    blank = "" if by_letter else " "
    left, right = (blank.join(half).strip() for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]))
    return left, right


def halves_of(evidence: Evidence, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the comparisons into two halves with no text in common: one to choose by, one to judge the choice.

    Comparisons that share a text, directly or through other comparisons, stay in the same half. The largest such group
    is placed first. If it leaves too few for the other half, its texts are parted, and comparisons of texts of both
    parts are left out.

    Raises:
        DataError: If nothing can be chosen by one of the halves.
    """
    pairs = list(zip(evidence.left_N.tolist(), evidence.right_N.tolist(), strict=True))
    groups = _groups(pairs, range(len(pairs)))
    halves = _halves(groups, seed)
    if min(map(len, halves)) < LEAST_HALF:
        largest = max(groups, key=len)
        halves = _halves([*(group for group in groups if group is not largest), *_parted(pairs, largest)], seed)
    for half in halves:
        if fault := evidence.fault(half):
            raise errors.tune_halves(fault)
    return halves


def _halves(groups: Sequence[list[int]], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide groups of comparisons into halves, the largest group first."""
    shuffled = list(groups)
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    first: list[int] = []
    second: list[int] = []
    for group in sorted(shuffled, key=len, reverse=True):
        min(first, second, key=len).extend(group)
    return np.array(sorted(first), dtype=np.int64), np.array(sorted(second), dtype=np.int64)


def _groups(pairs: Sequence[tuple[int, int]], places: Iterable[int]) -> list[list[int]]:
    """Group comparisons, given by their places, so that those of different groups share no text."""
    parent: dict[int, int] = {}

    def root(text: int) -> int:
        while parent.setdefault(text, text) != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    places = list(places)
    for place in places:
        left, right = pairs[place]
        parent[root(left)] = root(right)
    groups: dict[int, list[int]] = {}
    for place in places:
        groups.setdefault(root(pairs[place][0]), []).append(place)
    return list(groups.values())


def _parted(pairs: Sequence[tuple[int, int]], group: Sequence[int]) -> list[list[int]]:
    """Part the texts of a group into two, so that many comparisons are within a part; return these, grouped.

    The first part is the half of the texts that are nearest to one of the texts, in steps from comparison to
    comparison. A text that is compared with most others is thus in a part with these.
    """
    beside: dict[int, list[int]] = {}
    for place in group:
        left, right = pairs[place]
        beside.setdefault(left, []).append(right)
        beside.setdefault(right, []).append(left)
    start = min(beside, key=lambda text: len(beside[text]))
    order = dict.fromkeys([start])
    for text in (waiting := [start]):
        new = [other for other in dict.fromkeys(beside[text]) if other not in order]
        order.update(dict.fromkeys(new))
        waiting.extend(new)
    first = set(waiting[: len(waiting) // 2])
    kept = [place for place in group if (pairs[place][0] in first) == (pairs[place][1] in first)]
    return _groups(pairs, kept)


def _numbered(columns: Sequence[Sequence[str]]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Return the different texts of columns, and the columns as indices into them."""
    texts = dict.fromkeys(text for column in columns for text in column)
    index_of = {text: index for index, text in enumerate(texts)}
    return list(texts), [np.array([index_of[text] for text in column], dtype=np.int64) for column in columns]


def _ranks(numbers_N: Numbers) -> Numbers:
    """Rank numbers; equal numbers get their mean rank."""
    _, place_N, count = np.unique(numbers_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return np.asarray((ends - (count - 1) / 2)[place_N], dtype=np.float64)
