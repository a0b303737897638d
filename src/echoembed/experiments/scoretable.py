"""The common parts of the tables: rows of systems, columns of categories, the paper's numbers below ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from echoembed import plots
from echoembed.evaluation.task import KINDS, Task
from echoembed.experiments.experiment import Bench, Plan, Summary
from echoembed.experiments.paper import FIELDS, PaperTable
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_DATA = "a folder of local tasks: --data FOLDER"
NO_STS = "an STS set in --data: sts/NAME/test.jsonl"


def needs(bench: Bench, tasks: Sequence[Task], otherwise: str = NO_STS) -> str:
    """Return what an experiment lacks if it has no tasks: the data, or the kind of data set that it needs in them."""
    return "" if tasks else NO_DATA if bench.setting.data is None else otherwise


def plan_of(recipes: Sequence[Recipe], *kinds: str) -> Callable[[Bench], Plan]:
    """Return a function that plans recipes on the local tasks, of all categories or of the given ones."""

    def plan(bench: Bench) -> Plan:
        tasks = bench.tasks_of(*kinds) if kinds else bench.tasks
        return Plan(recipes=recipes, tasks=tasks, models=(bench.model_name,), needs="" if tasks else NO_DATA)

    return plan


def sts_plan(bench: Bench, recipes: Sequence[Recipe], *, few: bool = False, **settings: Any) -> Plan:
    """Plan recipes on the STS sets (with ``few``, on a few of them if quick), with further settings."""
    names = {task.name for task in bench.few}
    tasks = [task for task in bench.sts_tasks if task.name in names or not few]
    return Plan(recipes=recipes, tasks=tasks, settings=settings, models=(bench.model_name,), needs=needs(bench, tasks))


def run_scores(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each recipe and task."""
    return [row for model in plan.models for row in bench.scores(plan.recipes, plan.tasks, model=model)]


def by_kind(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean score × 100 of each category, and of all tasks (``average``), of at least one row."""
    kinds = [kind for kind in KINDS if values(rows, kind=kind)]
    means = {kind: 100 * fmean(row["score"] for row in values(rows, kind=kind)) for kind in kinds}
    return {**means, "average": 100 * fmean(row["score"] for row in rows)}


def category_summary(
    rows: Sequence[Row],
    table: PaperTable,
    pairs: Mapping[str, Mapping[str, str]],
    *,
    column: str = "recipe",
    missing: Sequence[str] = (),
) -> Summary:
    """Summarise our scores and the paper's, by category.

    Args:
        rows: Our scores.
        table: The paper's table.
        pairs: The name of our row → the values by which its row is found in the paper's table.
        column: The column that names our rows.
        missing: Lines on systems that did not run.
    """
    kinds = [kind for kind in KINDS if values(rows, kind=kind)]
    out = []
    for name in distinct(rows, column):
        means = by_kind(values(rows, **{column: name}))
        model = values(rows, **{column: name})[0]["model"]
        whole = all(kind in means for kind in kinds)
        cells = [_two(means.get(kind)) for kind in kinds]
        out.append([name, f"ours, {model}", *cells, f"{means['average']:.2f}" if whole else "-"])
    for name, equal in pairs.items():
        row = table.find(**equal)
        if row:
            cells = [_two(row.get(FIELDS[kind])) for kind in kinds]
            out.append([name, "paper", *cells, _two(row.get("average"))])
    counts = {kind: len(distinct(values(rows, kind=kind), "task")) for kind in kinds}
    columns = ["system", "whose", *(f"{spaced(kind)} ({counts[kind]})" for kind in kinds), "average"]
    notes = [
        f"The paper's rows: {table.model}, on {table.data}. Our data are others: compare the order of the rows, not "
        "the scores. A sampled corpus is easier to search.",
        *missing,
    ]
    return Summary(columns, out, notes)


MOST_BARS = 8
"""The most systems in one picture; the table has all of them."""


def category_plot(
    rows: Sequence[Row],
    title: str,
    table: PaperTable,
    pairs: Mapping[str, Mapping[str, str]],
) -> Figure:
    """Draw bars by category, with the paper's numbers as diamonds on their bars."""
    kinds = [kind for kind in KINDS if values(rows, kind=kind)]
    groups = [*kinds, "average"]
    names = [name for name in distinct(rows, "recipe") if name not in plots.LEFT_OUT][:MOST_BARS]
    figure, axes = plots.figure(f"{title}\n({rows[0]['model']}; diamonds: {table.model})", width=9.5, height=4.4)
    means = {name: by_kind(values(rows, recipe=name)) for name in names}
    whole = [name for name in names if len(means[name]) == len(groups)]  # an average of some categories misleads
    series: dict[str, Sequence[float | None]] = {
        name: [means[name].get(group) if group != "average" or name in whole else None for group in groups]
        for name in names
    }
    labels = [spaced(group).replace(" ", "\n") for group in groups]
    plots.bars(axes[0], labels, series, label="score × 100")
    wide = 0.8 / len(names)
    marked = False
    for number, name in enumerate(names):
        row = table.find(**pairs[name]) if name in pairs else {}
        for place, group in enumerate(groups):
            height = row.get(FIELDS.get(group, "average"))
            if height is not None:
                axes[0].scatter(
                    place + (number - (len(names) - 1) / 2) * wide,
                    height,
                    label=None if marked else "paper",
                    **plots.PAPER,
                )
                marked = True
    axes[0].set_ylim(bottom=min(0, *(value or 0 for heights in series.values() for value in heights)))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def spaced(kind: str) -> str:
    """Return a category's name in words."""
    return "Pair classification" if kind == "PairClassification" else kind
