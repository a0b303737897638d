"""Tables 5, 6, 7, 13, 14, 17 and 18: fine-tuned models (section 4.5, appendix F).

They need gigabytes of weights and days of benchmarks. Scores from ``echoembed eval`` (``--scores FOLDER``) are shown
beside the paper's numbers; for the rest, notes say what is missing. A folder for each of several models of one's own
(``echoembed eval --out FOLDER/NAME``) gives them names: the table has a row for each. A score is one of the paper's
system only if its model is the checkpoint that the paper published for the system's recipe; any other model under that
recipe has a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from echoembed import plots
from echoembed.evaluation.local import data_sets, local_tasks
from echoembed.evaluation.names import display_name
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.task import KINDS, Task
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.others import BAG, installed
from echoembed.experiments.paper import FIELDS, paper_table
from echoembed.experiments.results import Row
from echoembed.experiments.results import values as equal
from echoembed.experiments.sets import sets_line
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES: Mapping[str, str] = {
    "Echo (ours)": "echo-finetuned-last",
    "Classical": "classical-finetuned",
    "Classical + bidirectional attn.": "bidirectional-finetuned",
    "LLM2Vec-supervised": "llm2vec-supervised",
    "UAE-Large-V1 (MLM)": "uae-large-v1",
    "multilingual-e5-large (MLM)": "multilingual-e5-large",
    "bge-large-en-v1.5 (MLM)": "bge-large-en-v1.5",
    "udever-bloom-7b (autoregr.)": "udever-bloom-7b",
    "sgpt-5.8b (autoregr.)": "sgpt-5.8b",
    "e5-mistral-7b (autoregr.)": "e5-mistral-7b",
    "GritLM-7B (autoregr.)": "gritlm-7b",
    "Echo + last token pooling": "echo-finetuned-last",
    "Echo + mean pooling": "echo-finetuned-mean",
    "Classical + last token pooling": "classical-finetuned",
    "Echo (w/ instruct., last)": "echo-finetuned-last",
    "Echo (w/ instruct., mean)": "echo-finetuned-mean",
    "Classical (w/ instruct., last)": "classical-finetuned",
}
"""Systems of the paper's tables → our recipes, for the paper's Mistral-7B."""
_COLUMNS = {
    "echo_last": "echo-finetuned-last",
    "echo_mean": "echo-finetuned-mean",
    "classical_last": "classical-finetuned",
    "bidirectional_last": "bidirectional-finetuned",
}
TITLES = {
    "table5": "Fine-tuned: does reading twice still help?",
    "table6": "Fine-tuned, a smaller model",
    "table7": "Fine-tuned, against recent bidirectional models",
    "table13": "Fine-tuned, against the leaderboard",
    "table14": "Fine-tuned: which states to pool?",
    "table17": "Fine-tuned, without instructions, and earlier in training",
    "table18": "Fine-tuned: every data set of MTEB",
}
_SOURCES = {"table5": "Section 4.5", "table6": "Section 4.5", "table7": "Section 4.5"}


@dataclass(frozen=True)
class _Scored:
    """The scores of one model under one recipe."""

    name: str
    """The name of its row: that of its recipe, or that of its folder within the folder of scores."""
    scores: list[Score]

    @property
    def model(self) -> str:
        """The model's name for pages."""
        return display_name(self.scores[0].model)

    @property
    def of_paper(self) -> bool:
        """Whether this is a system of the paper: a recipe with its published checkpoint."""
        score = self.scores[0]
        checkpoint = recipes[score.recipe].checkpoint if score.recipe in recipes else ""
        return self.name == score.recipe and score.model == checkpoint != ""


def _scored(bench: Bench) -> list[_Scored]:
    """Return the scores of each model under each recipe, in the folder itself and in the folders within."""
    folder = bench.setting.scores
    if folder is None:
        return []
    scored = _named(Store(folder).all())
    for own in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []:
        scored += _named(Store(own).all(), own.name)
    names = [one.name for one in scored]
    published = [one.name for one in scored if one.of_paper]
    return [
        one
        if names.count(one.name) == 1 or (one.of_paper and published.count(one.name) == 1)
        else _Scored(f"{one.name} {one.scores[0].fingerprint[:8]}", one.scores)
        for one in scored
    ]


