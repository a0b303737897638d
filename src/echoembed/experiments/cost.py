"""Beyond the paper: what does a score cost in seconds?

Every recipe is timed on the same texts, by the model itself without a cache; the best of three rounds counts. Processor
time is measured, as other work on the machine changes it less than the time of the clock.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from echoembed import plots
from echoembed.experiments import scoretable, selection, sweep
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, digest_of, machine, renamed
from echoembed.experiments.results import Row, distinct, values
from echoembed.model.transformer import transformer_of
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXTS, ROUNDS = 48, 3
NAMES = ("classical", "classical-last", "classical-bidirectional", "prompteol", "echo", "echo-last")


def plan(bench: Bench) -> Plan:
    """Plan zero-shot recipes, and two that stop in the middle of the model, on STS; and all that decides their time."""
    import torch

    loaded = bench.models.get(bench.model_name, "classical")
    middle = transformer_of(loaded).layers // 2
    early = [renamed(name, f"{name}@{middle}", layer=middle) for name in ("classical", "echo")]
    planned = scoretable.sts_plan(bench, few=True, recipes=[*(recipes[name] for name in NAMES), *early])
    settings = {
        "texts": digest_of(_texts(bench, len(planned.tasks))),
        "rounds": ROUNDS,
        "engine": transformer_of(loaded).choice().name,
        "deterministic": bench.setting.deterministic,
        "device": str(loaded.device),
        "batch_size": bench.setting.batch_size,
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    return replace(planned, settings=settings)


def _texts(bench: Bench, tasks: int) -> list[str]:
    """Return the texts to time: the first of every STS set."""
    texts: list[str] = []
    if tasks:
        for pairs in selection.sts_pairs(bench.setting.data, quick=True, seed=bench.setting.seed):
            texts += pairs.first[: TEXTS // tasks + 1]
    return texts[:TEXTS]


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each recipe and task; ``seconds`` is for one of the ``timed`` texts."""
    setting = bench.setting
    texts = _texts(bench, len(plan.tasks))
    rows: list[Row] = []
    for recipe in plan.recipes:
        model = bench.models.get(bench.model_name, recipe)
        seconds = []
        for _ in range(ROUNDS):
            started = time.process_time()
            model.encode(texts, task="query", batch_size=setting.batch_size, show_progress_bar=False)
            seconds.append(time.process_time() - started)
        rows += bench.scores([recipe], plan.tasks, seconds=min(seconds) / len(texts), timed=len(texts))
    return rows


def summary(rows: list[Row]) -> Summary:
    """Summarise score and milliseconds of each recipe."""
    out = []
    for recipe in distinct(rows, "recipe"):
        recipe_rows = values(rows, recipe=recipe)
        out.append([recipe, f"{sweep.mean_score(recipe_rows):.2f}", f"{1000 * recipe_rows[0]['seconds']:.1f}"])
    notes = [
        f"Mean Spearman correlation × 100 over {', '.join(distinct(rows, 'task'))}; {rows[0]['model']}.",
        f"Milliseconds of processor time for one of {rows[0]['timed']} STS sentences, best of {ROUNDS} rounds.",
    ]
    return Summary(["recipe", "STS", "ms a text"], out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw score against time."""
    figure, axes = plots.figure(f"STS: score against measured time ({rows[0]['model']})", width=6.5, height=4)
    points = [
        (1000 * recipe_rows[0]["seconds"], sweep.mean_score(recipe_rows), recipe)
        for recipe in distinct(rows, "recipe")
        for recipe_rows in [values(rows, recipe=recipe)]
    ]
    axes[0].set(xlabel="milliseconds of processor time a text", ylabel="mean Spearman correlation × 100")
    scores = [score for _, score, _ in points]
    axes[0].set_xlim(0, 1.35 * max(x for x, _, _ in points))
    axes[0].set_ylim(min(scores) - 4, max(scores) + 6)
    plots.named_points(axes[0], points)
    return figure


EXPERIMENT = Experiment(
    name="cost",
    title="How much time does each score cost?",
    source="beyond the paper",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
