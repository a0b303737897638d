"""Beyond the paper: how certain is the difference between echo and classical on STS?

A bootstrap: the pairs of every set are resampled with replacement, and the mean difference of the correlations is
computed each time. 2.5 % of the draws lie below the interval, and 2.5 % above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from echoembed import plots
from echoembed.evaluation.items import Array, correlation
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, work_of_set
from echoembed.experiments.results import Row, values
from echoembed.model.transformer import transformer_of
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 1000
NAMES = ("echo", "classical")
ALL = "mean of the sets"


def plan(bench: Bench) -> Plan:
    """Plan echo and classical on STS."""
    return scoretable.sts_plan(bench, [recipes[name] for name in NAMES], draws=DRAWS, form=2)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each set, and one for their mean."""
    setting = bench.setting
    random = np.random.default_rng(setting.seed)
    drawn: list[Array] = []
    rows: list[Row] = []
    name = bench.shown(transformer_of(bench.models.get(bench.model_name, plan.recipes[0])).name)
    for pairs in bench.sts_pairs:
        echo, classical = [cosines(bench, recipe, pairs.first, pairs.second) for recipe in NAMES]
        gold = np.asarray(pairs.gold)
        differences = bootstrap(difference, echo, classical, gold, random=random)
        drawn.append(differences)
        observed = difference(echo, classical, gold)
        rows.append(_row(name, pairs.name, len(gold), observed, differences))
        bench.progress.done(work_of_set(plan, pairs.name), f"bootstrap of {pairs.name}")
    means = np.mean(drawn, axis=0)
    rows.append(
        _row(name, ALL, sum(row["pairs"] for row in rows), float(np.mean([r["difference"] for r in rows])), means)
    )
    return rows


def cosines(bench: Bench, recipe: str, first: Sequence[str], second: Sequence[str]) -> Array:
    """Compute the cosines of pairs; vectors have length 1."""
    cosines_N: Array = np.sum(bench.vectors(recipe, first) * bench.vectors(recipe, second), axis=1, dtype=np.float64)
    return cosines_N


def difference(echo: Array, classical: Array, gold: Array) -> float:
    """Compute by how much echo's cosines correlate better with the gold scores than classical's."""
    return correlation(echo, gold) - correlation(classical, gold)


def bootstrap(statistic: Callable[..., float], *samples: Array, random: np.random.Generator) -> Array:
    """Compute a statistic of items that are resampled, with replacement, ``DRAWS`` times.

    Args:
        statistic: A function of as many arrays as there are samples.
        samples: Arrays of (N,), each with a value for each item. An item is drawn with all its values.
        random: The random generator.

    Returns:
        The statistics in float64, (``DRAWS``,).
    """
    count = len(samples[0])
    draws = [random.integers(count, size=count) for _ in range(DRAWS)]
    return np.asarray([statistic(*(sample[draw] for sample in samples)) for draw in draws])


def ends(drawn: Array) -> tuple[float, float]:
    """Return the 95 % interval of draws."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def ndcg_at_10(similarities_QP: Array, grades_QP: NDArray[np.int64]) -> Array:
    """Compute nDCG at 10 for each query.

    Args:
        similarities_QP: The similarity of each query to each passage.
        grades_QP: The grade of each passage, 0 if it is not relevant.

    Returns:
        Values in float64, (Q,), from 0 to 1. Their mean is the score of ``echoembed eval``.
    """
    from sklearn.metrics import ndcg_score

    return np.asarray(
        [
            ndcg_score(grades_P[None], similarities_P[None], k=10)
            for grades_P, similarities_P in zip(grades_QP, similarities_QP, strict=True)
        ]
    )


def _row(model: str, task: str, pairs: int, observed: float, drawn: Array) -> Row:
    low, high = ends(drawn)
    return {
        "model": model,
        "task": task,
        "pairs": pairs,
        "difference": observed,
        "low": low,
        "high": high,
        "draws": len(drawn),
    }


def summary(rows: list[Row]) -> Summary:
    """Summarise difference and interval of each set."""
    out = [
        [row["task"], str(row["pairs"]), *(f"{100 * row[key]:+.2f}" for key in ("difference", "low", "high"))]
        for row in rows
    ]
    notes = [f"Spearman correlation × 100, echo minus classical; 95 % interval of {DRAWS} draws; {rows[0]['model']}."]
    return Summary(["set", "pairs", "echo minus classical", "from", "to"], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw the intervals."""
    figure, axes = plots.figure(
        f"STS: how much better is echo than classical? 95 % bootstrap intervals ({rows[0]['model']})",
        width=7.5,
        height=1.2 + 0.34 * len(rows),
    )
    for place, row in enumerate(reversed(rows)):
        middle, low, high = (100 * row[key] for key in ("difference", "low", "high"))
        shade = plots.COLOURS["echo"] if row["task"] == ALL else "#555555"
        axes[0].errorbar(
            middle, place, xerr=[[max(middle - low, 0)], [max(high - middle, 0)]], fmt="o", color=shade, capsize=3
        )
    axes[0].axvline(0, color="black", linewidth=1, linestyle=":")
    axes[0].set_yticks(range(len(rows)), [row["task"] for row in reversed(rows)])
    axes[0].set_xlabel("Spearman correlation × 100, echo minus classical (right of 0: echo is better)")
    return figure


def interval_line(rows: list[Row]) -> str:
    """Put the mean over all sets into a sentence."""
    row = values(rows, task=ALL)[0]
    middle, low, high = (f"{100 * row[key]:+.2f}" for key in ("difference", "low", "high"))
    return f"Echo minus classical on STS: {middle} (95 % interval {low} to {high}) over {row['pairs']:,} pairs."


EXPERIMENT = Experiment(
    name="interval",
    title="How sure is the difference between echo and classical on STS?",
    source="beyond the paper",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
