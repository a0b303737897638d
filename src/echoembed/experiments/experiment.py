"""What experiments are made of: a setting, a bench to work at, a plan, and the experiment itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed.engine import Engine
from echoembed.evaluation.cache import MEAN_AND_LAST, VectorCache, Vectors
from echoembed.evaluation.items import Items
from echoembed.evaluation.layers import LayerStore
from echoembed.evaluation.peers import System
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.task import Task
from echoembed.experiments import selection
from echoembed.experiments.results import Row
from echoembed.model.load import load
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import Models
from echoembed.progress import Work
from echoembed.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sentence_transformers import SentenceTransformer


MAIN = "the main model"
"""Stands for the first model of the setting, as None stands for the default one."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What experiments are run on."""

    out: Path
    """Folder of results: Parquet, pictures, and scores."""
    data: Path | None = None
    """Folder of local tasks (layout: ``evaluation/local.py``); experiments that need none run without it."""
    models: tuple[str | None, ...] = (None,)
    """Models; None is the default one. All are used where the paper compares models, else the first."""
    quick: bool = True
    """Samples of the data, which take minutes; else all of them."""
    seed: int = 42
    """Of all samples, grammars and bootstraps."""
    toy: Path | None = None
    """JSON lines with further triples for figure 2."""
    llm2vec: tuple[Path, ...] = ()
    """Models that ``echoembed train`` made by LLM2Vec's stages, for tables 1 and 3."""
    peers: bool = True
    """Whether other libraries' encoders are run where they are installed."""
    further: tuple[str, ...] = ()
    """Further sentence encoders beside ours: folders, or names on the hub."""
    splitter: str | None = None
    """Sentence encoder for figure 6: a folder or a name; None for a bag of words."""
    checkpoints: Path | None = None
    """Folder of checkpoints of a training run, for figure 13."""
    scores: Path | None = None
    """Scores of fine-tuned models, as ``echoembed eval`` keeps them."""
    device: str | None = None
    dtype: str | None = None
    engine: Engine | None = None
    deterministic: bool = False
    batch_size: int = 32


@dataclass(frozen=True)
class Plan:
    """What an experiment will use. Where any of it differs, the experiment is run again."""

    recipes: Sequence[Recipe] = ()
    tasks: Sequence[Task] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """Whatever else decides the result."""
    models: tuple[str | None, ...] = ()
    """None of them for experiments without a model."""
    needs: str = ""
    """What is missing; the experiment is then not run."""


