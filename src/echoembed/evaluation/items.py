"""A system's results on every item of a task, from which differences between systems get bootstrap intervals.

mteb returns a task's score and, on request, its predictions. From these, each kind of task has items that can be
resampled, and a statistic of them that is the task's score:

    STS                    pairs      Spearman correlation of cosine and gold score
    PairClassification     pairs      average precision of the cosines
    Classification         texts      share of ten classifiers that predict the right label; the mean
    Clustering             texts      V-measure of clusters and labels
    Retrieval, Reranking   queries    nDCG at 10, or average precision; the mean

Items are in the order of the data, which is the same for every system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
Items = Mapping[str, Sequence[float]]
"""Either ``outcome``, whose mean is the score, or ``estimate`` and ``truth``, whose statistic is the score."""
DRAWS = 1000


def items_of(kind: str, metric: str, predictions: Any, split: Any) -> dict[str, list[float]] | None:
    """Return the items of a task.

    Args:
        kind: One of ``KINDS``.
        metric: The name of the task's score.
        predictions: mteb's predictions for one split.
        split: mteb's data of that split.

    Returns:
        The items; None for kinds without items here.
    """
    if kind in ("STS", "PairClassification"):
        truth = split["score" if kind == "STS" else "labels"]
        return {"estimate": _floats(predictions["cosine_scores"]), "truth": _floats(truth)}
    if kind == "Classification":
        right_EN = np.asarray(predictions) == np.asarray(split["label"])
        return {"outcome": _floats(right_EN.mean(axis=0))}
    if kind == "Clustering" and len(predictions) == 1:
        [labels] = split["labels"]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        return {"estimate": _floats(predictions[0]), "truth": [float(numbers[label]) for label in labels]}
    if kind in ("Retrieval", "Reranking"):
        return {"outcome": _by_query(metric, predictions, split["relevant_docs"])}
    return None


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _by_query(metric: str, results: Mapping[str, Mapping[str, float]], judged: Any) -> list[float]:
    import pytrec_eval

    name, _, cut = metric.rpartition("_at_")
    measure = {"ndcg": "ndcg_cut", "map": "map_cut"}[name]
    grades = {str(query): {str(key): int(grade) for key, grade in row.items()} for query, row in judged.items()}
    scores = pytrec_eval.RelevanceEvaluator(grades, {f"{measure}.{cut}"}).evaluate(
        {query: dict(cosines) for query, cosines in results.items()}
    )
    return [float(scores[query][f"{measure}_{cut}"]) for query in grades if query in scores]


def statistic(kind: str) -> Callable[..., float]:
    """Return the function of the arrays of ``Items``, ``estimate`` before ``truth``, that gives a task's score."""
    if kind == "STS":
        return correlation
    if kind == "PairClassification":
        return _average_precision
    return _v_measure if kind == "Clustering" else lambda outcome: float(np.mean(outcome))


def score_of(kind: str, items: Items) -> float:
    """Compute a task's score from its items."""
    return statistic(kind)(*_arrays(items))


def _arrays(items: Items) -> list[Array]:
    return [np.asarray(items[name], dtype=np.float64) for name in ("estimate", "truth", "outcome") if name in items]


def correlation(estimate_N: Array, truth_N: Array) -> float:
    """Compute Spearman's rank correlation; 0 if one of the two is constant."""
    ranks = rankdata([estimate_N, truth_N], axis=1)
    return float(np.corrcoef(ranks)[0, 1]) if np.ptp(ranks, axis=1).all() else 0.0


def _average_precision(estimate_N: Array, truth_N: Array) -> float:
    """Compute the average precision, as scikit-learn, whose checks would take most of the time of a thousand draws."""
    order = np.argsort(-estimate_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(estimate_N[order])), len(order) - 1)  # equal cosines are one threshold
    right = np.cumsum(truth_N[order])[ends]
    if right[-1] == 0:
        return 0.0
    return float(np.sum(np.diff(right, prepend=0.0) * right / (ends + 1)) / right[-1])


def _v_measure(estimate_N: Array, truth_N: Array) -> float:
    """Compute twice the mutual information, divided by the sum of both entropies."""
    joint = np.zeros((int(truth_N.max()) + 1, int(estimate_N.max()) + 1))
    np.add.at(joint, (truth_N.astype(int), estimate_N.astype(int)), 1 / len(truth_N))
    both = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return 2 * (both - _entropy(joint.ravel())) / both if both > 0 else 1.0


def _entropy(share: Array) -> float:
    positive = share[share > 0]
    return float(-np.sum(positive * np.log(positive)))


def differences(kind: str, left: Items, right: Items, *, random: np.random.Generator, draws: int = DRAWS) -> Array:
    """Bootstrap the difference between two systems' scores, with the same items drawn for both.

    Returns:
        The differences, left minus right, in float64, (draws,).
    """
    score = statistic(kind)
    left_arrays, right_arrays = _arrays(left), _arrays(right)
    count = len(left_arrays[0])
    samples = (random.integers(count, size=count) for _ in range(draws))
    return np.asarray(
        [
            score(*(array[sample] for array in left_arrays)) - score(*(array[sample] for array in right_arrays))
            for sample in samples
        ]
    )
