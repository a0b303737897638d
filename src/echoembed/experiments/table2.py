"""Tables 2 and 12: do the results hold for other models (section 4.3, appendix E.3)?

All given models run. Models of different families differ in more than their size, so that no effect of size is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.evaluation.task import KINDS
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.others import BAG, installed
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = [recipes[name] for name in ("echo", "classical", "prompteol", BAG)]
_PAPER = {
    f"{recipe}, {size}": {"system": f"{printed} {size}"}
    for size in ("1.3B", "7B")
    for recipe, printed in (("echo", "Echo"), ("classical", "Classical"), ("prompteol", "PromptEOL"))
}


def plan(bench: Bench) -> Plan:
    """Plan local tasks of every category, on all models."""
    needs = "" if bench.few else scoretable.NO_DATA
    settings = {"beside": [] if needs else [system.identity for system in installed(bench)]}
    return Plan(recipes=RECIPES, tasks=bench.few, models=bench.setting.models, settings=settings, needs=needs)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each model, recipe and task; then other encoders."""
    rows = scoretable.run_scores(bench, plan)
    rows = [{**row, "system": f"{row['recipe']}, {row['model']}"} for row in rows]
    return rows + [{**row, "system": row["recipe"]} for row in bench.system_scores(installed(bench), plan.tasks)]


def language_models(rows: list[Row]) -> list[str]:
    """The language models, without other encoders."""
    return distinct([row for row in rows if row["system"] != row["recipe"]], "model")


def summary(rows: list[Row]) -> Summary:
    """Summarise our scores by model, and the paper's."""
    models = language_models(rows)
    notes = []
    if len(models) > 1:
        notes.append(
            f"{' and '.join(models)} are of different families, trained on different texts: their rows show "
            "whether the order of methods is the same for both, and say nothing about size."
        )
    else:
        notes.append("One model says nothing about scale; add further models with --model NAME, repeated.")
    notes.append(
        "For the paper's models: --model princeton-nlp/Sheared-LLaMA-1.3B --model meta-llama/Llama-2-7b-chat-hf."
    )
    return scoretable.category_summary(rows, paper_table("table12"), _PAPER, column="system", missing=notes)


def plot(rows: list[Row]) -> Figure:
    """Draw bars by category, a panel for each model, all with the same scale."""
    models = language_models(rows)
    kinds = [kind for kind in KINDS if values(rows, kind=kind)]
    figure, axes = plots.figure(
        "Other models: echo, classical, PromptEOL, a bag of words",
        rows=len(models),
        width=8,
        height=0.9 + 2.5 * len(models),
        sharey=True,
        sharex=True,
    )
    for axis, model in zip(axes, models, strict=True):
        model_rows = [row for row in values(rows, model=model) if row["system"] != row["recipe"]]
        means = {name: scoretable.by_kind(values(model_rows, recipe=name)) for name in distinct(model_rows, "recipe")}
        groups = [*kinds, "average"]
        series = {name: [means[name].get(group) for group in groups] for name in means}
        plots.bars(axis, [scoretable.spaced(group).replace(" ", "\n") for group in groups], series, label="score × 100")
        axis.set_title(model)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


EXPERIMENT = Experiment(
    name="table2",
    title="Is echo ahead with other models too?",
    source="Tables 2 and 12, Section 4.3, Appendix E.3",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
    aliases=("table12",),
)
