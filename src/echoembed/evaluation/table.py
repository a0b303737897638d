"""Scores as in the paper's tables: seven categories, with the averages over tasks and over categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from echoembed.evaluation.store import Score
from echoembed.evaluation.task import KINDS


@dataclass(frozen=True)
class Averages:
    """The means of one recipe's scores, 0 to 1."""

    kinds: dict[str, float]
    """The mean of each category with a task, in the paper's order."""
    tasks: float
    """The mean of all tasks, which is the paper's "average"."""
    categories: float
    """The mean of the categories' means."""


def averages(scores: Sequence[Score]) -> Averages:
    """Compute the means of one recipe's scores, which are at least one."""
    kinds = {kind: fmean(score.score for score in scores if score.kind == kind) for kind in kinds_of(scores)}
    return Averages(kinds, fmean(score.score for score in scores), fmean(kinds.values()))


def kinds_of(scores: Sequence[Score]) -> list[str]:
    """Return the categories of scores, in the paper's order; other categories come last."""
    present = dict.fromkeys(score.kind for score in scores)
    return [kind for kind in KINDS if kind in present] + [kind for kind in present if kind not in KINDS]


def columns(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Group scores by recipe; recipes with the same name are distinguished by their fingerprints."""
    prints: dict[str, set[str]] = {}
    for score in scores:
        prints.setdefault(score.recipe, set()).add(score.fingerprint)
    groups: dict[str, list[Score]] = {}
    for score in scores:
        ambiguous = len(prints[score.recipe]) > 1
        groups.setdefault(f"{score.recipe} {score.fingerprint[:4]}" if ambiguous else score.recipe, []).append(score)
    return groups


def table_rows(scores: Sequence[Score]) -> list[list[str]]:
    """Return rows for a terminal: task, metric and a score × 100 for each of ``columns``.

    The tasks of a category follow its mean; the two averages come last. A mean is over the tasks that a recipe was
    scored on; it has a star if other recipes were scored on more tasks.
    """
    by_recipe = list(columns(scores).values())
    kinds = kinds_of(scores)
    rows = []
    for kind in kinds:
        tasks = {score.task: score.metric for score in scores if score.kind == kind}
        means = [_mean([score.score for score in column if score.kind == kind], len(tasks)) for column in by_recipe]
        rows.append([f"{kind} ({len(tasks)})", "mean", *means])
        rows += [
            [f"  {task}", metric, *(_cell(task, kind, column) for column in by_recipe)]
            for task, metric in tasks.items()
        ]
    count = len({(score.kind, score.task) for score in scores})
    means = [_mean([score.score for score in column], count) for column in by_recipe]
    rows.append([f"All tasks ({count})", "mean", *means])
    means = [
        _mean(list(averages(column).kinds.values()), len(kinds), partial=len(column) < count) for column in by_recipe
    ]
    rows.append([f"All categories ({len(kinds)})", "mean", *means])
    return rows


def _cell(task: str, kind: str, scores: Sequence[Score]) -> str:
    value = next((score.score for score in scores if (score.task, score.kind) == (task, kind)), None)
    return "-" if value is None else f"{100 * value:.2f}"


def _mean(values: Sequence[float], count: int, *, partial: bool = False) -> str:
    if not values:
        return "-"
    return f"{100 * fmean(values):.2f}{'*' if partial or len(values) < count else ''}"
