"""Table 3: what if the causal mask is simply taken away, without training (section 4.3)?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Experiment, Summary
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = [recipes[name] for name in ("echo", "classical", "classical-bidirectional")]
_KEYS = {"echo": "echo", "classical": "classical_causal", "classical-bidirectional": "classical_bidirectional"}


def summary(rows: list[Row]) -> Summary:
    """Averages of all tasks, ours and the paper's for each of its models."""
    table = paper_table("table3")
    ours = {name: scoretable.by_kind(values(rows, recipe=name))["average"] for name in distinct(rows, "recipe")}
    out = [[f"ours, {rows[0]['model']}", *(f"{ours[name]:.2f}" for name in _KEYS)]]
    out += [[f"paper, {row['model']}", *(f"{row[key]:.2f}" for key in _KEYS.values())] for row in table.rows]
    tasks = len(distinct(rows, "task"))
    return Summary(["model", *_KEYS], out, [f"Averages: ours over {tasks} local tasks, the paper's over {table.data}."])


def plot(rows: list[Row]) -> Figure:
    """Averages, grouped by model."""
    table = paper_table("table3")
    groups = [rows[0]["model"], *(f"{row['model']}\n(paper)" for row in table.rows)]
    series = {
        name: [scoretable.by_kind(values(rows, recipe=name))["average"], *(row[key] for row in table.rows)]
        for name, key in _KEYS.items()
    }
    drawn, axes = plots.figure("Taking the causal mask away without training, against reading twice")
    plots.bars(axes[0], groups, series, label="average score × 100")
    axes[0].legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return drawn


EXPERIMENT = Experiment(
    name="table3",
    title="Does taking the causal mask away, without training, do what reading twice does?",
    source="Table 3, Section 4.3",
    plan=scoretable.plan_of(RECIPES),
    run=scoretable.run_scores,
    summary=summary,
    plot=plot,
)
