"""Tables 7, 13 and 18 on MTEB itself: the paper's 56 data sets, for its models and for any other.

They take days. A dry run says what would be fetched, how many tokens would be read, and how long this takes at the
measured speed of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echoembed import errors
from echoembed.evaluation.benchmarks import MTEB, benchmark_tasks
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Store
from echoembed.evaluation.task import Task
from echoembed.experiments.experiment import Setting
from echoembed.experiments.finetuned import RECIPES, TITLES
from echoembed.experiments.paper import paper_table
from echoembed.model.load import load
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe, find_recipe, recipes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FOLDER = "mteb"
"""The folder of scores within the folder of results."""
TABLES = tuple(TITLES)
ZERO_SHOT = ("echo", "classical", "prompteol")
"""The recipes under which a given model is scored."""
CHARACTERS_A_TOKEN = 4.2
"""Characters of a token of English, roughly, in the vocabularies of today's language models."""
_SAMPLE = tuple(
    f"Room {number} of the museum opens at nine, and most visitors come before noon because it is quiet then."
    for number in range(48)
)


@dataclass(frozen=True)
class MtebRun:
    """One model under one recipe, on all of MTEB."""

    model: str | None
    """None for the recipe's published checkpoint."""
    recipe: Recipe

    @property
    def weights(self) -> str:
        """The models and adapters that must be fetched."""
        return self.model or ", ".join([self.recipe.checkpoint, *self.recipe.adapters])

    def tokens(self, tasks: Sequence[Task]) -> int:
        """Estimate the number of tokens to read, including those of texts over the budget."""
        characters = sum(task.characters for task in tasks)
        return round(characters / CHARACTERS_A_TOKEN * self.recipe.template("query").copies)


def jobs(tables: Sequence[str], models: Sequence[str | None]) -> list[MtebRun]:
    """Return the runs for these tables: of the given models, else of the paper's models with published weights."""
    given_models = [name for name in models if name is not None]
    if given_models:
        return [MtebRun(name, find_recipe(recipe)) for name in given_models for recipe in ZERO_SHOT]
    systems = [value for table in tables for row in paper_table(table).rows for value in row.values()]
    names = dict.fromkeys(RECIPES[system] for system in systems if isinstance(system, str) and system in RECIPES)
    if "table18" in tables:
        names |= dict.fromkeys(("echo-finetuned-last", "echo-finetuned-mean"))
    return [MtebRun(None, recipes[name]) for name in names if recipes[name].checkpoint]


def speed(model: SentenceTransformer) -> float:
    """Measure, in a second or two, how many tokens per second a model reads, prompts included."""
    prompts = transformer_of(model).reader.render(list(_SAMPLE))
    tokens = sum(len(prompt.ids) for prompt in prompts)
    model.encode(list(_SAMPLE[:4]), show_progress_bar=False)
    started = time.monotonic()
    model.encode(list(_SAMPLE), show_progress_bar=False)
    return tokens / (time.monotonic() - started)


def dry_run(tables: Sequence[str], setting: Setting) -> dict[str, Any]:
    """Estimate what the tables take; nothing is fetched.

    Args:
        tables: Names among ``TABLES``.
        setting: The setting; the speed is measured with its first model.

    Returns:
        ``tasks``, ``characters``, ``tokens_a_second`` and ``measured_with``; ``jobs`` with ``weights``, ``recipe`` and
        ``tokens`` each, and ``seconds`` for models that are measured; ``data`` with ``name``, ``kind``,
        ``characters`` and ``source``.
    """
    tasks = benchmark_tasks(MTEB)
    wanted = jobs(tables, setting.models)
    measured = load(setting.models[0], recipe="echo", device=setting.device, dtype=setting.dtype)
    rate = speed(measured)
    return {
        "tasks": len(tasks),
        "characters": sum(task.characters for task in tasks),
        "tokens_a_second": round(rate, 1),
        "measured_with": transformer_of(measured).name,
        "jobs": [
            {
                "weights": job.weights,
                "recipe": job.recipe.name,
                "tokens": job.tokens(tasks),
                "seconds": round(job.tokens(tasks) / rate) if job.model == setting.models[0] else None,
                "seconds_at_that_speed": round(job.tokens(tasks) / rate),
            }
            for job in wanted
        ],
        "data": [
            {"name": task.name, "kind": task.kind, "characters": task.characters, "source": task.data.split(":")[0]}
            for task in tasks
        ],
    }


def run(tables: Sequence[str], setting: Setting, *, say: Callable[[str], None] = lambda _: None) -> Store:
    """Score the tables' models on MTEB; stored scores are not computed again.

    Returns:
        The store of scores.

    Raises:
        EvaluationError: If tasks failed; it is raised after all other tasks have run.
    """
    store = Store(setting.out / FOLDER)
    tasks = benchmark_tasks(MTEB)
    failures: dict[str, BaseException] = {}
    scores: list[object] = []
    for job in jobs(tables, setting.models):
        say(f"{job.recipe.name}: {job.weights}")
        model = load(job.model, recipe=job.recipe, device=setting.device, dtype=setting.dtype, overflow="ignore")
        for task in tasks:
            try:
                scores += evaluate(model, [task], store=store, batch_size=setting.batch_size)
            except errors.EvaluationError as error:
                failures[f"{job.recipe.name}, {task.name}"] = error.__cause__ or error
            else:
                say(f"{job.recipe.name} on {task.name}")
    if failures:
        raise errors.evaluation_failed(scores, failures)
    return store
