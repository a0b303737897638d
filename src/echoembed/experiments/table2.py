"""Tables 2 and 12: does it hold for other models and sizes (section 4.3, appendix E.3)?

Every model given is run; with one model this is one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = [recipes[name] for name in ("echo", "classical", "prompteol")]
_PAPER = {
    f"{recipe}, {size}": {"system": f"{shown} {size}"}
    for size in ("1.3B", "7B")
    for recipe, shown in (("echo", "Echo"), ("classical", "Classical"), ("prompteol", "PromptEOL"))
}


def plan(bench: Bench) -> Plan:
    """The local tasks, on all models."""
    needs = "" if bench.tasks else scoretable.NO_DATA
    return Plan(recipes=RECIPES, tasks=bench.tasks, models=bench.setting.models, needs=needs)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """A row per model, recipe and task."""
    return [{**row, "system": f"{row['recipe']}, {row['model']}"} for row in scoretable.run_scores(bench, plan)]


def summary(rows: list[Row]) -> Summary:
    """Ours by model, and the paper's."""
    missing = ["Further models: --model princeton-nlp/Sheared-LLaMA-1.3B --model meta-llama/Llama-2-7b-chat-hf."]
    return scoretable.category_summary(rows, paper_table("table12"), _PAPER, column="system", missing=missing)


def plot(rows: list[Row]) -> Figure:
    """Bars by category, for each model and recipe."""
    title = "Other models and sizes: echo, classical, PromptEOL"
    pairs = {row["system"]: _PAPER[f"{row['recipe']}, 7B"] for row in rows}
    return scoretable.category_plot(rows, title, paper_table("table12"), pairs, column="system")


EXPERIMENT = Experiment(
    name="table2",
    title="Does it hold for other models and sizes?",
    source="Tables 2 and 12, Section 4.3, Appendix E.3",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
    aliases=("table12",),
)
