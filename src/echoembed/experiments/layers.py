"""Beyond the paper: which layer to pool, and what stopping early costs.

One forward passes through every layer, so that one reading gives the vectors of all layers. They are scored as they
are, and z-scored: each dimension minus its mean, divided by its standard deviation. Both are fitted on texts of the
data's ``train`` sets, none of which is scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from echoembed import plots
from echoembed.evaluation.cache import Vectors
from echoembed.evaluation.items import correlation
from echoembed.experiments import scoretable, sweep
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, digest_of, work_of_set
from echoembed.experiments.results import Row, distinct, values
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Pooling, recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("classical", "echo", "prompteol")
RAW, Z = "as they are", "z-scored"


def plan(bench: Bench) -> Plan:
    """Plan every layer of every model, on STS."""
    methods = [recipes[name] for name in METHODS]
    plan = scoretable.sts_plan(bench, methods, calibrated=digest_of(bench.calibration_texts), form=2)
    return replace(plan, models=bench.setting.models)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each model, method, form, layer and task; ``cost`` is copies × the share of layers that run."""
    sets = bench.sts_pairs
    rows: list[Row] = []
    few = [pairs for pairs in sets if pairs.name in {task.name for task in bench.few}] or sets
    for model in plan.models:
        model_sets = sets if model == bench.model_name else few
        for recipe in plan.recipes:
            loaded = bench.models.get(model, recipe)
            transformer = transformer_of(loaded)
            shown = bench.shown(transformer.name, model)
            count, readings = transformer.layers, recipe.template("query").copies

            def read(texts: list[str], layer: int, loaded: Any = loaded, pooling: Pooling = recipe.pooling) -> Vectors:
                prompts = transformer_of(loaded).reader.render(texts, task="query")
                vectors_ND: Vectors = bench.layers.vectors(loaded, prompts, [layer], pooling)[:, 0]
                return vectors_ND

            for pairs in sets:  # one forward for all layers
                if pairs in model_sets:
                    bench.layers.fill(loaded, transformer.reader.render([*pairs.first, *pairs.second], task="query"))
                share = work_of_set(plan, pairs.name) / len(plan.recipes)
                bench.progress.done(share, f"{pairs.name}, {recipe.name}, {shown}")

            for layer in range(count + 1):
                forms: dict[str, Callable[[Vectors], Vectors]] = {RAW: _same}
                if bench.calibration_texts:
                    forms[Z] = z_scores(read(bench.calibration_texts, layer))
                for pairs in model_sets:
                    left_ND, right_ND = read(pairs.first, layer), read(pairs.second, layer)
                    for form, apply in forms.items():
                        score = correlation(_cosines(apply(left_ND), apply(right_ND)), np.asarray(pairs.gold))
                        rows.append(
                            {
                                "model": shown,
                                "method": recipe.name,
                                "form": form,
                                "layer": layer,
                                "cost": readings * layer / count,
                                "task": pairs.name,
                                "pairs": len(pairs.gold),
                                "score": score,
                            }
                        )
    return rows


def z_scores(fitted_on_ND: Vectors) -> Callable[[Vectors], Vectors]:
    """Return a function that z-scores vectors by the means and deviations of the given ones."""
    mean_D = fitted_on_ND.mean(axis=0)
    deviation_D = np.maximum(fitted_on_ND.std(axis=0), 1e-6)

    def apply(vectors_ND: Vectors) -> Vectors:
        scored_ND: Vectors = (vectors_ND - mean_D) / deviation_D
        return scored_ND

    return apply


def _same(vectors_ND: Vectors) -> Vectors:
    return vectors_ND


def _cosines(left_ND: Vectors, right_ND: Vectors) -> Any:
    lengths_N = np.linalg.norm(left_ND, axis=1) * np.linalg.norm(right_ND, axis=1)
    return np.sum(left_ND * right_ND, axis=1, dtype=np.float64) / np.maximum(lengths_N, 1e-12)


def best(rows: list[Row], **equal: object) -> tuple[int, float]:
    """Return the layer with the highest mean score, and that score × 100."""
    equal_rows = values(rows, **equal)
    return max(
        ((layer, sweep.mean_score(equal_rows, layer=layer)) for layer in distinct(equal_rows, "layer")),
        key=lambda at: at[1],
    )


def _sets(rows: list[Row], model: str) -> str:
    """Describe what a model was scored on: ``6 sets, 1,200 pairs``, or ``stsb, 200 pairs``."""
    set_rows = values(rows, model=model, method=rows[0]["method"], form=RAW, layer=0)
    named = f"{len(set_rows)} sets" if len(set_rows) > 1 else set_rows[0]["task"]
    return f"{named}, {sum(row['pairs'] for row in set_rows):,} pairs"


def summary(rows: list[Row]) -> Summary:
    """Summarise for each method the first layer after the embeddings, the last layer, and the best."""
    out = []
    for model in distinct(rows, "model"):
        for method in distinct(rows, "method"):
            for form in distinct(rows, "form"):
                curve_rows = values(rows, model=model, method=method, form=form)
                last = max(distinct(curve_rows, "layer"))
                layer, score = best(curve_rows)
                cells = [sweep.mean_score(curve_rows, layer=at) for at in (1, last)]
                out.append(
                    [model, method, form, *(f"{cell:.2f}" for cell in cells), f"{score:.2f}", f"{layer} of {last}"]
                )
    read = [f"{model}: {_sets(rows, model)}" for model in distinct(rows, "model")]
    notes = [
        f"Mean Spearman correlation × 100 ({'; '.join(read)}).",
        "The best layer was chosen on the scored pairs, so its score is a little too high. Layer 0 is the token "
        "embeddings. To pool layer k, the model runs k layers, so the cost is in proportion to k.",
        "Layer 1 under classical is nearly a bag of words.",
    ]
    return Summary(["model", "method", "vectors", "layer 1", "last layer", "best layer", "which"], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw score against layer, a panel for each model, all with the same scale."""
    models = distinct(rows, "model")
    figure, axes = plots.figure(
        "STS by the pooled layer", columns=len(models), width=4.6 * len(models) + 0.4, height=3.9, sharey=True
    )
    for axis, model in zip(axes, models, strict=True):
        for form, style in ((RAW, "-"), (Z, ":")):
            for method in distinct(rows, "method"):
                curve_rows = values(rows, model=model, method=method, form=form)
                if curve_rows:
                    label = method if form == RAW else f"{method}, {Z}"
                    places = sorted(distinct(curve_rows, "layer"))
                    scores = [sweep.mean_score(curve_rows, layer=place) for place in places]
                    axis.plot(places, scores, style, color=plots.colour(method), label=label, linewidth=1.8)
        axis.set(title=f"{model}: {_sets(rows, model)}", xlabel="layer (0: token embeddings)")
        axis.set_xticks(range(0, max(distinct(values(rows, model=model), "layer")) + 1, 3))
    axes[0].set_ylabel("mean Spearman correlation × 100")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


EXPERIMENT = Experiment(
    name="layers",
    title="Which layer is the best to pool?",
    source="beyond the paper",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
