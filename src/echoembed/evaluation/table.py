"""Scores as the paper's tables show them: in seven categories, with the averages of tasks and of categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from echoembed.evaluation.store import Score
from echoembed.evaluation.task import KINDS


@dataclass(frozen=True)
class Averages:
    """One recipe's means, 0 to 1."""

    kinds: dict[str, float]
    """Mean of each category that has a task, in the paper's order."""
    tasks: float
    """Mean of all tasks: the paper's "average"."""
    categories: float
    """Mean of the categories' means."""


def averages(scores: Sequence[Score]) -> Averages:
    """The means of one recipe's scores; at least one score."""
    kinds = {kind: fmean(score.score for score in scores if score.kind == kind) for kind in kinds_of(scores)}
    return Averages(kinds, fmean(score.score for score in scores), fmean(kinds.values()))


def kinds_of(scores: Sequence[Score]) -> list[str]:
    """The categories among scores, in the paper's order; others after them."""
    present = dict.fromkeys(score.kind for score in scores)
    return [kind for kind in KINDS if kind in present] + [kind for kind in present if kind not in KINDS]


def columns(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Scores by recipe; recipes of one name are told apart by their fingerprints."""
    prints: dict[str, set[str]] = {}
    for score in scores:
        prints.setdefault(score.recipe, set()).add(score.fingerprint)
    groups: dict[str, list[Score]] = {}
    for score in scores:
        twice = len(prints[score.recipe]) > 1
        groups.setdefault(f"{score.recipe} {score.fingerprint[:4]}" if twice else score.recipe, []).append(score)
    return groups


def table_rows(scores: Sequence[Score]) -> list[list[str]]:
    """Rows for a terminal: task, metric and a score times 100 for each of ``columns``.

    Tasks stand under the mean of their category, the two averages at the end. A mean is over the tasks that a recipe
    was scored on; it has a star where other recipes were scored on more.
    """
    by_recipe = list(columns(scores).values())
    kinds = kinds_of(scores)
    rows = []
    for kind in kinds:
        tasks = {score.task: score.metric for score in scores if score.kind == kind}
        means = [_mean([score.score for score in own if score.kind == kind], len(tasks)) for own in by_recipe]
        rows.append([f"{kind} ({len(tasks)})", "mean", *means])
        rows += [[f"  {task}", metric, *(_one(task, kind, own) for own in by_recipe)] for task, metric in tasks.items()]
    count = len({(score.kind, score.task) for score in scores})
    rows.append([f"All tasks ({count})", "mean", *(_mean([score.score for score in own], count) for own in by_recipe)])
    means = [_mean(list(averages(own).kinds.values()), len(kinds), partial=len(own) < count) for own in by_recipe]
    rows.append([f"All categories ({len(kinds)})", "mean", *means])
    return rows


def _one(task: str, kind: str, scores: Sequence[Score]) -> str:
    value = next((score.score for score in scores if (score.task, score.kind) == (task, kind)), None)
    return "-" if value is None else f"{100 * value:.2f}"


def _mean(values: Sequence[float], count: int, *, partial: bool = False) -> str:
    if not values:
        return "-"
    return f"{100 * fmean(values):.2f}{'*' if partial or len(values) < count else ''}"
