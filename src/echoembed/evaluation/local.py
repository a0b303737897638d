"""Tasks from your own folder, scored by mteb's task classes without a network.

    FOLDER/sts/NAME/test.jsonl             {"sentence1", "sentence2", "score"}
    FOLDER/pair/NAME/test.jsonl            {"sentence1", "sentence2", "label"}      label 0 or 1
    FOLDER/classification/NAME/…           train.jsonl and test.jsonl: {"text", "label"}
    FOLDER/clustering/NAME/test.jsonl      {"text", "label"}
    FOLDER/reranking/NAME/test.jsonl       {"query", "positive": […], "negative": […]}
    FOLDER/retrieval/NAME/…                corpus.jsonl {"_id", "title", "text"}, queries.jsonl {"_id", "text"} and
                                           qrels/test.tsv: query-id, corpus-id, score, under a header

Every ``.jsonl`` may be ``.jsonl.gz``. Without ``test``, ``dev`` or ``validation`` is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from echoembed import errors
from echoembed.evaluation import rows
from echoembed.evaluation.task import Task
from echoembed.files import folder_of

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

SPLITS = ("test", "dev", "validation")


@dataclass(frozen=True)
class DataKind:
    """One kind of data set: mteb's kind and metric, and a function that finds its files."""

    kind: str
    metric: str
    files: Callable[[Path], list[Path | None]]


def _scored(folder: Path) -> list[Path | None]:
    return [rows.split_file(folder, *SPLITS)]


def _with_train(folder: Path) -> list[Path | None]:
    return [rows.split_file(folder, "train"), *_scored(folder)]


def _beir(folder: Path) -> list[Path | None]:
    qrels = (folder / "qrels" / f"{split}.tsv" for split in SPLITS)
    judged = next((path for path in qrels if path.is_file()), None)
    return [rows.split_file(folder, "corpus"), rows.split_file(folder, "queries"), judged]


DATA_KINDS = {
    "sts": DataKind("STS", "cosine_spearman", _scored),
    "pair": DataKind("PairClassification", "cosine_ap", _scored),
    "classification": DataKind("Classification", "accuracy", _with_train),
    "clustering": DataKind("Clustering", "v_measure", _scored),
    "retrieval": DataKind("Retrieval", "ndcg_at_10", _beir),
    "reranking": DataKind("Reranking", "map_at_1000", _scored),
}
_NEEDED = {
    "retrieval": "corpus.jsonl, queries.jsonl and qrels/test.tsv",
    "classification": "train.jsonl and test.jsonl",
}


def data_sets(folder: str | Path) -> dict[str, tuple[str, Path]]:
    """Return the data sets in a folder: name → the directory of its kind, and its own folder.

    Two data sets with the same name are called ``sts/NAME`` and ``pair/NAME``.

    Raises:
        DataError: If there is no such folder, or no data set in it.
    """
    root = folder_of(folder)
    if root is None:
        raise errors.data_folder_missing(folder)
    sets = [
        (kind, path)
        for kind in DATA_KINDS
        for path in sorted((root / kind).glob("*"))
        if path.is_dir() and not path.name.startswith(".")
    ]
    if not sets:
        raise errors.data_sets_missing(root, DATA_KINDS)
    names = [path.name for _, path in sets]
    return {path.name if names.count(path.name) == 1 else f"{kind}/{path.name}": (kind, path) for kind, path in sets}


def matching(sets: dict[str, tuple[str, Path]], name: str) -> list[str]:
    """Return the names of the data sets that match ``NAME`` or ``kind/NAME``, or of all data sets of a kind."""
    if name in sets:
        return [name]
    return [full_name for full_name, (kind, path) in sets.items() if name in (kind, f"{kind}/{path.name}")]


def local_tasks(
    folder: str | Path, names: Sequence[str] | None = None, *, max_texts: int | None = None, seed: int = 42
) -> list[Task]:
    """Return the tasks in a folder.

    Args:
        folder: The folder of data sets, with the layout at the top of this file.
        names: Data sets (``sts12``, ``sts/sts12``) or kinds (``sts``); None for all.
        max_texts: The most texts that a task embeds; a task with more is sampled. None for all. Training texts count
            separately.
        seed: The seed of the sample.

    Raises:
        DataError: If a data set does not exist, or lacks a file.
    """
    if max_texts is not None and max_texts < 1:
        raise errors.EvaluationError.bad_value("max_texts", max_texts, "a whole number above 0, or None for all texts")
    sets = data_sets(folder)
    selected: dict[str, None] = {}
    for name in names if names is not None else list(sets):
        matches = matching(sets, name)
        if not matches:
            raise errors.evaluation_task_unknown(name, sets, str(folder))
        selected |= dict.fromkeys(matches)
    return [_task(name, *sets[name], max_texts=max_texts, seed=seed) for name in selected]


def _task(name: str, kind: str, path: Path, *, max_texts: int | None, seed: int) -> Task:
    data_kind = DATA_KINDS[kind]
    files = data_kind.files(path)
    paths = [file for file in files if file is not None]
    if len(paths) < len(files):
        raise errors.data_files_missing(name, path, _NEEDED.get(kind, "test.jsonl (or dev, or validation)"))
    digest, size = rows.digest(paths)
    load = partial(_load, kind, name.replace("/", "-"), digest, paths, max_texts, seed)
    return Task(
        name=name,
        kind=data_kind.kind,
        metric=data_kind.metric,
        data=digest,
        load=load,
        options={} if max_texts is None else {"max_texts": max_texts, "sample_seed": seed},
        characters=size if max_texts is None else min(size, 150 * max_texts),
    )


def _load(kind: str, name: str, revision: str, paths: list[Path], max_texts: int | None, seed: int) -> AbsTask:
    from echoembed.evaluation.mteb_tasks import BUILDERS, mteb_task

    data_kind = DATA_KINDS[kind]
    base, data, settings = BUILDERS[kind](paths, max_texts, seed)
    return mteb_task(base, data, settings, name=name, kind=data_kind.kind, metric=data_kind.metric, revision=revision)
