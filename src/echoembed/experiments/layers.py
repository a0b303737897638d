"""Beyond the paper: which layer to pool, and what stopping early costs."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from echoembed import plots
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, named
from echoembed.experiments.results import Row, distinct, values
from echoembed.model.transformer import transformer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("classical", "echo")


def plan(bench: Bench) -> Plan:
    """Every layer of the model, on STS."""
    tasks = bench.kind("STS")
    count = transformer_of(bench.models.get(bench.model_name, "classical")).layers
    recipes = [named(name, f"{name}@{layer}", layer=layer) for name in METHODS for layer in (*range(count), -1)]
    settings = {"layers": count}
    needs = "" if tasks else scoretable.NO_DATA
    return Plan(recipes=recipes, tasks=tasks, settings=settings, models=(bench.model_name,), needs=needs)


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


def mean_at(rows: list[Row], method: str, layer: int) -> float:
    """Mean score of a method at a layer, in hundredths."""
    return 100 * fmean(row["score"] for row in values(rows, method=method, layer=layer))


def summary(rows: list[Row]) -> Summary:
    """Means by method and layer."""
    layers = sorted(distinct(rows, "layer"))
    out = [[method, *(f"{mean_at(rows, method, layer):.2f}" for layer in layers)] for method in METHODS]
    notes = [
        f"Mean Spearman correlation in hundredths over {len(distinct(rows, 'task'))} STS sets; {rows[0]['model']}.",
        "Layer 0 is the token embeddings. Up to layer k, k of the layers run: the cost grows in step.",
    ]
    return Summary(["method", *(f"layer {layer}" for layer in layers)], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Score against layer, and against cost."""
    layers = sorted(distinct(rows, "layer"))
    drawn, axes = plots.figure(
        f"STS by the layer that is pooled ({rows[0]['model']})", columns=2, width=9, height=3.5, sharey=True
    )
    for method in METHODS:
        scores = [mean_at(rows, method, layer) for layer in layers]
        costs = [values(rows, method=method, layer=layer)[0]["cost"] for layer in layers]
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "label": method, "color": plots.colour(method)}
        axes[0].plot(layers, scores, **style)
        axes[1].plot(costs, scores, **style)
    axes[0].set(xlabel="layer (0: token embeddings)", ylabel="mean Spearman correlation in hundredths")
    axes[0].set_xticks(layers)
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