@dataclass(frozen=True)
class Summary:
    """A result as a table of strings, the paper's numbers beside ours."""

    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    """What a reader must know: whose numbers, which data."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One figure or table."""

    name: str
    title: str
    """What it tests, in a line."""
    source: str
    """Where it stands in the paper."""
    plan: Callable[[Bench], Plan]
    run: Callable[[Bench, Plan], list[Row]]
    summary: Callable[[list[Row]], Summary]
    plot: Callable[[list[Row]], Figure] | None = None
    aliases: tuple[str, ...] = ()
    """Further figures of the paper: the same on other models, or in other cuts."""


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
        """What was done with every item: model, system and task → items."""
        self.store = Store(setting.out / "scores")
        self.progress = Work(say)

    @property
    def model_name(self) -> str | None:
        """The main model."""
        return self.setting.models[0]

    def _named(self, model: str | None) -> str | None:
        return self.model_name if model == MAIN else model

    @cached_property
    def tasks(self) -> list[Task]:
        """The local tasks of this setting."""
        return selection.chosen_tasks(self.setting.data, quick=self.setting.quick, seed=self.setting.seed)

    @cached_property
    def calibration_texts(self) -> list[str]:
        """Texts of the data that no task judges, to fit calibrations on; none where there are none."""
        return selection.calibration_texts(self.setting.data, seed=self.setting.seed)

    @cached_property
    def few(self) -> list[Task]:
        """Some of the local tasks, of every category, if quick; else all."""
        few = [task for task in self.tasks if task.name in selection.FEW]
        return few if few and self.setting.quick else self.tasks

    def kind(self, *kinds: str) -> list[Task]:
        """The local tasks of these categories."""
        return [task for task in self.tasks if task.kind in kinds]

    def vectors(self, recipe: str | Recipe, texts: Sequence[str], *, model: str | None = MAIN) -> Vectors:
        """Vectors of texts under the query template."""
        loaded = self.models.get(self._named(model), recipe)
        prompts = transformer_of(loaded).reader.render(texts, task="query")
        return self.cache.encode(loaded, prompts, batch_size=self.setting.batch_size)

    def scores(
        self, recipes: Iterable[str | Recipe], tasks: Sequence[Task], *, model: str | None = MAIN, **columns: object
    ) -> list[Row]:
        """A row per recipe and task; what is in the store is not computed again.

        Args:
            recipes: Rows of the table, or recipes.
            tasks: The tasks.
            model: Its name, None for the default one.
            columns: Further columns of every row.
        """
        rows: list[Row] = []
        for recipe in recipes:
            row = find_recipe(recipe)
            loaded = self.models.get(self._named(model), row)
            for task in tasks:
                rows.append({**self._score(loaded, task), **columns})
                self.progress.done(work(row, task), f"{row.name} on {task.name}")
        return rows

    def system_scores(self, systems: Iterable[System], tasks: Sequence[Task], **columns: object) -> list[Row]:
        """The same of systems that are no recipes."""
        rows: list[Row] = []
        for system in systems:
            for task in tasks:
                rows.append({**self._score(system, task), **columns})
                self.progress.done(0, f"{system.name} on {task.name}")
        return rows

    def llm2vec_scores(self, tasks: Sequence[Task], folders: Sequence[Path] | None = None) -> list[Row]:
        """Scores of the models that LLM2Vec's stages made, or of some, called by the folders of their runs."""
        rows: list[Row] = []
        for folder in self.setting.llm2vec if folders is None else folders:
            model = load(str(folder), device=self.setting.device, dtype=self.setting.dtype)
            name = llm2vec_name(folder)
            for task in tasks:
                rows.append({**self._score(model, task), "recipe": name})
                self.progress.done(0, f"{name} on {task.name}")
        return rows

    def llm2vec_identities(self) -> list[str]:
        """Hashes of the weights of those models."""
        identities = []
        for folder in self.setting.llm2vec:
            hashed = hashlib.sha256()
            for path in sorted(folder.glob("*.safetensors")):
                hashed.update(path.read_bytes())
            identities.append(hashed.hexdigest()[:16])
        return identities

    def llm2vec_training(self) -> dict[str, str]:
        """How each of those models was trained, in a sentence, as far as the folder of its run says so."""
        return {llm2vec_name(folder): trained(folder.parent) for folder in self.setting.llm2vec}

    def _score(self, model: SentenceTransformer | System, task: Task) -> Row:
        (score,) = evaluate(
            model, [task], store=self.store, batch_size=self.setting.batch_size, cache=self.cache, items=True
        )
        if score.items:
            self.items[called(score.model), score.recipe, score.task] = score.items
        return _row(score)

    def key(self, experiment: Experiment, plan: Plan) -> dict[str, Any]:
        """Everything that decides a result."""
        decides = {
            "experiment": experiment.name,
            "models": [self.models.identity(model) for model in plan.models],
            "recipes": {row.name: self.models.fingerprint(self.model_name, row) for row in plan.recipes}
            if plan.models
            else {},
            "tasks": {task.name: [task.data, *map(str, sorted(task.options.items()))] for task in plan.tasks},
            "settings": plan.settings,
            "seed": self.setting.seed,
        }
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return {**json.loads(json.dumps(decides, default=str)), "key": digest}


def llm2vec_name(folder: Path) -> str:
    """What a model of LLM2Vec's stages is called: ``llm2vec`` and the folder of its run."""
    return f"llm2vec, {(folder.parent if folder.name == 'model' else folder).name}"


def trained(run: Path) -> str:
    """How much a run trained on, in a sentence; nothing where its log is not there."""
    try:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = {line["step"]: line for line in lines}
    except (OSError, ValueError, KeyError):
        return ""
    tokens, texts = (sum(int(line[key]) for line in steps.values()) for key in ("tokens", "rows"))
    return f"{len(steps):,} steps, {texts:,} texts, {tokens:,} tokens: very little beside the paper's."


def called(model: str) -> str:
    """A model's name as pages show it: a path is this machine's business, so only its last part."""
    name = (
        model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".", "~")) or model.endswith(".gguf") else model
    )
    return name.removesuffix(".gguf")


def work(recipe: Recipe, task: Task) -> float:
    """About how much a score costs: characters read."""
    return float(max(task.characters, 1) * recipe.template("query").copies)


def planned_work(plan: Plan) -> float:
    """About how much a whole plan costs."""
    return sum(work(recipe, task) for recipe in plan.recipes for task in plan.tasks) * max(len(plan.models), 1)


def named(recipe: str | Recipe, name: str, **changes: Any) -> Recipe:
    """A row of the table with changes, under another name."""
    return replace(find_recipe(recipe), name=name, **changes)


def _row(score: Score) -> Row:
    details = score.details
    return {
        "model": called(score.model),
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
