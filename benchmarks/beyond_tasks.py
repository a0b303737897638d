"""Tasks of six kinds in two halves, one to choose by and one to judge by, scored plainly and with intervals.

Samples of a folder of data sets (its layout: ``echoembed/evaluation/local.py``). No text of a pair, no query and no
text to be classified or clustered is in both halves: pairs that share a text, over whatever set, stay together.

Shapes: N items of a task, D width of the vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from echoembed.evaluation import rows, sampling
from echoembed.prompts.text import clean_text

KINDS = ("sts", "pair", "classification", "clustering", "retrieval", "reranking")
SETS = {
    "sts": (("sick_r", "sts12", "sts13", "sts14", "sts15", "stsb"), 200),
    "pair": (("msrp", "twitter_url"), 150),
    "classification": (("amazon_counterfactual_en", "mr", "trec", "tweeteval_sentiment"), 150),
    "clustering": (("stackoverflow_titles", "twentynewsgroups_subjects"), 300),
    "retrieval": (("scifact", "xquad_en"), 80),
    "reranking": (("wikiqa",), 600),
}
"""Data sets of each kind, and how much of each: pairs, texts, or texts with their queries. In retrieval, all queries
whose answers are among the texts count, up to ``_QUERIES``."""
SEED = 42
_QUERIES = 160
_TRAINED_ON = 8
"""Texts of a label that a classifier is trained on."""
_DRAWS = 6

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Task = Any


class Scored(NamedTuple):
    """A task under some vectors: its items, and the score × 100 of any sample of them."""

    count: int
    score: Callable[[NDArray[np.int64]], float]


def halves(folder: Path) -> tuple[dict[tuple[str, str], Task], dict[tuple[str, str], Task]]:
    """The tasks of the choosing and of the judging half."""
    tasks = {(kind, name): _read(folder, kind, name, count) for kind, (names, count) in SETS.items() for name in names}
    together = _together(tasks)
    both: tuple[dict[tuple[str, str], Task], dict[tuple[str, str], Task]] = ({}, {})
    for (kind, name), task in tasks.items():
        for number, half in enumerate(both):
            half[kind, name] = _part(kind, task, lambda text, number=number: together(text) == number)
    return both


def texts_of(kind: str, task: Task) -> list[str]:
    """Every text that a task embeds."""
    if kind in ("sts", "pair"):
        return [row[side] for row in task for side in ("sentence1", "sentence2")]
    if kind == "classification":
        return [row["text"] for part in task.values() for row in part]
    if kind == "clustering":
        return [row["text"] for row in task]
    if kind == "reranking":
        return [text for row in task for text in [row["query"], *row["positive"], *row["negative"]]]
    return [*task["corpus"].values(), *task["queries"].values()]


def scored(kind: str, task: Task, embed: Embed) -> Scored:
    """Score vectors on a task: STS and pairs by cosines, the others as MTEB does."""
    return _SCORERS[kind](task, lambda texts: _unit(embed(texts)))


def _read(folder: Path, kind: str, name: str, count: int) -> Task:
    path = folder / kind / name
    test = rows.split_file(path, "test", "dev", "validation") if kind != "retrieval" else None
    text, label = {"text": rows.TEXT, "label": rows.LABEL}, {"sts": "score", "pair": "label"}.get(kind, "")
    if kind in ("sts", "pair"):
        fields = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, label: rows.NUMBER}
        read = sampling.sample(rows.read_rows(test, fields), count, SEED)
        return [{**_clean(row), "gold": float(row[label])} for row in read]
    if kind == "classification":
        train = sampling.sample_labelled(rows.read_rows(rows.split_file(path, "train"), text), count, SEED)
        return {
            "train": [*map(_clean, train)],
            "test": [*map(_clean, sampling.sample(rows.read_rows(test, text), count, SEED))],
        }
    if kind == "clustering":
        return [*map(_clean, sampling.sample(rows.read_rows(test, text), count, SEED))]
    if kind == "reranking":
        fields = {"query": rows.TEXT, "positive": rows.TEXTS, "negative": rows.TEXTS}
        return [*map(_clean, sampling.sample_rankings(rows.read_rows(test, fields), count, SEED))]
    document = {"_id": rows.ID, "title": rows.TEXT, "text": rows.TEXT}
    read = rows.read_rows(rows.split_file(path, "corpus"), document, optional=("title",))
    corpus = {row["_id"]: row for row in read}
    read = rows.read_rows(rows.split_file(path, "queries"), {"_id": rows.ID, "text": rows.TEXT})
    queries = {row["_id"]: row["text"] for row in read}
    judged = rows.read_qrels(path / "qrels" / "test.tsv", {"query-id": queries, "corpus-id": corpus})
    every, (_, corpus) = queries, sampling.sample_queries(queries, corpus, judged, count, SEED)
    answered = [query for query in judged if set(judged[query]) <= corpus.keys()]  # queries cost little
    queries = {query: every[query] for query in sampling.sample(answered, _QUERIES, SEED)}
    return {
        "corpus": {key: _clean_text(f"{row.get('title', '')} {row['text']}".strip()) for key, row in corpus.items()},
        "queries": {key: _clean_text(query) for key, query in queries.items()},
        "qrels": {query: {key: grade for key, grade in judged[query].items() if grade > 0} for query in queries},
    }


def _clean_text(text: str) -> str:
    cleaned = clean_text(text)
    return cleaned if cleaned.strip() else "(no text)"


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with texts that can be embedded."""
    keys = ("sentence1", "sentence2", "text", "query", "positive", "negative")
    cleaned: dict[str, Any] = {}
    for key, value in row.items():
        if key not in keys:
            cleaned[key] = str(value)
        else:
            cleaned[key] = _clean_text(value) if isinstance(value, str) else [_clean_text(text) for text in value]
    return cleaned


