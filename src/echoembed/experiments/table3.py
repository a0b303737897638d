"""Table 3: what if the causal mask is removed, without training or with a little (section 4.3)?

LLM2Vec's stages (``echoembed train``, objectives ``mntp`` and ``simcse``) teach a causal model to use bidirectional
attention. If such models are given, they are shown beside the paper's columns.
"""

from __future__ import annotations

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

RECIPES = [recipes[name] for name in ("echo", "classical", "classical-bidirectional", BAG)]
_KEYS = {"echo": "echo", "classical": "classical_causal", "classical-bidirectional": "classical_bidirectional"}


def plan(bench: Bench) -> Plan:
    """Plan the recipes, and models of LLM2Vec's stages, on local tasks of every category."""
    needs = "" if bench.few else scoretable.NO_DATA
    beside = [system.identity for system in installed(bench)] if bench.few else []
    settings = {"llm2vec": [] if needs else bench.llm2vec_identities(), "beside": beside}
    return Plan(recipes=RECIPES, tasks=bench.few, models=(bench.model_name,), settings=settings, needs=needs)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each recipe, trained model or system beside them, and task."""
    trained = bench.llm2vec_training()
    rows = [*scoretable.run_scores(bench, plan), *bench.llm2vec_scores(plan.tasks)]
    rows += bench.system_scores(installed(bench), plan.tasks)
    return [{**row, "training": trained.get(row["recipe"], "")} for row in rows]


def _average(rows: list[Row], name: str) -> float:
    return scoretable.by_kind(values(rows, recipe=name))["average"]


def _sts(rows: list[Row], name: str) -> float | None:
    return scoretable.by_kind(values(rows, recipe=name)).get("STS")


def summary(rows: list[Row]) -> Summary:
    """Summarise the averages of all tasks, ours and the paper's for each of its models."""
    table = paper_table("table3")
    names = distinct(rows, "recipe")
    further = [name for name in names if name not in _KEYS]
    out = [[f"ours, {rows[0]['model']}", *(f"{_average(rows, name):.2f}" for name in names)]]
    sts = [_sts(rows, name) for name in names]
    if all(value is not None for value in sts):
        out.append([f"ours, {rows[0]['model']}, STS alone", *(f"{value:.2f}" for value in sts)])
    out += [
        [f"paper, {row['model']}", *(f"{row[key]:.2f}" for key in _KEYS.values()), *("-" for _ in further)]
        for row in table.rows
    ]
    notes = [f"Averages: our rows over {len(distinct(rows, 'task'))} local tasks, the paper's over {table.data}."]
    first_rows = [values(rows, recipe=name)[0] for name in further]
    notes += [f"{row['recipe']}: {row['training']}" for row in first_rows if row["training"]]
    return Summary(["model", *names], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw averages, grouped by model."""
    table = paper_table("table3")
    groups = [rows[0]["model"], *(f"{row['model']}\n(paper)" for row in table.rows)]
    series = {
        name: [_average(rows, name), *(row[_KEYS[name]] if name in _KEYS else None for row in table.rows)]
        for name in distinct(rows, "recipe")
    }
    figure, axes = plots.figure("Without the causal mask, and reading twice", height=4)
    plots.bars(axes[0], groups, series, label="average score × 100")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


EXPERIMENT = Experiment(
    name="table3",
    title="Does removing the causal mask help as much as reading twice?",
    source="Table 3, Section 4.3",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