def _named(scores: Sequence[Score], folder: str = "") -> list[_Scored]:
    """Group the scores of a folder by model and recipe; a folder with one model gives it its name."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.recipe, score.fingerprint), []).append(score)
    return [
        _Scored(", ".join(filter(None, [folder, recipe])) if len(groups) > 1 else folder or recipe, group)
        for (recipe, _), named in groups.items()
        for group in [_largest_samples(named)]
    ]


def _largest_samples(scores: list[Score]) -> list[Score]:
    """Return the scores without those on a smaller sample of a task, which would count the task twice."""
    largest: dict[tuple[str, str], Score] = {}
    for score in sorted(scores, key=lambda score: score.identity.get("max_texts") or math.inf):
        largest[score.fingerprint, score.task] = score
    return [score for score in scores if largest[score.fingerprint, score.task] is score]


def _tasks(bench: Bench, scored: Sequence[_Scored]) -> list[Task]:
    """Return the tasks of the local data on which models that are not the paper's were scored, in the same samples."""
    folder = bench.setting.data
    known = data_sets(folder) if folder else {}
    tasks: dict[str, Task] = {}
    for score in (score for one in scored if not one.of_paper for score in one.scores):
        if folder is not None and score.task in known and score.task not in tasks:
            sample = {"max_texts": score.identity.get("max_texts"), "seed": score.identity.get("sample_seed", 0)}
            (task,) = local_tasks(folder, [score.task], **sample)
            if task.data == score.identity.get("data"):  # else their scores say nothing about these
                tasks[task.name] = task
    return list(tasks.values())


def _beside(bench: Bench, tasks: Sequence[Task]) -> list[_Scored]:
    """Score what stands beside our models: a bag of words, and the encoders that are installed."""
    systems = {BAG: bench.models.get(bench.model_name, BAG)} | {system.name: system for system in installed(bench)}
    options: dict[str, Any] = {"store": bench.store, "cache": bench.cache, "batch_size": bench.setting.batch_size}
    return [_Scored(name, evaluate(system, tasks, **options)) for name, system in systems.items()]


def plan(table: str, bench: Bench) -> Plan:
    """Plan the scores that exist, and the same tasks for what stands beside them (Table 18 has MTEB's tasks only)."""
    scored = _scored(bench)
    scores = [
        f"{one.name} {one.model} {score.fingerprint} {score.task} {score.identity.get('max_texts')} {score.score}"
        for one in scored
        for score in one.scores
    ]
    tasks = _tasks(bench, scored) if table != "table18" else []
    settings = {"scores": sorted(scores)}
    if not tasks:
        return Plan(settings=settings)
    beside = [system.identity for system in installed(bench)]
    return Plan([recipes[BAG]], tasks, {**settings, "beside": beside}, (bench.model_name,))


