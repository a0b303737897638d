"""Beyond the paper: which layer to pool, and what stopping early costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.experiments import scoretable, sweep
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, named
from echoembed.experiments.results import Row, distinct
from echoembed.model.transformer import transformer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("classical", "echo")


def plan(bench: Bench) -> Plan:
    """Every layer of the model, on STS."""
    count = transformer_of(bench.models.get(bench.model_name, "classical")).layers
    recipes = [named(name, f"{name}@{layer}", layer=layer) for name in METHODS for layer in (*range(count), -1)]
    return scoretable.sts_plan(bench, recipes, layers=count)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """A row per method, layer and task; ``cost`` is the share of the layers that run."""
    count = plan.settings["layers"]
    rows: list[Row] = []
    for recipe in plan.recipes:
        method = recipe.name.partition("@")[0]
        layer = count if recipe.layer == -1 else recipe.layer
        readings = recipe.template("query").copies
        rows += bench.scores([recipe], plan.tasks, method=method, layer=layer, cost=readings * layer / count)
    return rows


def summary(rows: list[Row]) -> Summary:
    """Means by method and layer."""
    layers = sorted(distinct(rows, "layer"))
    notes = [
        f"Mean Spearman correlation × 100 over {len(distinct(rows, 'task'))} STS sets; {rows[0]['model']}.",
        "Layer 0 is the token embeddings. Up to layer k, k of the layers run: the cost grows in step.",
    ]
    out = sweep.table(rows, by="method", x="layer", at=layers)
    return Summary(["method", *(f"layer {layer}" for layer in layers)], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Score against layer, and against cost."""
    title = f"STS by the layer that is pooled ({rows[0]['model']})"
    drawn, axes = plots.figure(title, columns=2, width=9, height=3.5, sharey=True)
    sweep.curves(axes[0], rows, by="method", x="layer")
    sweep.curves(axes[1], rows, by="method", x="cost")
    axes[0].set(xlabel="layer (0: token embeddings)", ylabel="mean Spearman correlation × 100")
    axes[0].set_xticks(sorted(distinct(rows, "layer")))
    axes[1].set(xlabel="cost: readings times share of the layers (1: classical, whole model)")
    axes[0].legend()
    return drawn


EXPERIMENT = Experiment(
    name="layers",
    title="Which layer to pool, and what does stopping early cost?",
    source="beyond the paper",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
