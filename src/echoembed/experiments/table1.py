"""Table 1: zero-shot embeddings, echo against classical and its rivals, by category (section 4.2 and 4.3).

A bag of words, our own rows and other encoders (``others.py``) are shown beside the paper's. So is echo's lead over its
rivals, with a bootstrap interval for every category: the items of each task are resampled, the same for both systems,
and the category's mean difference is computed each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from echoembed.evaluation.items import Array, Items, differences
from echoembed.evaluation.task import KINDS
from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.interval import ends
from echoembed.experiments.others import BAG, BEYOND, others
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = [*(recipes[name] for name in ("echo", "echo-compute-matched", "classical", "prompteol")), *BEYOND]
AGAINST = ("classical", "prompteol", BAG)
DIFFERENCE = "echo minus {}"
AVERAGE = "average"
_PAPER = {
    "echo": {"system": "Echo (Ours)"},
    "echo-compute-matched": {"system": "Echo (compute matched)"},
    "classical": {"system": "Classical"},
    "prompteol": {"system": "PromptEOL"},
    "bert-large": {"system": "BERT"},
    "roberta-large": {"system": "RoBERTa"},
    "llm2vec-unsupervised": {"system": "LLM2Vec (requires fine tuning)"},
}
_OTHERS = ("bert-large", "roberta-large")


def not_run() -> list[str]:
    """Return a line for each row that needs another model."""
    return [f"{name}: not run, needs {recipes[name].checkpoint} (echoembed eval --recipe {name})." for name in _OTHERS]


def plan(bench: Bench) -> Plan:
    """Plan the recipes and the other systems on all local tasks."""
    needs = "" if bench.tasks else scoretable.NO_DATA
    systems, missing = ([], []) if needs else others(bench, bench.model_name)
    settings = {
        "beside": [system.identity for system in systems],
        "missing": missing,
        "llm2vec": [] if needs else bench.llm2vec_identities(),
    }
    return Plan(recipes=RECIPES, tasks=bench.tasks, models=(bench.model_name,), settings=settings, needs=needs)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each system and task; then rows without a task for the differences in each category."""
    rows = scoretable.run_scores(bench, plan)
    systems, missing = others(bench, bench.model_name)
    rows += bench.llm2vec_scores(plan.tasks, bench.setting.llm2vec[-1:])
    for system in systems:
        short = system.slow and bench.setting.quick
        rows += bench.system_scores([system], [task for task in plan.tasks if task.kind == "STS" or not short])
    if bench.setting.quick and (slow := [system.name for system in systems if system.slow]):
        missing.append(f"{' and '.join(slow)}: on STS alone, because they are slow; --full scores all.")
    rows = [{**row, "low": None, "high": None, "missing": ""} for row in rows]
    model = rows[0]["model"]
    for rival in AGAINST:
        rows += [{**row, "model": model} for row in gaps(rows, bench.items, model, rival, seed=bench.setting.seed)]
    missing += [f"{name}: {amount}" for name, amount in bench.llm2vec_training().items() if amount]
    if not bench.setting.llm2vec:
        missing = ["LLM2Vec-unsupervised: not run, needs a model of its two stages (--llm2vec FOLDER).", *missing]
    rows[0]["missing"] = "\n".join(missing)
    return rows


def gaps(
    rows: Sequence[Row], items: Mapping[tuple[str, str, str], Items], model: str, rival: str, *, seed: int
) -> list[Row]:
    """Compute echo's lead over a rival, in each category and on average, with 95 % intervals."""
    random = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {}
    observed: dict[str, list[float]] = {}
    for row in values(rows, recipe="echo"):
        other = values(rows, recipe=rival, task=row["task"], kind=row["kind"])
        keys = [(model, system, row["task"]) for system in ("echo", rival)]
        if not other or any(key not in items for key in keys):
            continue
        echo_items, rival_items = (items[key] for key in keys)
        draws = differences(row["kind"], echo_items, rival_items, random=random)
        drawn.setdefault(row["kind"], []).append(draws)
        observed.setdefault(row["kind"], []).append(row["score"] - other[0]["score"])
    groups = [(kind, drawn[kind], observed[kind]) for kind in drawn]
    if groups:
        groups.append((AVERAGE, list(chain(*drawn.values())), list(chain(*observed.values()))))
    leads: list[Row] = []
    for kind, group_draws, group_observed in groups:
        low, high = ends(np.mean(group_draws, axis=0))
        leads.append(
            {
                "recipe": DIFFERENCE.format(rival),
                "kind": kind,
                "task": None,
                "score": fmean(group_observed),
                "low": low,
                "high": high,
                "missing": "",
            }
        )
    return leads


def scored(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are scores of a task."""
    return [row for row in rows if row["task"] is not None]


def summary(rows: list[Row]) -> Summary:
    """Summarise our scores and the paper's by category, and echo's lead over its rivals."""
    scored_rows = scored(rows)
    missing = [*not_run(), *filter(None, rows[0]["missing"].split("\n"))]
    table = scoretable.category_summary(scored_rows, paper_table("table1"), _PAPER, missing=missing)
    kinds = [kind for kind in KINDS if values(scored_rows, kind=kind)]
    leads = []
    for name in distinct([row for row in rows if row["task"] is None], "recipe"):
        cells = [lead(rows, name, kind) for kind in (*kinds, AVERAGE)]
        leads.append([name, "ours, 95 % interval", *cells])
    drawn = (
        "Intervals are from 1,000 bootstrap draws of the items, the same draws for both systems. A draw contains some "
        "items twice, which raises V-measures a little: the intervals of clustering are shifted to one side."
    )
    return Summary(table.columns, [*leads, *table.rows], [*order(rows), drawn, *table.notes])


def lead(rows: Sequence[Row], name: str, kind: str) -> str:
    """Format a difference and its interval, as ``+7.2 (+5.7 to +8.8)``."""
    matching = values(rows, recipe=name, kind=kind, task=None)
    if not matching:
        return "-"
    middle, low, high = (100 * matching[0][key] for key in ("score", "low", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def order(rows: Sequence[Row]) -> list[str]:
    """Say in sentences in which categories echo is ahead of each rival."""
    lines = []
    for name in distinct([row for row in rows if row["task"] is None], "recipe"):
        recipe_rows = values(rows, recipe=name, task=None)
        rival = name.removeprefix(DIFFERENCE.format(""))
        groups: dict[str, list[str]] = {"ahead of": [], "behind": [], "level with": []}
        for row in recipe_rows:
            where = "ahead of" if row["low"] > 0 else "behind" if row["high"] < 0 else "level with"
            groups[where].append("the average" if row["kind"] == AVERAGE else scoretable.spaced(row["kind"]))
        parts = [f"{where} {rival} on {', '.join(kinds)}" for where, kinds in groups.items() if kinds]
        lines.append(f"Echo is {'; '.join(parts)}, by 95 % intervals (level: the interval contains 0).")
    return lines


def plot(rows: list[Row]) -> Figure:
    """Draw bars by category."""
    title = "Without training: is reading twice better than reading once?"
    return scoretable.category_plot(scored(rows), title, paper_table("table1"), _PAPER)


EXPERIMENT = Experiment(
    name="table1",
    title="Without training: is reading twice better than reading once, or than asking for one word?",
    source="Table 1, Section 4.3",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