def _run(table: str, bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each number of the paper's table; ``ours`` is None without a score."""
    scored = [*_scored(bench), *(_beside(bench, plan.tasks) if plan.tasks else [])]
    of_paper = {one.name: one for one in scored if one.of_paper}
    rows: list[Row] = []
    for printed in paper_table(table).rows:
        names = {key: value for key, value in printed.items() if isinstance(value, str)}
        system = next(iter(names.values()))
        fields = [key for key in printed if key not in names]
        for key in fields:
            recipe = (
                _COLUMNS.get(key, "") if table == "table18" else "" if table == "table6" else RECIPES.get(system, "")
            )
            one = of_paper.get(recipe)
            scores = one.scores if one else []
            if table == "table18":
                scores = [score for score in scores if score.task == system]
                ours = 100 * fmean(score.score for score in scores) if scores else None
            else:
                ours = _mean(scores, key, _kinds(fields))
            rows.append(
                {
                    "table": table,
                    "paper": float(printed[key]),
                    "recipe": recipe,
                    "model": one.model if one and ours is not None else "",
                    "data": _data(one.scores) if one and ours is not None else "",
                    "system": system,
                    "column": key,
                    "ours": ours,
                }
            )
    shown = {row["recipe"] for row in rows}
    return [*rows, *_further(table, rows, [one for one in scored if not (one.of_paper and one.name in shown)])]


def _further(table: str, rows: list[Row], scored: Sequence[_Scored]) -> list[Row]:
    """Return the rows of models that the paper does not have; Table 18 gets a column for each."""
    further: list[Row] = []
    for one in scored:
        name = ", ".join(dict.fromkeys([one.name, one.model]))
        if table == "table18":
            tasks = list(dict.fromkeys(row["system"] for row in rows))
            cells = [(score.task, name, 100 * score.score) for score in one.scores if score.task in tasks]
        else:
            fields = list(dict.fromkeys(row["column"] for row in rows))
            # The averages of these are compared with each other; local data have no summarization.
            kinds = [kind for kind in _kinds(fields) if kind != "Summarization"]
            means = [(field, _mean(one.scores, field, kinds)) for field in fields]
            cells = [(name, field, mean) for field, mean in means if mean is not None]
        row = {"table": table, "paper": None, "recipe": one.name, "model": "", "data": _data(one.scores)}
        further += [{**row, "system": system, "column": column, "ours": ours} for system, column, ours in cells]
    return further


def _kinds(fields: Sequence[str]) -> list[str]:
    """Return the categories of a table's average: those of its columns, or all of MTEB's."""
    return [kind for kind in KINDS if FIELDS[kind] in fields] or list(KINDS)


def _data(scores: list[Score]) -> str:
    """Say on which data sets a model was scored, and on how many texts of each."""
    return sets_line({score.task: score.identity.get("max_texts") for score in scores})


def _mean(scores: list[Score], field: str, needed: Sequence[str]) -> float | None:
    """Return the mean × 100 of a category, or of all scores; None for an average that lacks one of its categories."""
    if field in FIELDS.values():
        scores = [score for score in scores if FIELDS.get(score.kind) == field]
    elif not set(needed) <= {score.kind for score in scores}:
        return None
    return 100 * fmean(score.score for score in scores) if scores else None


def summary(rows: list[Row]) -> Summary:
    """Summarise the paper's numbers, ours beside them, and what is missing."""
    table = paper_table(rows[0]["table"])
    columns = list(dict.fromkeys(row["column"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    cells = {(row["system"], row["column"]): row for row in rows}
    out = []
    for system in systems:
        for whose in ("paper", "ours"):
            values = [cells[system, column][whose] if (system, column) in cells else None for column in columns]
            if any(value is not None for value in values):
                model = next((row["model"] for row in equal(rows, system=system) if row["model"]), "")
                shown = f"{whose}, {model}" if whose == "ours" and model and rows[0]["table"] != "table18" else whose
                out.append([system, shown, *("-" if value is None else f"{value:.2f}" for value in values)])
    notes = [f"The paper's rows: {table.model}, on {table.data}."]
    ours = dict.fromkeys((row["recipe"], row["model"], row["data"]) for row in rows if row["model"])
    notes += [f"Ours under {recipe}: {model}. {data}" for recipe, model, data in ours]
    further = dict.fromkeys(row["data"] for row in rows if row["data"] and not row["model"])
    notes += [f"Further rows: compare their order with the paper's, not the scores. {data}" for data in further]
    if all(row["ours"] is None for row in rows):
        needed = sorted({_needed(row["recipe"]) for row in rows})
        notes.append(
            f"Not run: needs fine-tuned models: {'; '.join(needed)}. --mteb scores these models, or those of --model, "
            "on MTEB; --mteb --dry-run says what that takes. Or pass scores of echoembed eval with --scores."
        )
    return Summary(["system", "whose", *columns], out, notes)


def _needed(recipe: str) -> str:
    if not recipe or recipe not in recipes:
        return "some with no published weights"
    checkpoint = recipes[recipe].checkpoint
    return f"{recipe} ({checkpoint or 'no weights published; train it'})"


def plot(rows: list[Row]) -> Figure:
    """Draw the paper's averages, and ours if there are any."""
    table = paper_table(rows[0]["table"])
    column = "average" if any(row["column"] == "average" for row in rows) else rows[0]["column"]
    shown_rows = [row for row in rows if row["column"] == column][:30]
    figure, axes = plots.figure(
        f"{TITLES[rows[0]['table']]}\n(paper's numbers: {table.model})", width=8, height=1.4 + 0.26 * len(shown_rows)
    )
    places = list(range(len(shown_rows)))[::-1]
    printed = [(place, row["paper"]) for place, row in zip(places, shown_rows, strict=True) if row["paper"] is not None]
    axes[0].scatter([value for _, value in printed], [place for place, _ in printed], label="paper", **plots.PAPER)
    ours = [(place, row) for place, row in zip(places, shown_rows, strict=True) if row["ours"] is not None]
    for place, row in ours:
        axes[0].scatter(row["ours"], place, color=plots.colour(row["system"]))
    if ours:
        axes[0].scatter([], [], color=plots.COLOURS["other"], label="ours, by method")
    axes[0].set_yticks(places, [row["system"] for row in shown_rows])
    axes[0].set_xlabel(f"score × 100: {column.replace('_', ' ')}")
    axes[0].margins(x=0.15)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _experiment(table: str) -> Experiment:
    return Experiment(
        name=table,
        title=TITLES[table],
        source=f"{table.capitalize().replace('Table', 'Table ')}, {_SOURCES.get(table, 'Appendix F')}",
        plan=partial(plan, table),
        run=partial(_run, table),
        summary=summary,
        plot=plot,
    )


EXPERIMENTS = [_experiment(table) for table in TITLES]
