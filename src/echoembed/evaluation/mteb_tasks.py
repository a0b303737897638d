"""Rows of files as mteb's own tasks. This file imports mteb, which takes seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from echoembed import errors
from echoembed.evaluation import rows, sampling

Built = tuple[type[AbsTask], Any, dict[str, Any]]
"""mteb's class, its data with a ``test`` split, and class attributes to set."""
Builder = Callable[[list[Path], int | None, int], Built]


def mteb_task(
    base: type[AbsTask],
    data: Any,
    settings: dict[str, Any],
    *,
    name: str,
    kind: str,
    metric: str,
    revision: str,
) -> AbsTask:
    """Make a task of one of mteb's classes with local data."""
    metadata = TaskMetadata(
        name=name,
        description=f"Local data set {name}.",
        dataset={"path": f"local/{name}", "revision": revision},
        type=kind,  # type: ignore[arg-type]
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=metric,
    )
    task_class = type(f"Local{base.__name__}", (base,), {**settings, "metadata": metadata})
    task: AbsTask = task_class()
    task.dataset = {"default": data}
    task.data_loaded = True
    return task


def _sts(paths: list[Path], max_texts: int | None, seed: int) -> Built:
    fields = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, "score": rows.NUMBER}
    pairs = sampling.sample(rows.read_rows(paths[0], fields), max_texts and max_texts // 2, seed)
    scores = [float(pair["score"]) for pair in pairs]
    if min(scores) == max(scores):
        raise errors.data_says_nothing(paths[0], f"all {len(pairs)} pairs have the score {scores[0]:g}")
    data = Dataset.from_dict(
        {
            "sentence1": [pair["sentence1"] for pair in pairs],
            "sentence2": [pair["sentence2"] for pair in pairs],
            "score": scores,
        }
    )
    return AbsTaskSTS, DatasetDict(test=data), {"min_score": min(scores), "max_score": max(scores)}


def _pair(paths: list[Path], max_texts: int | None, seed: int) -> Built:
    fields = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, "label": rows.BINARY}
    pairs = sampling.sample(rows.read_rows(paths[0], fields), max_texts and max_texts // 2, seed)
    labels = [int(pair["label"]) for pair in pairs]
    if len(set(labels)) < 2:
        raise errors.data_says_nothing(paths[0], f"all {len(pairs)} pairs have the label {labels[0]}")
    data = Dataset.from_dict(
        {
            "sentence1": [pair["sentence1"] for pair in pairs],
            "sentence2": [pair["sentence2"] for pair in pairs],
            "labels": labels,
        }
    )
    return AbsTaskPairClassification, DatasetDict(test=data), {}


def _classification(paths: list[Path], max_texts: int | None, seed: int) -> Built:
    fields = {"text": rows.TEXT, "label": rows.LABEL}
    train = sampling.sample_labelled(rows.read_rows(paths[0], fields), max_texts, seed)
    test = sampling.sample(rows.read_rows(paths[1], fields), max_texts, seed)
    trained, tested = (sorted({str(row["label"]) for row in part}) for part in (train, test))
    if len(trained) < 2:
        raise errors.data_says_nothing(paths[0], f"all {len(train)} texts have the label {train[0]['label']!r}")
    # A label without training texts counts as wrong. Where two labels are tested, mteb also scores a binary task, and
    # wants them to be 0 and 1.
    order = tested + trained if len(tested) == 2 else trained + tested
    numbers = {label: number for number, label in enumerate(dict.fromkeys(order))}
    splits = {
        name: Dataset.from_dict(
            {"text": [row["text"] for row in part], "label": [numbers[str(row["label"])] for row in part]}
        )
        for name, part in (("train", train), ("test", test))
    }
    return AbsTaskClassification, DatasetDict(splits), {}


def _clustering(paths: list[Path], max_texts: int | None, seed: int) -> Built:
    texts = sampling.sample(rows.read_rows(paths[0], {"text": rows.TEXT, "label": rows.LABEL}), max_texts, seed)
    labels = [str(row["label"]) for row in texts]
    if len(set(labels)) < 2:
        raise errors.data_says_nothing(paths[0], f"all {len(texts)} texts have the label {labels[0]!r}")
    # One set of all texts, for the class of MTEB v1, whose scores the paper reports: mini-batch k-means with as many
    # clusters as labels.
    data = Dataset.from_dict({"sentences": [[row["text"] for row in texts]], "labels": [labels]})
    return AbsTaskClusteringLegacy, DatasetDict(test=data), {}


def _retrieval(paths: list[Path], max_texts: int | None, seed: int) -> Built:
    corpus_path, queries_path, qrels_path = paths
    document = {"_id": rows.ID, "title": rows.TEXT, "text": rows.TEXT}
    corpus = rows.read_by_id(corpus_path, document, optional=("title",))
    asked = rows.read_by_id(queries_path, {"_id": rows.ID, "text": rows.TEXT})
    queries = {query: row["text"] for query, row in asked.items()}
    judged = rows.read_qrels(qrels_path, {"query-id": queries, "corpus-id": corpus})
    queries, corpus = sampling.sample_queries(queries, corpus, judged, max_texts, seed)
    data = {
        "corpus": Dataset.from_dict(
            {
                "id": list(corpus),
                "title": [row.get("title", "") for row in corpus.values()],
                "text": [row["text"] for row in corpus.values()],
            }
        ),
        "queries": Dataset.from_dict({"id": list(queries), "text": list(queries.values())}),
        "relevant_docs": {query: judged[query] for query in queries},
        "top_ranked": None,
    }
    return AbsTaskRetrieval, {"test": data}, {}


def _reranking(paths: list[Path], max_texts: int | None, seed: int) -> Built:
    fields = {"query": rows.TEXT, "positive": rows.TEXTS, "negative": rows.TEXTS}
    rankings = sampling.sample_rankings(rows.read_rows(paths[0], fields), max_texts, seed)
    documents: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    for number, ranking in enumerate(rankings):
        grades = judged.setdefault(f"q{number}", {})
        for grade, texts in ((1, ranking["positive"]), (0, ranking["negative"])):
            for text in texts:
                # mteb orders equal scores by id, so that an id must not depend on the grade.
                id_ = f"{hashlib.sha256(text.encode()).hexdigest()[:12]}-{number}-{len(grades)}"
                documents[id_] = text
                grades[id_] = grade
    data = {
        "corpus": Dataset.from_dict({"id": list(documents), "text": list(documents.values())}),
        "queries": Dataset.from_dict(
            {"id": list(judged), "text": [ranking["query"] for ranking in rankings]},
        ),
        "relevant_docs": judged,
        "top_ranked": {query: list(grades) for query, grades in judged.items()},
    }
    return AbsTaskRetrieval, {"test": data}, {}


BUILDERS: dict[str, Builder] = {
    "sts": _sts,
    "pair": _pair,
    "classification": _classification,
    "clustering": _clustering,
    "retrieval": _retrieval,
    "reranking": _reranking,
}
