"""Beyond the paper: one copy of the text, two, or three?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.experiments import scoretable, sweep
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, renamed
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
    """Plan echo's prompt with one to three copies, the last copy pooled, on STS."""
    recipes = [
        renamed("echo", f"echo, {count}", query_template=text, document_template="")
        for count, text in TEMPLATES.items()
    ]
    return scoretable.sts_plan(bench, recipes, few=True)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each number of copies and task."""
    return [
        row
        for recipe in plan.recipes
        for row in bench.scores([recipe], plan.tasks, copies=recipe.template("query").copies)
    ]


def summary(rows: list[Row]) -> Summary:
    """Summarise scores by task."""
    tasks = distinct(rows, "task")
    scores = sweep.table(rows, by="copies", x="task", at=tasks)
    out = [[*cells, f"{sweep.mean_score(rows, copies=int(cells[0])):.2f}"] for cells in scores]
    notes = [f"Spearman correlation × 100; {rows[0]['model']}. Only the last copy is pooled; the prompt is echo's."]
    return Summary(["readings", *tasks, "mean"], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw score against the number of copies."""
    figure, axes = plots.figure(f"STS by the number of readings ({rows[0]['model']})", width=6)
    sweep.curves(axes[0], rows, by="task", x="copies", label=None, color="#999999", linewidth=1, markersize=3)
    most = max(TEMPLATES)
    sweep.curves(axes[0], rows, by=None, x="copies", label="mean", color=plots.COLOURS["echo"], linewidth=2.2)
    axes[0].set(xlabel="how often the text is read; the last reading is pooled", ylabel="Spearman correlation × 100")
    axes[0].set_xticks(list(TEMPLATES))
    axes[0].set_xlim(right=most + 0.3)
    axes[0].legend()
    ends = [(most, 100 * row["score"], str(row["task"])) for row in values(rows, copies=most)]
    plots.named_points(axes[0], [(float(x), y, name) for x, y, name in ends])
    return figure


EXPERIMENT = Experiment(
    name="copies",
    title="Should the model read a text once, twice, or three times?",
    source="beyond the paper",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
