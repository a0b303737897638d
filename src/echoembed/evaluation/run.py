"""Running tasks: each by mteb, one after the other, kept as soon as it is done."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from echoembed import errors, versions
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.task import Task
from echoembed.model.describe import describe, fingerprint
from echoembed.model.transformer import transformer_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.evaluation.cache import VectorCache
    from echoembed.evaluation.encoder import MtebEncoder

METRICS_VERSION = 1
"""Raised when our own part of a score changes: what is sampled, how texts are cleaned, which templates are used."""
_LIBRARIES = ("echoembed", "mteb", "sentence-transformers", "transformers", "torch", "scikit-learn", "numpy", "scipy")


class Listener(Protocol):
    """What wants to know how far an evaluation is."""

    def start(self, task: Task) -> None:
        """A task begins."""

    def advance(self, characters: int) -> None:
        """So many characters of the task are embedded by now."""

    def finish(self, task: Task, score: Score | None) -> None:
        """It is done, or has failed."""


def evaluate(
    model: SentenceTransformer,
    tasks: Sequence[Task],
    *,
    store: Store | None = None,
    batch_size: int = 32,
    cache: VectorCache | None = None,
    progress: Listener | None = None,
) -> list[Score]:
    """Score a model on tasks.

    Args:
        model: From ``echoembed.load``, under the recipe that is to be scored.
        tasks: From ``local_tasks``, ``benchmark_tasks`` or ``find_tasks``.
        store: Where scores are kept; one that is there under the same identity is not made again.
        batch_size: Texts of a padded forward; the packed engine takes what its packs hold.
        cache: Vectors that several evaluations share; None for those of one task.
        progress: Hears what happens.

    Returns:
        A score per task, in their order.

    Raises:
        EvaluationError: If tasks failed, after the others have been run and kept: it carries their scores.
        ModelError: If the model is not ours, or mteb is not installed.
        FileError: If a score cannot be kept.
    """
    encoder = _encoder(model, batch_size, cache)
    scores: list[Score] = []
    failures: dict[str, BaseException] = {}
    for task in tasks:
        if progress:
            progress.start(task)
            encoder.on_progress = progress.advance
        encoder.begin(task.hint)
        decided = identity(encoder, task)
        transformer = encoder.transformer
        score = store.find(transformer.name, transformer.recipe.name, decided) if store else None
        if score is None:
            try:
                score = _run(encoder, task, decided)
            except Exception as error:  # whatever it is, the other tasks are still run
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


def identity(encoder: MtebEncoder, task: Task) -> dict[str, Any]:
    """Everything that decides a score: where it differs, the score is made again. The encoder has begun the task."""
    mteb_version = importlib.metadata.version("mteb").split(".")
    return {
        "fingerprint": fingerprint(encoder.model),
        "dtype": str(describe(encoder.model)["dtype"]),
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "data": task.data,
        "instruction": encoder.instruction(task.name, task.kind, "query"),
        "metrics": f"{METRICS_VERSION}, mteb {'.'.join(mteb_version[:2])}",
        "seed": 42,  # mteb's
        **task.options,
    }


def _encoder(model: SentenceTransformer, batch_size: int, cache: VectorCache | None) -> MtebEncoder:
    transformer_of(model)
    with versions.needed("mteb", extra="eval", purpose="An evaluation"):
        from echoembed.evaluation.encoder import MtebEncoder
    return MtebEncoder(model, batch_size=batch_size, cache=cache)


def _run(encoder: MtebEncoder, task: Task, decided: dict[str, Any]) -> Score:
    import mteb

    transformer = encoder.transformer
    started = time.monotonic()
    with _quiet(encoder):
        loaded = task.load()
        try:
            result = mteb.evaluate(
                encoder,  # type: ignore[arg-type]  # mteb asks of it how mteb would make one
                loaded,
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"batch_size": encoder.batch_size, "show_progress_bar": False},
            ).task_results[0]
        finally:
            for part in (loaded, *getattr(loaded, "tasks", [])):
                if part.data_loaded:
                    part.unload_data()
    value = min(float(result.get_score()), 1.0)  # a V-measure can round to a little more
    if not math.isfinite(value):
        raise errors.evaluation_not_a_number(task.name, task.metric, value)
    return Score(
        model=transformer.name,
        recipe=transformer.recipe.name,
        fingerprint=decided["fingerprint"],
        task=task.name,
        kind=task.kind,
        metric=task.metric,
        score=value,
        identity=decided,
        scores={split: [dict(row) for row in rows] for split, rows in result.scores.items()},
        details={
            **encoder.counts,
            "seconds": round(time.monotonic() - started, 2),
            "seconds_in_model": round(encoder.seconds, 2),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
    )


@contextmanager
def _quiet(encoder: MtebEncoder) -> Iterator[None]:
    """Nobody needs the bars and warnings of the libraries; texts that are cut are counted instead."""
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