def _same(text: str) -> str:
    """What two texts share that differ in capitals and punctuation alone."""
    return " ".join("".join(char if char.isalnum() else " " for char in text.lower()).split())


def _together(tasks: Mapping[tuple[str, str], Task]) -> Callable[[str], int]:
    """In which half a text is, 0 or 1: of texts that are pairs of each other, in the same."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for (kind, _), task in tasks.items():
        for row in task if kind in ("sts", "pair") else ():
            parent[root(_same(row["sentence1"]))] = root(_same(row["sentence2"]))
    return lambda text: hashlib.sha256(root(_same(text)).encode()).digest()[-1] & 1


def _part(kind: str, task: Task, is_in: Callable[[str], bool]) -> Task:
    if kind in ("sts", "pair"):
        return [row for row in task if is_in(row["sentence1"])]
    if kind == "classification":  # both halves train on the same texts and are tested on others
        return {"train": task["train"], "test": [row for row in task["test"] if is_in(row["text"])]}
    if kind in ("clustering", "reranking"):
        return [row for row in task if is_in(row["text" if kind == "clustering" else "query"])]
    return {**task, "queries": {key: text for key, text in task["queries"].items() if is_in(text)}}


def _unit(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)


def _pairs(correlation: bool) -> Callable[[Task, Embed], Scored]:
    def score(task: Task, embed: Embed) -> Scored:
        from scipy.stats import spearmanr
        from sklearn.metrics import average_precision_score

        left_ND, right_ND = (embed([row[side] for row in task]) for side in ("sentence1", "sentence2"))
        cosine_N, gold_N = (left_ND * right_ND).sum(axis=1), np.array([row["gold"] for row in task], dtype=float)
        if correlation:
            return Scored(len(task), lambda sample: 100 * spearmanr(cosine_N[sample], gold_N[sample]).statistic)
        return Scored(len(task), lambda sample: 100 * average_precision_score(gold_N[sample], cosine_N[sample]))

    return score


def _classification(task: Task, embed: Embed) -> Scored:
    from sklearn.linear_model import LogisticRegression

    train, test = (embed([row["text"] for row in task[part]]) for part in ("train", "test"))
    known, wanted = (np.array([row["label"] for row in task[part]]) for part in ("train", "test"))
    draw, right = np.random.default_rng(SEED), []
    for _ in range(_DRAWS):
        chosen = [draw.permutation(np.flatnonzero(known == label))[:_TRAINED_ON] for label in np.unique(known)]
        places = np.concatenate(chosen)
        right.append(LogisticRegression(max_iter=100).fit(train[places], known[places]).predict(test) == wanted)
    right_N = np.mean(right, axis=0)
    return Scored(len(wanted), lambda sample: 100 * float(right_N[sample].mean()))


def _clustering(task: Task, embed: Embed) -> Scored:
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    vectors_ND, labels_N = embed([row["text"] for row in task]), np.array([row["label"] for row in task])
    count = len(set(labels_N))
    found = [KMeans(count, n_init=1, random_state=seed).fit_predict(vectors_ND) for seed in range(_DRAWS)]
    return Scored(
        len(task),
        lambda sample: 100 * float(np.mean([v_measure_score(labels_N[sample], one[sample]) for one in found])),
    )


def _retrieval(task: Task, embed: Embed) -> Scored:
    names = list(task["corpus"])
    cosine_QD = embed([*task["queries"].values()]) @ embed([*task["corpus"].values()]).T
    gains, discount = [], 1 / np.log2(np.arange(2, 12))
    for query, cosine_D in zip(task["queries"], cosine_QD, strict=True):
        grades = task["qrels"][query]
        got = np.array([grades.get(names[place], 0) for place in np.argsort(-cosine_D, kind="stable")[:10]])
        best = np.sort(np.array(list(grades.values())))[::-1][:10]
        gains.append((got * discount[: len(got)]).sum() / (best * discount[: len(best)]).sum())
    return _mean(gains)


def _reranking(task: Task, embed: Embed) -> Scored:
    from sklearn.metrics import average_precision_score

    precisions = []
    for row in task:
        vectors = embed([row["query"], *row["positive"], *row["negative"]])
        relevant = [1] * len(row["positive"]) + [0] * len(row["negative"])
        precisions.append(average_precision_score(relevant, vectors[1:] @ vectors[0]))
    return _mean(precisions)


def _mean(values: Sequence[float]) -> Scored:
    values_N = np.array(values)
    return Scored(len(values_N), lambda sample: 100 * float(values_N[sample].mean()))


_SCORERS: dict[str, Callable[[Task, Embed], Scored]] = {
    "sts": _pairs(correlation=True),
    "pair": _pairs(correlation=False),
    "classification": _classification,
    "clustering": _clustering,
    "retrieval": _retrieval,
    "reranking": _reranking,
}
