"""Tables 7, 13 and 18 on MTEB itself: the paper's 56 data sets, for its models and for any other.

They take days. A dry run says what would be fetched, how many tokens would be read, and how long this takes at the
measured speed of this machine.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from echoembed import errors
from echoembed.evaluation.benchmarks import MTEB, benchmark_tasks
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Store
from echoembed.evaluation.task import Task
from echoembed.experiments.experiment import Setting
from echoembed.experiments.figure4 import saved_recipe
from echoembed.experiments.finetuned import RECIPES, TITLES
from echoembed.experiments.paper import paper_table
from echoembed.files import folder_of
from echoembed.model.load import load
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe, find_recipe, recipes
from echoembed.sources import adapters
from echoembed.sources.files import checked_files
from echoembed.sources.packaged import BUNDLED, DEFAULT
from echoembed.sources.resolve import Source, on_hub, resolve

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FOLDER = "mteb"
"""The folder of scores within the folder of results."""
TABLES = tuple(TITLES)
ZERO_SHOT = ("echo", "classical", "prompteol")
"""The recipes under which a given model is scored."""
CHARACTERS_A_TOKEN = 4.2
"""Characters of a token of English, roughly, in the vocabularies of today's language models."""
_IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?:\d(?!\d))?(?![a-z0-9])", re.IGNORECASE)
"""How many weights a model has by its name: 7B, 0.6b, 270m, 7b1."""
_SIZES = {
    "WhereIsAI/UAE-Large-V1": 335_000_000,
    "intfloat/multilingual-e5-large": 560_000_000,
    "BAAI/bge-large-en-v1.5": 335_000_000,
}
"""How many weights the paper's other models have."""
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
        return [MtebRun(name, recipe) for name in given_models for recipe in _recipes_of(name)]
    systems = [value for table in tables for row in paper_table(table).rows for value in row.values()]
    names = dict.fromkeys(RECIPES[system] for system in systems if isinstance(system, str) and system in RECIPES)
    if "table18" in tables:
        names |= dict.fromkeys(("echo-finetuned-last", "echo-finetuned-mean"))
    return [MtebRun(None, recipes[name]) for name in names if recipes[name].checkpoint]


def _recipes_of(name: str) -> list[Recipe]:
    """Return the recipe saved with a model or an adapter; for plain language models, those without training."""
    own = saved_recipe(name) if adapters.names_one(name) or folder_of(name) else None
    return [find_recipe(recipe) for recipe in ZERO_SHOT] if own is None else [own]


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
        setting: The setting. The speed is measured with its first model, or with the default model if that one would
            have to be fetched.

    Returns:
        ``tasks``, ``characters``, ``tokens_a_second``, ``measured_with`` and its ``parameters``; ``data`` with
        ``name``, ``kind``, ``characters`` and ``source``; and ``jobs`` with ``weights``, ``recipe``, ``tokens``,
        ``parameters`` (None if the model is not here and its name does not say), ``fetched`` (bytes, if all weights
        have two) and ``seconds``, which grow with the parameters.

    Raises:
        ModelError: If a model that is no name on the hub is not here.
    """
    tasks = benchmark_tasks(MTEB)
    first = setting.models[0]
    chosen, here = next((name, found) for name in (first, DEFAULT, BUNDLED) if (found := _here(name)))
    measured = load(chosen, recipe="echo", device=setting.device, dtype=setting.dtype)
    rate, size = speed(measured), _in_files(here.folder)
    return {
        "tasks": len(tasks),
        "characters": sum(task.characters for task in tasks),
        "tokens_a_second": round(rate, 1),
        "measured_with": transformer_of(measured).name,
        "parameters": size,
        "jobs": [_estimate(job, job.tokens(tasks), rate * size) for job in jobs(tables, setting.models)],
        "data": [
            {"name": task.name, "kind": task.kind, "characters": task.characters, "source": task.data.split(":")[0]}
            for task in tasks
        ],
    }


def _here(name: str | None) -> Source | None:
    """Return a model's files, those of its base for an adapter; None if they would have to be fetched from the hub."""
    if adapters.names_one(name):
        name = adapters.find(str(name), local_files_only=True).base.name
    try:
        return resolve(name, local_files_only=True)
    except errors.ModelError:
        if name is None or name == DEFAULT or (on_hub(name) and _allowed_on_hub(name)):
            return None
        raise


def _allowed_on_hub(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name)


def _estimate(job: MtebRun, tokens: int, products_a_second: float) -> dict[str, Any]:
    source = _here(job.model or job.recipe.checkpoint)
    parameters = _in_name(job.weights) if source is None else _in_files(source.folder)
    return {
        "weights": job.weights,
        "recipe": job.recipe.name,
        "tokens": tokens,
        "parameters": parameters,
        "fetched": 0 if source else parameters and 2 * parameters,
        "seconds": parameters and round(tokens * parameters / products_a_second),
    }


def _in_files(folder: Path) -> int:
    """Count the weights in a model's files."""
    count = 0
    for path in checked_files(folder):
        if path.endswith(".safetensors"):
            with safe_open(folder / path, "pt") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def _in_name(weights: str) -> int | None:
    """Return how many weights a model on the hub has by its name; None if it does not say."""
    first = weights.split(", ")[0]
    found = _IN_NAME.search(first.split("/")[-1])
    if found is None:
        return _SIZES.get(first)
    return round(float(found[1]) * {"b": 1e9, "m": 1e6}[found[2].lower()])


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
