"""Figures 4 and 5: what is a given number of tokens best spent on (section 4.7)?

Here a budget counts every token of text that the model reads: echo reads half as much of the text, twice. The tasks
have long texts, as short texts fit any budget. Figure 5 is the same for fine-tuned models, each in a folder of its own,
under the recipe that was saved with it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from echoembed.experiments import scoretable, selection, sweep
from echoembed.experiments.experiment import MAIN, Bench, Experiment, Plan, Setting, Summary
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.model.load import load
from echoembed.model.saved import OURS, read_modules
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe, find_recipe, recipes
from echoembed.sources import adapters
from echoembed.sources.resolve import resolve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BUDGETS = (16, 32, 64, 128, 256, 512)
QUICK_BUDGETS = (32, 64, 128, 256)
_NO_LONG = "a retrieval or a classification set in --data: retrieval/NAME/ or classification/NAME/"
ZERO_SHOT = ("echo", "classical", "classical-bidirectional")


def budgeted(recipe: Recipe, setting: Setting, name: str = "") -> list[Recipe]:
    """Return a recipe with every budget, which its copies of the text share, under its name or another."""
    copies = recipe.template("query").copies
    return [
        replace(
            recipe,
            name=f"{name or recipe.name}@{budget}",
            budget=budget // copies,
            checkpoint="",
            adapters=(),
            trained=False,
        )
        for budget in (QUICK_BUDGETS if setting.quick else BUDGETS)
    ]


def plan(bench: Bench) -> Plan:
    """Plan zero-shot recipes and budgets on tasks with long texts."""
    setting = bench.setting
    tasks = selection.long_tasks(setting.data, quick=setting.quick, seed=setting.seed)
    rows = [row for name in ZERO_SHOT for row in budgeted(recipes[name], setting)]
    return Plan(recipes=rows, tasks=tasks, models=(bench.model_name,), needs=scoretable.needs(bench, tasks, _NO_LONG))


def plan_fine_tuned(bench: Bench) -> Plan:
    """Plan the same for the fine-tuned models in a folder."""
    models = fine_tuned(bench.setting.checkpoints)
    zero_shot = plan(bench)
    rows = [row for path, recipe in models.items() for row in budgeted(recipe, bench.setting, path.name)]
    needs = "" if models else "--checkpoints FOLDER with a folder for each fine-tuned model, such as echo and classical"
    decides = {path.name: bench.models.identity(str(path)) for path in models}
    decides |= {row.name: row.fingerprint() for row in rows}
    # No ``models``, under all of which all recipes would run: each of these runs under its own.
    return replace(zero_shot, recipes=rows, models=(), settings=decides, needs=needs or zero_shot.needs)


def fine_tuned(folder: Path | None) -> dict[Path, Recipe]:
    """Return the models in a folder and their recipes: the one saved with a model, else the one its folder names."""
    paths = sorted(path for path in folder.iterdir() if path.is_dir()) if folder and folder.is_dir() else []
    return {path: saved_recipe(str(path)) or find_recipe(path.name) for path in paths}


def saved_recipe(name: str) -> Recipe | None:
    """Return the recipe that was saved with an adapter, or with a model in a folder; None if it has none."""
    if adapters.names_one(name):
        return adapters.find(name).recipe
    ours = any(module["type"] == OURS for module in read_modules(resolve(name)))
    return transformer_of(load(name)).recipe if ours else None


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each recipe, budget and task."""
    rows: list[Row] = []
    for recipe in plan.recipes:
        name, _, budget = recipe.name.rpartition("@")
        own = str(bench.setting.checkpoints / name) if not plan.models and bench.setting.checkpoints else MAIN
        rows += bench.scores([recipe], plan.tasks, model=own, method=name, budget=int(budget))
    return rows


def summary(rows: list[Row]) -> Summary:
    """Summarise means by method and budget."""
    most = rows[0]["max_texts"]
    notes = [
        *([f"Samples of {most} texts a task: differences of a few points are noise."] if most else []),
        f"A budget counts tokens of all readings; mean over {', '.join(distinct(rows, 'task'))}; {rows[0]['model']}.",
        "The paper shows its curves only in a picture.",
    ]
    budgets = sorted(distinct(rows, "budget"))
    out = sweep.table(rows, by="method", x="budget", at=budgets)
    return Summary(["method", *map(str, budgets)], out, notes)


def zero_shot_summary(rows: list[Row]) -> Summary:
    """Summarise as ``summary``, with the paper's scores at the standard budget."""
    summarised = summary(rows)
    paper = paper_table("table3").find(model="Mistral-7B")
    numbers = ", ".join(f"{name.replace('_', ' ')} {paper[name]}" for name in paper if name != "model")
    note = f"The paper's zero-shot Mistral-7B, on MTEB-MINI at the standard budget: {numbers}."
    return replace(summarised, notes=[*summarised.notes, note])


def fine_tuned_plot(rows: list[Row]) -> Figure:
    """Draw as ``plot``, and say that the models are fine-tuned."""
    return plot(rows, "Fine-tuned, with the same number of tokens")


def plot(rows: list[Row], title: str = "With the same number of tokens") -> Figure:
    """Draw score against budget: the mean, and each task."""
    figure, axes = sweep.panels(
        {"mean": rows, **{task: values(rows, task=task) for task in distinct(rows, "task")}},
        title=f"{title}: read twice, or read more? Texts cut to the budget ({rows[0]['model']})",
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
    summary=zero_shot_summary,
    plot=plot,
)
FINE_TUNED_EXPERIMENT = Experiment(
    name="figure5",
    title="With the same number of tokens, after fine-tuning: read twice, or read more text once?",
    source="Figure 5, Section 4.7",
    plan=plan_fine_tuned,
    run=run,
    summary=summary,
    plot=fine_tuned_plot,
)
