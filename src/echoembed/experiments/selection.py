"""The local tasks that experiments use, whole or sampled.

Quick runs use samples of short texts of every category, so that a small model on a small machine is done in minutes.
Full runs use everything in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.evaluation import rows, sampling
from echoembed.evaluation.local import DATA_KINDS, data_sets, local_tasks
from echoembed.evaluation.task import Task
from echoembed.prompts.text import clean_text
from echoembed.texts.rows import json_object


@dataclass(frozen=True)
class Quick:
    """The part of a category that quick runs use."""

    max_texts: int
    names: tuple[str, ...] = ()
    """Preferred data sets; if the folder has none of them, the first two of the category. Empty for all."""


QUICK = {
    "sts": Quick(400),  # 200 pairs
    "pair": Quick(300),
    "classification": Quick(150, ("amazon_counterfactual_en", "mr", "trec", "tweeteval_sentiment")),
    "clustering": Quick(300, ("stackoverflow_titles", "twentynewsgroups_subjects")),
    "retrieval": Quick(80, ("scifact", "xquad_en")),
    "reranking": Quick(150),
}
FEW = {"STS": "stsb", "Classification": "trec", "Clustering": "stackoverflow_titles", "Reranking": "wikiqa"}
"""The data sets of quick experiments that would take too long on all, by category."""
LONG = {"retrieval": ("scifact", "xquad_en"), "classification": ("imdb_subset",)}
"""Data sets with texts long enough to be cut by a budget."""
_LONG_TEXTS = 80
"""The number of long texts of quick runs."""


def chosen_tasks(folder: Path | None, *, quick: bool, seed: int) -> list[Task]:
    """Return the tasks of a folder, sampled if quick; none without a folder."""
    if folder is None:
        return []
    if not quick:
        return local_tasks(folder, seed=seed)
    tasks: list[Task] = []
    for kind, part in QUICK.items():
        names = _preferred(folder, kind, part.names, 2)
        if names:
            tasks += local_tasks(folder, names, max_texts=part.max_texts, seed=seed)
    return tasks


def few_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Return one task of each category of ``FEW``: the one named there, else the first; all if none is of these."""
    few: list[Task] = []
    for kind, name in FEW.items():
        of_kind = [task for task in tasks if task.kind == kind]
        few += [task for task in of_kind if task.name.rpartition("/")[2] == name] or of_kind[:1]
    return [task for task in tasks if task in few] or list(tasks)


def long_tasks(folder: Path | None, *, quick: bool, seed: int) -> list[Task]:
    """Return the tasks with long texts; if the folder has none of ``LONG``, one task of each category."""
    if folder is None:
        return []
    tasks: list[Task] = []
    for kind, preferred in LONG.items():
        names = _preferred(folder, kind, preferred, 1)
        if names:
            tasks += local_tasks(folder, names, max_texts=_LONG_TEXTS if quick else None, seed=seed)
    return tasks


def _preferred(folder: Path, kind: str, names: Sequence[str], otherwise: int) -> list[str]:
    available = [name for name, (own_kind, _) in data_sets(folder).items() if own_kind == kind]
    preferred = [name for name in available if name in names] if names else available
    return preferred or available[:otherwise]


CALIBRATION_TEXTS = 400
_CALIBRATION_LENGTH = 300
"""The most characters of a text to fit calibrations on."""


