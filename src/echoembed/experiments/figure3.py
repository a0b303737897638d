"""Figures 3 and 7 to 12: how much does the exact prompt matter (section 4.2, appendix D)?

Every method runs with many prompts: those that the paper lists, and random prompts; all of them on every given model.
Figures 7 to 9 are this figure for three models, figures 10 to 12 the same scores by data set.
"""

from __future__ import annotations

import random
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, get_args

from echoembed import plots
from echoembed.evaluation.local import data_sets, local_tasks
from echoembed.evaluation.task import Task
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.prompts import POOLINGS, Method, listed, sampled
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUICK = {"sts": (("sts13", "stsb"), 100)}
_LISTED, _SAMPLED = 4, 3


def prompt_recipes(*, quick: bool, seed: int) -> list[Recipe]:
    """Return the prompts of every method and pooling; quick takes 4 of the list and 3 random prompts."""
    methods: tuple[Method, ...] = get_args(Method)
    recipes = []
    for method in methods:
        for pooling in POOLINGS[method]:
            fixed = listed(method, pooling)
            recipes += fixed[:_LISTED] if quick else fixed
            recipes += sampled(method, _SAMPLED if quick else 3 * len(fixed), seed, pooling)
    return recipes


def _tasks(bench: Bench) -> list[Task]:
    setting = bench.setting
    if setting.data is None:
        return []
    if not setting.quick:
        return bench.tasks
    tasks = []
    for kind, (preferred, count) in _QUICK.items():
        available = [name for name, (own_kind, _) in data_sets(setting.data).items() if own_kind == kind]
        names = [name for name in available if name in preferred] or available[:1]
        tasks += local_tasks(setting.data, names, max_texts=count, seed=setting.seed) if names else []
    return tasks


def plan(bench: Bench) -> Plan:
    """Plan all prompts on all tasks, on all models."""
    tasks = _tasks(bench)
    recipes = prompt_recipes(quick=bench.setting.quick, seed=bench.setting.seed)
    return Plan(recipes=recipes, tasks=tasks, models=bench.setting.models, needs=scoretable.needs(bench, tasks))


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each model, prompt and task."""
    rows: list[Row] = []
    for model in plan.models:
        for recipe in plan.recipes:
            method, _, prompt = recipe.name.partition(", ")
            columns = {"method": method, "prompt": prompt, "template": recipe.query_template}
            rows += bench.scores([recipe], plan.tasks, model=model, **columns)
    return rows


def _means(rows: list[Row]) -> list[float]:
    """Return the mean score × 100 of each prompt."""
    return [100 * fmean(row["score"] for row in values(rows, prompt=prompt)) for prompt in distinct(rows, "prompt")]


def summary(rows: list[Row]) -> Summary:
    """Summarise the spread of the prompts' means, by model and method."""
    out = []
    for model in distinct(rows, "model"):
        for method in distinct(rows, "method"):
            means = _means(values(rows, model=model, method=method))
            cells = (fmean(means), pstdev(means), min(means), max(means))
            out.append([model, method, str(len(means)), *(f"{value:.2f}" for value in cells)])
    notes = [
        f"Mean over {', '.join(distinct(rows, 'task'))}, for each prompt.",
        "The paper shows its spreads only in pictures.",
    ]
    return Summary(["model", "method and pooling", "prompts", "mean", "deviation", "least", "most"], out, notes)


def _scatter(axis: Axes, rows: list[Row]) -> None:
    methods = distinct(rows, "method")
    draw = random.Random(0)  # noqa: S311
    for place, method in enumerate(methods):
        means = _means(values(rows, method=method))
        axis.boxplot([means], positions=[place], widths=0.5, showfliers=False, medianprops={"color": "black"})
        spread = [place + draw.uniform(-0.14, 0.14) for _ in means]
        axis.scatter(spread, means, s=14, alpha=0.7, color=plots.colour(method))
    axis.set_xticks(range(len(methods)), [method.replace(" ", "\n") for method in methods], fontsize=8)
    axis.grid(axis="x", visible=False)


def plot(rows: list[Row]) -> Figure:
    """Draw a row of panels for each model, all with the same scale: the mean of all tasks, and each task by itself."""
    models, tasks = distinct(rows, "model"), distinct(rows, "task")
    columns = min(len(tasks), 4) + 1
    lines = -(-(len(tasks) + 1) // columns)  # of panels, for one model
    figure, axes = plots.figure(
        "How much does the prompt matter? A dot is a prompt",
        columns=columns,
        rows=lines * len(models),
        width=3.3 * columns,
        height=3.6 * lines * len(models),
        sharey=True,
    )
    for place, model in enumerate(models):
        own = axes[place * lines * columns : (place + 1) * lines * columns]
        panels = {"mean of all tasks": {}, **{task: {"task": task} for task in tasks}}
        for axis, (title, equal) in zip(own, panels.items(), strict=False):
            _scatter(axis, values(rows, model=model, **equal))
            axis.set_title(f"{model}: {title}" if len(models) > 1 else title)
        own[0].set_ylabel("score × 100")
        for axis in own[1 + len(tasks) :]:
            axis.set_visible(False)
    return figure


EXPERIMENT = Experiment(
    name="figure3",
    title="How much do scores depend on the wording of the prompt?",
    source="Figures 3 and 7 to 12, Section 4.2, Appendix D",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
    aliases=("figure7", "figure8", "figure9", "figure10", "figure11", "figure12"),
)
