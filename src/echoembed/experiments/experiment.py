"""The types of all experiments: the setting, the bench with shared models and data, the plan, and the experiment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed import errors
from echoembed.engine import Engine
from echoembed.evaluation.cache import MEAN_AND_LAST, VectorCache, Vectors
from echoembed.evaluation.items import Items
from echoembed.evaluation.layers import LayerStore
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.names import display_name, model_name, told_apart
from echoembed.evaluation.peers import System
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.task import Task
from echoembed.experiments import selection
from echoembed.experiments.results import Row
from echoembed.model.describe import describe, fingerprint
from echoembed.model.load import load
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import Models
from echoembed.progress import Work
from echoembed.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sentence_transformers import SentenceTransformer

_LLM2VEC = ("mntp", "simcse")
"""The objectives of LLM2Vec's two stages."""


MAIN = "the main model"
"""Stands for the first model of the setting; None stands for the default model."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The models, data and options of experiments."""

    out: Path
    """The folder of results: Parquet, pictures, and scores."""
    data: Path | None = None
    """The folder of local tasks (layout: ``evaluation/local.py``); without it, only experiments without data run."""
    models: tuple[str | None, ...] = (None,)
    """The models; None is the default model. Experiments that compare models use all of them, others the first."""
    quick: bool = True
    """Whether to use samples of the data, which take minutes."""
    whole_sts: bool = False
    """Whether experiments on all STS sets alone (interval, figure 6, layers) use every pair, also if quick."""
    seed: int = 42
    """The seed of all samples, grammars and bootstraps."""
    toy: Path | None = None
    """JSON lines with further triples for figure 2."""
    llm2vec: tuple[Path, ...] = ()
    """Models from LLM2Vec's stages of ``echoembed train``, for tables 1 and 3."""
    peers: bool = True
    """Whether to run other libraries' encoders, where they are installed."""
    further: tuple[str, ...] = ()
    """Further sentence encoders to compare with ours: folders, or names on the hub."""
    splitter: str | None = None
    """The sentence encoder of figure 6: a folder or a name; None for the packaged encoder, else a bag of words."""
    checkpoints: Path | None = None
    """The folder of checkpoints of a training run, for figure 13."""
    scores: Path | None = None
    """The folder of scores of fine-tuned models, from ``echoembed eval``."""
    device: str | None = None
    dtype: str | None = None
    engine: Engine | None = None
    deterministic: bool = False
    batch_size: int = 32


@dataclass(frozen=True)
class Plan:
    """All that an experiment uses. If any of it changes, the experiment runs again."""

    recipes: Sequence[Recipe] = ()
    tasks: Sequence[Task] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings that decide the result."""
    models: tuple[str | None, ...] = ()
    """The models; empty for experiments without a model."""
    needs: str = ""
    """What is missing; if not empty, the experiment does not run."""


@dataclass(frozen=True)
class Summary:
    """A result as a table of strings, with the paper's numbers beside ours."""

    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    """Notes for the reader, such as the model and the data of the numbers."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One figure or table."""

    name: str
    title: str
    """The question, in one line."""
    source: str
    """The place in the paper."""
    plan: Callable[[Bench], Plan]
    run: Callable[[Bench, Plan], list[Row]]
    summary: Callable[[list[Row]], Summary]
    plot: Callable[[list[Row]], Figure] | None = None
    aliases: tuple[str, ...] = ()
    """Further figures of the paper with the same experiment on other models, or the same scores drawn otherwise."""


