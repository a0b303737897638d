"""Figures 4 and 5: what is a given number of tokens best spent on (section 4.7)?

Here a budget counts every token of text that the model reads: echo reads half as much of the text, twice. The tasks
have long texts, as short texts fit any budget. Figure 5 is the same for fine-tuned models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from echoembed.experiments import scoretable, selection, sweep
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BUDGETS = (16, 32, 64, 128, 256, 512)
QUICK_BUDGETS = (32, 64, 128, 256)
ZERO_SHOT = ("echo", "classical", "classical-bidirectional")
FINE_TUNED = ("echo-finetuned-last", "classical-finetuned", "bidirectional-finetuned")


def budgeted(name: str, budgets: Sequence[int] | None = None) -> list[Recipe]:
    """Return a recipe with every budget, which its copies of the text share."""
    row = find_recipe(name)
    copies = row.template("query").copies
    return [
        replace(row, name=f"{name}@{budget}", budget=budget // copies, checkpoint="", adapters=(), trained=False)
        for budget in budgets or BUDGETS
    ]


def plan(bench: Bench) -> Plan:
    """Plan zero-shot recipes and budgets on tasks with long texts."""
    setting = bench.setting
    tasks = selection.long_tasks(setting.data, quick=setting.quick, seed=setting.seed)
    budgets = QUICK_BUDGETS if setting.quick else BUDGETS
    recipes = [recipe for name in ZERO_SHOT for recipe in budgeted(name, budgets)]
    return Plan(recipes=recipes, tasks=tasks, models=(bench.model_name,), needs="" if tasks else scoretable.NO_DATA)


def plan_fine_tuned(bench: Bench) -> Plan:
    """Plan the same for fine-tuned models in a folder, each in a folder with the name of its recipe."""
    folder = bench.setting.checkpoints
    available = [name for name in FINE_TUNED if folder and (folder / name).is_dir()]
    zero_shot = plan(bench)
    needs = "" if available else f"--checkpoints FOLDER with folders {', '.join(FINE_TUNED)} (fine-tuned models)"
    return replace(
        zero_shot,
        recipes=[recipe for name in available for recipe in budgeted(name)],
        models=tuple(str(folder / name) for name in available) if folder else (),
        needs=needs or zero_shot.needs,
    )


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each recipe, budget and task."""
    rows: list[Row] = []
    for recipe in plan.recipes:
        name, _, budget = recipe.name.partition("@")
        tuned = next((model for model in plan.models if model and model.endswith(f"/{name}")), bench.model_name)
        rows += bench.scores([recipe], plan.tasks, model=tuned, method=name, budget=int(budget))
    return rows


def summary(rows: list[Row]) -> Summary:
    """Summarise means by method and budget."""
    paper = paper_table("table3").find(model="Mistral-7B")
    numbers = ", ".join(f"{name.replace('_', ' ')} {paper[name]}" for name in paper if name != "model")
    most = rows[0]["max_texts"]
    notes = [
        *([f"Samples of {most} texts a task: differences of a few points are noise."] if most else []),
        f"A budget counts tokens of all readings; mean over {', '.join(distinct(rows, 'task'))}; {rows[0]['model']}.",
        f"The paper shows its curves only in a picture. Its scores of zero-shot Mistral-7B on MTEB-MINI at the "
        f"standard budget: {numbers}.",
    ]
    budgets = sorted(distinct(rows, "budget"))
    out = sweep.table(rows, by="method", x="budget", at=budgets)
    return Summary(["method", *map(str, budgets)], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw score against budget: the mean, and each task."""
    figure, axes = sweep.panels(
        {"mean": rows, **{task: values(rows, task=task) for task in distinct(rows, "task")}},
        title=f"With the same number of tokens: read twice, or read more? Texts cut to the budget ({rows[0]['model']})",
        by="method",
        x="budget",
        xlabel="tokens of text read, all readings",
    )
    for axis in axes:
        axis.set_xscale("log", base=2)
        budgets = sorted(distinct(rows, "budget"))
        axis.set_xticks(budgets, list(map(str, budgets)))
        axis.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


EXPERIMENT = Experiment(
    name="figure4",
    title="With the same number of tokens: is it better to read twice, or to read more text once?",
    source="Figure 4, Section 4.7",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
FINE_TUNED_EXPERIMENT = Experiment(
    name="figure5",
    title="With the same number of tokens, after fine-tuning: read twice, or read more text once?",
    source="Figure 5, Section 4.7",
    plan=plan_fine_tuned,
    run=run,
    summary=summary,
    plot=plot,
)
