"""Table 4: which states to pool, all states of the last copy or only the last state (section 4.3)?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.others import BAG, installed
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"Echo": ("echo", "echo-last"), "Classical": ("classical", "classical-last")}
RECIPES = [recipes[name] for name in (*(name for pair in NAMES.values() for name in pair), BAG)]


def plan(bench: Bench) -> Plan:
    """The recipes, and what stands beside them, on all local tasks."""
    beside = [system.identity for system in installed(bench)] if bench.tasks else []
    return replace(scoretable.plan_of(RECIPES)(bench), settings={"beside": beside})


def run(bench: Bench, plan: Plan) -> list[Row]:
    """A row per recipe or system beside them, and task."""
    beside = bench.system_scores(installed(bench), plan.tasks)
    return [*scoretable.run_scores(bench, plan), *beside]


def _average(rows: list[Row], name: str) -> float:
    return scoretable.by_kind(values(rows, recipe=name))["average"]


def summary(rows: list[Row]) -> Summary:
    """Summarise averages by pooling, ours and the paper's."""
    table = paper_table("table4")
    out = []
    for method, (mean, last) in NAMES.items():
        paper = table.find(method=method)
        out.append([method, f"ours, {rows[0]['model']}", f"{_average(rows, mean):.2f}", f"{_average(rows, last):.2f}"])
        out.append([method, "paper", f"{paper['mean']:.2f}", f"{paper['last']:.2f}"])
    ours = {name for pair in NAMES.values() for name in pair}
    for name in distinct(rows, "recipe"):
        if name not in ours:
            out.append([name, f"ours, {values(rows, recipe=name)[0]['model']}", f"{_average(rows, name):.2f}", "-"])
    notes = [f"The paper's rows: {table.model}, on {table.data}; our data are others."]
    return Summary(["method", "whose", "mean", "last"], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw bars by method and pooling, with the paper's numbers as diamonds."""
    table = paper_table("table4")
    figure, axes = plots.figure(
        f"Pooling the mean of the states, or the last state\n({rows[0]['model']}; diamonds: {table.model})",
        width=6,
    )
    for place, (method, names) in enumerate(NAMES.items()):
        paper = table.find(method=method)
        for number, (pooling, name) in enumerate(zip(("mean", "last"), names, strict=True)):
            at = place + (number - 0.5) * 0.4
            axes[0].bar(
                at,
                _average(rows, name),
                width=0.37,
                color=plots.colour(name),
                alpha=1 - 0.5 * number,
                label=f"{method}, {pooling}",
            )
            axes[0].scatter(at, paper[pooling], label=None if place or number else "paper", **plots.PAPER)
    axes[0].set_xticks(range(len(NAMES)), list(NAMES))
    axes[0].grid(axis="x", visible=False)
    axes[0].set_ylabel("average score × 100")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


EXPERIMENT = Experiment(
    name="table4",
    title="Without training: is it better to pool the mean, or the last state?",
    source="Table 4, Section 4.3",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