class Bench:
    """Models, data and vectors that experiments share."""

    def __init__(self, setting: Setting, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.setting = setting
        self.models = Models(
            device=setting.device, dtype=setting.dtype, engine=setting.engine, deterministic=setting.deterministic
        )
        self.layers = LayerStore(setting.out / "layers")
        self.cache = VectorCache(together=MEAN_AND_LAST, layers=self.layers)
        self.items: dict[tuple[str, str, str], Items] = {}
        """The results of every item: model, system and task → items."""
        self.store = Store(setting.out / "scores")
        self._identities: dict[Path, str] = {}
        self.progress = Work(say)

    @property
    def model_name(self) -> str | None:
        """The main model."""
        return self.setting.models[0]

    def _resolved(self, model: str | None) -> str | None:
        return self.model_name if model == MAIN else model

    def shown(self, name: str, model: str | None = MAIN) -> str:
        """Return a model's name for pages, which no other model of the setting has.

        Args:
            name: The name of its transformer.
            model: The model, as the setting has it.
        """
        place = self._resolved(model)
        return model_name(name, place, self.setting.models if place in self.setting.models else [place])

    @cached_property
    def tasks(self) -> list[Task]:
        """The local tasks of the setting."""
        return selection.chosen_tasks(self.setting.data, quick=self.setting.quick, seed=self.setting.seed)

    @cached_property
    def calibration_texts(self) -> list[str]:
        """Texts outside all tasks, to fit calibrations on; empty if the data have none."""
        return selection.calibration_texts(self.setting.data, seed=self.setting.seed)

    @cached_property
    def few(self) -> list[Task]:
        """A local task of each of a few categories if quick, else all tasks."""
        return selection.few_tasks(self.tasks) if self.setting.quick else self.tasks

    @property
    def samples_sts(self) -> bool:
        """Whether experiments on all STS sets alone use samples."""
        return self.setting.quick and not self.setting.whole_sts

    @cached_property
    def sts_tasks(self) -> list[Task]:
        """The tasks of experiments on all STS sets alone."""
        if self.samples_sts or self.setting.data is None:
            return self.tasks_of("STS")
        names = [task.name for task in self.tasks_of("STS")]
        return local_tasks(self.setting.data, names, seed=self.setting.seed) if names else []

    @cached_property
    def sts_pairs(self) -> list[selection.Pairs]:
        """The pairs of ``sts_tasks``."""
        return selection.sts_pairs(self.setting.data, quick=self.samples_sts, seed=self.setting.seed)

    def tasks_of(self, *kinds: str) -> list[Task]:
        """Return the local tasks of these categories."""
        return [task for task in self.tasks if task.kind in kinds]

    def vectors(self, recipe: str | Recipe, texts: Sequence[str], *, model: str | None = MAIN) -> Vectors:
        """Compute the vectors of texts with the query template."""
        loaded = self.models.get(self._resolved(model), recipe)
        prompts = transformer_of(loaded).reader.render(texts, task="query")
        return self.cache.encode(loaded, prompts, batch_size=self.setting.batch_size)

    def scores(
        self, recipes: Iterable[str | Recipe], tasks: Sequence[Task], *, model: str | None = MAIN, **columns: object
    ) -> list[Row]:
        """Return a row for each recipe and task; stored scores are not computed again.

        Args:
            recipes: Names of recipes, or recipes.
            tasks: The tasks.
            model: The model's name; None for the default model.
            columns: Further columns of every row.
        """
        rows: list[Row] = []
        for recipe in recipes:
            row = find_recipe(recipe)
            loaded = self.models.get(self._resolved(model), row)
            for task in tasks:
                shown = self.shown(transformer_of(loaded).name, model)
                rows.append({**self._score(loaded, task, shown=shown), **columns})
                self.progress.done(work(row, task), f"{row.name} on {task.name}")
        return rows

    def system_scores(self, systems: Iterable[System], tasks: Sequence[Task], **columns: object) -> list[Row]:
        """Return a row for each system and task, where the systems are not recipes but such as other encoders."""
        rows: list[Row] = []
        for system in systems:
            for task in tasks:
                rows.append({**self._score(system, task), **columns})
                self.progress.done(0, f"{system.name} on {task.name}")
        return rows

    @cached_property
    def llm2vec_names(self) -> dict[Path, str]:
        """Name LLM2Vec's models: ``llm2vec`` and the folders of their runs, as much of each as tells them apart."""
        runs = {folder: folder.parent if folder.name == "model" else folder for folder in self.setting.llm2vec}
        names = [f"llm2vec, {run.absolute().name}" for run in runs.values()]
        return dict(zip(runs, told_apart(names, [str(run) for run in runs.values()]), strict=True))

    def llm2vec_scores(self, tasks: Sequence[Task], folders: Sequence[Path] | None = None) -> list[Row]:
        """Return the scores of LLM2Vec's models, all or those given, named by the folders of their runs."""
        rows: list[Row] = []
        for folder in self.llm2vec_names if folders is None else folders:
            model = load(str(folder), device=self.setting.device, dtype=self.setting.dtype)
            name = self.llm2vec_names[folder]
            for task in tasks:
                rows.append(self._score(model, task, recipe=name))
                self.progress.done(0, f"{name} on {task.name}")
        return rows

    def llm2vec_identities(self) -> list[str]:
        """Return the names of LLM2Vec's models, each with all that decides its scores and with its training."""
        training = self.llm2vec_training()
        return [
            f"{name}: {self.identity(folder)}, {training[name]}".removesuffix(", ")
            for folder, name in self.llm2vec_names.items()
        ]

    def identity(self, folder: Path) -> str:
        """Name the exact weights, recipe and dtype of a saved model, which runs under the recipe saved with it."""
        if folder not in self._identities:
            model = load(str(folder), device=self.setting.device, dtype=self.setting.dtype)
            self._identities[folder] = f"{fingerprint(model)} {describe(model)['dtype']}"
        return self._identities[folder]

    def llm2vec_training(self) -> dict[str, str]:
        """Describe the training of each of LLM2Vec's models, as far as the folder of its run records it."""
        return {name: training_of(folder.parent) for folder, name in self.llm2vec_names.items()}

    def _score(self, model: SentenceTransformer | System, task: Task, *, shown: str = "", recipe: str = "") -> Row:
        """Score one task; the row has the given names of model and recipe, else those of the score."""
        (score,) = evaluate(
            model, [task], store=self.store, batch_size=self.setting.batch_size, cache=self.cache, items=True
        )
        row = _row(score) | ({"model": shown} if shown else {}) | ({"recipe": recipe} if recipe else {})
        if score.items:
            self.items[row["model"], row["recipe"], row["task"]] = score.items
        return row

    def _shown_identity(self, model: str | None) -> str:
        """Return a model's identity with its name for pages, which is part of the result."""
        name, *rest = self.models.identity(model).rsplit(" ", 3)  # revision, dtype, context
        return " ".join([self.shown(name, model), *rest])

    def key(self, experiment: Experiment, plan: Plan) -> dict[str, Any]:
        """Return all that decides a result, with its hash."""
        decides = {
            "experiment": experiment.name,
            "models": [self._shown_identity(model) for model in plan.models],
            "recipes": {row.name: self.models.fingerprint(self.model_name, row) for row in plan.recipes}
            if plan.models
            else {},
            "tasks": {task.name: [task.data, *map(str, sorted(task.options.items()))] for task in plan.tasks},
            "settings": plan.settings,
            "seed": self.setting.seed,
        }
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return {**json.loads(json.dumps(decides, default=str)), "key": digest}


def digest_of(texts: Sequence[str]) -> str:
    """Hash texts that decide a result, in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def machine() -> str:
    """Describe this machine: its system, processors, threads and GPU."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    computer = f"{platform.system()} {platform.machine()}"
    return f"{computer}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, {gpu}"


def check_llm2vec(folder: Path) -> None:
    """Refuse a model that is not of LLM2Vec's stages, as far as the folder of its run records its objective.

    Raises:
        ExperimentError: If its run had another objective.
    """
    for run in (folder.absolute().parent, folder.absolute().parent.parent):  # of model/, or models/step-N/
        try:
            objective = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["objective"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if objective not in _LLM2VEC:
            allowed = f"a model trained with objective {' or '.join(_LLM2VEC)}; that of this one was {objective}"
            raise errors.ExperimentError.bad_value("--llm2vec", str(folder), allowed)
        return


def training_of(run: Path) -> str:
    """Describe in a sentence how much a run trained on; "" if its log is missing."""
    try:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = {line["step"]: line for line in lines}
    except (OSError, ValueError, KeyError):
        return ""
    tokens, texts = (sum(int(line[key]) for line in steps.values()) for key in ("tokens", "rows"))
    return f"{len(steps):,} steps, {texts:,} texts, {tokens:,} tokens."


def work(recipe: Recipe, task: Task) -> float:
    """Estimate the cost of a score in characters read."""
    return float(max(task.characters, 1) * recipe.template("query").copies)


def planned_work(plan: Plan) -> float:
    """Estimate the cost of a whole plan in characters read."""
    return sum(work(recipe, task) for recipe in plan.recipes for task in plan.tasks) * max(len(plan.models), 1)


def work_of_set(plan: Plan, name: str) -> float:
    """Estimate the cost of one data set of a plan, under all its recipes, in characters read."""
    return sum(work(recipe, task) for recipe in plan.recipes for task in plan.tasks if task.name == name)


def renamed(recipe: str | Recipe, name: str, **changes: Any) -> Recipe:
    """Return a recipe of the table with changes, under another name."""
    return replace(find_recipe(recipe), name=name, **changes)


def _row(score: Score) -> Row:
    details = score.details
    return {
        "model": display_name(score.model),
        "recipe": score.recipe,
        "fingerprint": score.fingerprint,
        "task": score.task,
        "kind": score.kind,
        "metric": score.metric,
        "score": score.score,
        "texts": details.get("texts"),
        "data": score.identity.get("data"),
        "max_texts": score.identity.get("max_texts"),
    }