def calibration_texts(folder: Path | None, *, seed: int, count: int = CALIBRATION_TEXTS) -> list[str]:
    """Sample texts of the folder's ``train`` sets, as many of each set, without texts of scored sets.

    Args:
        folder: The data; ``train/NAME/train.jsonl`` has rows with ``query`` and ``positive``.
        seed: The seed of the sample.
        count: The number of texts, roughly.
    """
    files = sorted((folder / "train").glob("*/train.jsonl*")) if folder else []
    if folder is None or not files:
        return []
    judged = judged_texts(folder)
    sample: list[str] = []
    for file in files:
        pairs = rows.read_rows(file, {"query": rows.TEXT, "positive": rows.TEXT})
        texts = [clean_text(text) for row in pairs for text in (row["query"], row["positive"])]
        usable = [text for text in dict.fromkeys(texts) if text.strip() and len(text) <= _CALIBRATION_LENGTH]
        usable = [text for text in usable if plain(text) not in judged]
        sample += sampling.sample(usable, -(-count // len(files)), seed)
    return list(dict.fromkeys(sample))


def judged_texts(folder: Path) -> set[str]:
    """Return every text of all scored files, in the form of ``plain``."""
    texts: set[str] = set()
    for kind, path in data_sets(folder).values():
        for file in DATA_KINDS[kind].files(path):
            if file is None or file.suffix == ".tsv" or file.name.startswith("train."):
                continue
            for number, line in rows.lines(file):
                for value in json_object(f"line {number} of {file}", line).values():
                    listed = value if isinstance(value, list) else [value]
                    texts |= {plain(text) for text in listed if isinstance(text, str)}
    return texts


def plain(text: str) -> str:
    """Reduce a text to letters and digits, as the same text in two files may differ in blanks, marks and capitals."""
    return re.sub(r"\W+", "", text.lower())


@dataclass(frozen=True)
class Pairs:
    """An STS set, or a sample of it."""

    name: str
    first: list[str]
    second: list[str]
    gold: list[float]
    data: str


def sts_pairs(folder: Path | None, *, quick: bool, seed: int) -> list[Pairs]:
    """Return the pairs of every STS set, in the same sample as the tasks, and with the same texts."""
    if folder is None:
        return []
    sets = []
    fields = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, "score": rows.NUMBER}
    for name, (kind, path) in data_sets(folder).items():
        file = rows.split_file(path, "test", "dev", "validation")
        if kind != "sts" or file is None:
            continue
        count = QUICK["sts"].max_texts // 2 if quick else None
        pairs = sampling.sample(rows.read_rows(file, fields), count, seed)
        if len({float(pair["score"]) for pair in pairs}) < 2:  # no correlation: a 0 would look like one
            raise errors.data_says_nothing(file, f"{len(pairs)} pairs have fewer than two different scores")
        sets.append(
            Pairs(
                name,
                [rows.readable(pair["sentence1"]) for pair in pairs],
                [rows.readable(pair["sentence2"]) for pair in pairs],
                [float(pair["score"]) for pair in pairs],
                rows.digest([file])[0],
            )
        )
    return sets


@dataclass(frozen=True)
class Search:
    """A retrieval set."""

    name: str
    queries: list[str]
    passages: list[str]
    grades: NDArray[np.int64]
    """The relevance of each passage to each query, (queries, passages); 0 if it was not judged."""
    data: str


def searches(folder: Path) -> list[Search]:
    """Return the retrieval sets of a folder, whole."""
    sets = []
    for name, (kind, path) in data_sets(folder).items():
        if kind != "retrieval":
            continue
        files = DATA_KINDS[kind].files(path)
        paths = [file for file in files if file is not None]
        if len(paths) < len(files):
            continue
        fields = {"_id": rows.ID, "title": rows.TEXT, "text": rows.TEXT}
        passages, queries = (
            {
                id_: f"{row.get('title', '')} {row['text']}".strip()
                for id_, row in rows.read_by_id(file, fields, ["title"]).items()
            }
            for file in paths[:2]
        )
        judged = rows.read_qrels(paths[2], {"query-id": queries, "corpus-id": passages})
        grades_QP = np.asarray([[grades.get(passage, 0) for passage in passages] for grades in judged.values()])
        texts = [rows.readable(queries[query]) for query in judged]
        sets.append(
            Search(name, texts, [rows.readable(text) for text in passages.values()], grades_QP, rows.digest(paths)[0])
        )
    return sets
