"""Running tasks by mteb, one after the other; each score is stored as soon as it is done."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from echoembed import errors, versions
from echoembed.evaluation.peers import System
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.task import Task
from echoembed.model.transformer import transformer_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.evaluation.cache import VectorCache
    from echoembed.evaluation.encoder import MtebEncoder, SystemEncoder

METRICS_VERSION = 1
"""The version of our part of a score. Raise it when sampling, cleaning of texts or the choice of templates changes."""
_LIBRARIES = ("echoembed", "mteb", "sentence-transformers", "transformers", "torch", "scikit-learn", "numpy", "scipy")


class Listener(Protocol):
    """Receives the progress of an evaluation."""

    def start(self, task: Task) -> None:
        """Called when a task starts."""

    def advance(self, characters: int) -> None:
        """Called with the number of the task's characters that are embedded so far."""

    def finish(self, task: Task, score: Score | None) -> None:
        """Called when a task is done, or (with None) has failed."""


def evaluate(
    model: SentenceTransformer | System,
    tasks: Sequence[Task],
    *,
    store: Store | None = None,
    batch_size: int = 32,
    cache: VectorCache | None = None,
    progress: Listener | None = None,
    items: bool = False,
) -> list[Score]:
    """Score a model on tasks.

    Args:
        model: From ``echoembed.load``, under the recipe to score; or another system.
        tasks: From ``local_tasks``, ``benchmark_tasks`` or ``find_tasks``.
        store: Stores scores; a score that is there with the same identity is not computed again.
        batch_size: Texts of a padded forward; it does not limit packs.
        cache: A cache that several evaluations share; None for one per task.
        progress: Receives the progress.
        items: Whether scores carry the results of every item, from which intervals are computed.

    Returns:
        A score for each task, in the order of the tasks.

    Raises:
        EvaluationError: If tasks failed. It is raised after the other tasks have run, and carries their scores.
        ModelError: If the model is not ours, or mteb is not installed.
        FileError: If a score cannot be stored.
    """
    encoder = _encoder(model, batch_size, cache)
    scores: list[Score] = []
    failures: dict[str, BaseException] = {}
    for task in tasks:
        if progress:
            progress.start(task)
            encoder.on_progress = progress.advance
        encoder.begin(task.hint)
        task_identity = identity(encoder, task)
        score = store.find(encoder.model_name, encoder.system, task_identity) if store else None
        if score is None or (items and score.items is None):
            try:
                score = _run(encoder, task, task_identity, items=items)
            except Exception as error:  # whatever the error, the other tasks still run
                failures[task.name] = error
            else:
                if store:
                    store.save(score)
        if score is not None:
            scores.append(score)
        if progress:
            progress.finish(task, score)
    if failures:
        raise errors.evaluation_failed(scores, failures) from next(iter(failures.values()))
    return scores


def identity(encoder: MtebEncoder | SystemEncoder, task: Task) -> dict[str, Any]:
    """Return all that decides a score: if it differs, the score is computed again. Call after ``encoder.begin``."""
    mteb_version = importlib.metadata.version("mteb").split(".")
    return {
        "fingerprint": encoder.fingerprint,
        "dtype": encoder.dtype,
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "data": task.data,
        "instruction": encoder.instruction(task.name, task.kind, "query"),
        "metrics": f"{METRICS_VERSION}, mteb {'.'.join(mteb_version[:2])}",
        "seed": 42,  # mteb's
        **task.options,
    }


def _encoder(
    model: SentenceTransformer | System, batch_size: int, cache: VectorCache | None
) -> MtebEncoder | SystemEncoder:
    if not isinstance(model, System):
        transformer_of(model)
    with versions.needed("mteb", extra="eval", purpose="An evaluation"):
        from echoembed.evaluation.encoder import MtebEncoder, SystemEncoder
    if isinstance(model, System):
        return SystemEncoder(model)
    return MtebEncoder(model, batch_size=batch_size, cache=cache)


def _run(encoder: MtebEncoder | SystemEncoder, task: Task, identity: dict[str, Any], *, items: bool) -> Score:
    import mteb

    started = time.monotonic()
    results: dict[str, list[float]] | None = None
    with _quiet(encoder), tempfile.TemporaryDirectory() as folder:
        loaded = task.load()
        try:
            result = mteb.evaluate(
                encoder,  # type: ignore[arg-type]  # mteb's protocol also asks for a constructor
                loaded,
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"batch_size": encoder.batch_size, "show_progress_bar": False},
                prediction_folder=folder if items else None,
            ).task_results[0]
            if items:
                results = _items(task, loaded, Path(folder))
        finally:
            for part in (loaded, *getattr(loaded, "tasks", [])):
                if part.data_loaded:
                    part.unload_data()
    value = min(float(result.get_score()), 1.0)  # a V-measure can round to slightly above 1
    if not math.isfinite(value):
        raise errors.evaluation_not_a_number(task.name, task.metric, value)
    return Score(
        model=encoder.model_name,
        recipe=encoder.system,
        fingerprint=identity["fingerprint"],
        task=task.name,
        kind=task.kind,
        metric=task.metric,
        score=value,
        identity=identity,
        scores={split: [dict(row) for row in rows] for split, rows in result.scores.items()},
        items=results,
        details={
            **encoder.counts,
            "seconds": round(time.monotonic() - started, 2),
            "seconds_in_model": round(encoder.seconds, 2),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
    )


def _items(task: Task, loaded: Any, folder: Path) -> dict[str, list[float]] | None:
    """Return the items of a task with one split of one subset; None for other tasks."""
    from echoembed.evaluation.items import items_of

    [path] = folder.glob("*.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    subsets = [(name, splits) for name, splits in saved.items() if name != "mteb_model_meta"]
    if len(subsets) != 1 or len(subsets[0][1]) != 1:
        return None
    [(subset, splits)] = subsets
    [(split, predictions)] = splits.items()
    return items_of(task.kind, task.metric, predictions, loaded.dataset[subset][split])


@contextmanager
def _quiet(encoder: MtebEncoder | SystemEncoder) -> Iterator[None]:
    """Silence the libraries' progress bars and warnings."""
    import datasets
    from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
