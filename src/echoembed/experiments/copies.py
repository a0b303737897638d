"""Beyond the paper: one reading, two, or three?"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, named
from echoembed.experiments.results import Row, distinct, values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = {
    1: "{bos}Rewrite the following paragraph: {text:pool}",
    2: "{bos}Rewrite the following paragraph: {text} The rewritten paragraph: {text:pool}",
    3: "{bos}Rewrite the following paragraph: {text} The rewritten paragraph: {text} "
    "The rewritten paragraph: {text:pool}",
}


def plan(bench: Bench) -> Plan:
    """Echo's prompt with one to three readings, the last one pooled, on STS."""
    tasks = bench.kind("STS")
    recipes = [
        named("echo", f"echo, {count}", query_template=text, document_template="") for count, text in TEMPLATES.items()
    ]
    return Plan(recipes=recipes, tasks=tasks, models=(bench.model_name,), needs="" if tasks else scoretable.NO_DATA)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """A row per number of readings and task."""
    return [
        row
        for recipe in plan.recipes
        for row in bench.scores([recipe], plan.tasks, copies=recipe.template("query").copies)
    ]


def summary(rows: list[Row]) -> Summary:
    """Scores by task."""
    tasks = distinct(rows, "task")
    out = []
    for copies in TEMPLATES:
        own = values(rows, copies=copies)
        cells = [100 * row["score"] for row in own]
        out.append([str(copies), *(f"{value:.2f}" for value in (*cells, fmean(cells)))])
    notes = [
        f"Spearman correlation in hundredths; {rows[0]['model']}. The last reading is pooled; the prompt is echo's."
    ]
    return Summary(["readings", *tasks, "mean"], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Score against the number of readings."""
    drawn, axes = plots.figure(f"STS by the number of readings ({rows[0]['model']})", width=6)
    places = list(TEMPLATES)
    for task in distinct(rows, "task"):
        scores = [100 * values(rows, task=task, copies=copies)[0]["score"] for copies in places]
        axes[0].plot(places, scores, color="#999999", linewidth=1, marker="o", markersize=3)
        axes[0].annotate(task, (places[-1], scores[-1]), xytext=(5, -3), textcoords="offset points", fontsize=7)
    means = [100 * fmean(row["score"] for row in values(rows, copies=copies)) for copies in places]
    axes[0].plot(places, means, color=plots.COLOURS["echo"], marker="o", linewidth=2.2, label="mean")
    axes[0].set(
        xlabel="how often the text is read; the last reading is pooled", ylabel="Spearman correlation in hundredths"
    )
    axes[0].set_xticks(places)
    axes[0].set_xlim(right=places[-1] + 0.25)
    axes[0].legend()
    return drawn


EXPERIMENT = Experiment(
    name="copies",
    title="One reading, two, or three?",
    source="beyond the paper",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
