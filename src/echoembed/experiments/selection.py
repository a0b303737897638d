"""Which local tasks experiments use, and how much of them.

Quick: short texts of every category, sampled, so that a small model on a small machine is done in minutes.
Full: everything in the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echoembed.evaluation import rows, sampling
from echoembed.evaluation.local import DATA_KINDS, data_sets, local_tasks
from echoembed.evaluation.task import Task
from echoembed.prompts.text import clean_text


@dataclass(frozen=True)
class Quick:
    """What is used of one category."""

    max_texts: int
    names: tuple[str, ...] = ()
    """Preferred data sets; the first two of the category where none of them is there. Empty: all."""


QUICK = {
    "sts": Quick(800),  # 400 pairs
    "pair": Quick(400),
    "classification": Quick(300, ("amazon_counterfactual_en", "banking77", "mr", "trec", "tweeteval_sentiment")),
    "clustering": Quick(400, ("stackoverflow_titles", "twentynewsgroups_subjects")),
    "retrieval": Quick(120, ("scifact", "xquad_en")),
    "reranking": Quick(200),
}
LONG = {"retrieval": ("scifact", "xquad_en"), "classification": ("imdb_subset",)}
"""Data sets of long texts, on which a token budget bites."""
_LONG_TEXTS = {True: 60, False: 2000}
"""How many of them: quick, and full."""


def chosen_tasks(folder: Path | None, *, quick: bool, seed: int) -> list[Task]:
    """The tasks of a folder, sampled if quick; none without a folder."""
    if folder is None:
        return []
    if not quick:
        return local_tasks(folder, seed=seed)
    found: list[Task] = []
    for kind, how in QUICK.items():
        names = _preferred(folder, kind, how.names, 2)
        if names:
            found += local_tasks(folder, names, max_texts=how.max_texts, seed=seed)
    return found


def long_tasks(folder: Path | None, *, quick: bool, seed: int) -> list[Task]:
    """The tasks with long texts; where a folder has none of those known, one of each category."""
    if folder is None:
        return []
    found: list[Task] = []
    for kind, preferred in LONG.items():
        names = _preferred(folder, kind, preferred, 1)
        if names:
            found += local_tasks(folder, names, max_texts=_LONG_TEXTS[quick], seed=seed)
    return found


def _preferred(folder: Path, kind: str, names: Sequence[str], otherwise: int) -> list[str]:
    there = [name for name, (own, _) in data_sets(folder).items() if own == kind]
    preferred = [name for name in there if name in names] if names else there
    return preferred or there[:otherwise]


@dataclass(frozen=True)
class Pairs:
    """An STS set, or a sample of it."""

    name: str
    first: list[str]
    second: list[str]
    gold: list[float]
    data: str


def sts_pairs(folder: Path | None, *, quick: bool, seed: int) -> list[Pairs]:
    """The pairs of every STS set: the same sample that the tasks use."""
    if folder is None:
        return []
    found = []
    fields = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, "score": rows.NUMBER}
    for name, (kind, path) in data_sets(folder).items():
        file = rows.split_file(path, "test", "dev", "validation")
        if kind != "sts" or file is None:
            continue
        count = QUICK["sts"].max_texts // 2 if quick else None
        pairs = sampling.some(rows.read_rows(file, fields), count, seed)
        pairs = [pair for pair in pairs if pair["sentence1"].strip() and pair["sentence2"].strip()]
        found.append(
            Pairs(
                name,
                [clean_text(pair["sentence1"]) for pair in pairs],
                [clean_text(pair["sentence2"]) for pair in pairs],
                [float(pair["score"]) for pair in pairs],
                rows.digest([file])[0],
            )
        )
    return found


@dataclass(frozen=True)
class Search:
    """A retrieval set."""

    name: str
    queries: list[str]
    passages: list[str]
    grades: NDArray[np.int64]
    """(queries, passages): how relevant a passage is to a query; 0 where it was not judged."""
    data: str


def searches(folder: Path) -> list[Search]:
    """The retrieval sets of a folder, whole."""
    found = []
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
                row["_id"]: f"{row.get('title', '')} {row['text']}".strip()
                for row in rows.read_rows(file, fields, ["title"])
            }
            for file in paths[:2]
        )
        judged = rows.read_qrels(paths[2], {"query-id": queries, "corpus-id": passages})
        grades_QP = np.asarray([[grades.get(passage, 0) for passage in passages] for grades in judged.values()])
        texts = [clean_text(queries[query]) for query in judged]
        found.append(
            Search(name, texts, [clean_text(text) for text in passages.values()], grades_QP, rows.digest(paths)[0])
        )
    return found
