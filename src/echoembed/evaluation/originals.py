"""From public data as published by its authors to the rows of our tasks: a reader for each form of original.

Each reader takes the contents of the original files, in the manifest's order, and returns the rows of one of our files.
Sentences and labels do not change, except that blanks at the ends of lines are removed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

Rows = list[dict[str, Any]]
Original = tuple[str, bytes]
"""The path in its repository, and the content."""
Reader = Callable[[Sequence[Original], Mapping[str, Any]], Rows]


def _lines(content: bytes, encoding: str = "utf-8") -> list[str]:
    return content.decode(encoding).lstrip("\ufeff").replace("\r\n", "\n").rstrip("\n").split("\n")


def _scored_pairs(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    """Read lines of score, sentence and sentence; each file is a subset, and lines without a score are left out."""
    rows = []
    for path, content in files:
        subset = PurePosixPath(path).name.split(".")[0]
        for line in _lines(content):
            cells = line.split("\t")
            if len(cells) == 3 and cells[0].strip():
                left, right = cells[1].strip(), cells[2].strip()
                rows.append({"sentence1": left, "sentence2": right, "score": float(cells[0]), "subset": subset})
    return rows


def _csv_pairs(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    """Read CSV without a header: sentence, sentence, score."""
    [(_, content)] = files
    cells = csv.reader(io.StringIO(content.decode()))
    return [
        {"sentence1": left.strip(), "sentence2": right.strip(), "score": float(score)} for left, right, score in cells
    ]


def _sick(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    [(_, content)] = files
    cells = [line.split("\t") for line in _lines(content)[1:]]
    return [
        {"sentence1": row[1], "sentence2": row[2], "score": float(row[3]), "entailment": row[4].strip()}
        for row in cells
    ]


def _msrp(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    [(_, content)] = files
    cells = [line.split("\t") for line in _lines(content)[1:]]
    return [{"sentence1": row[3].strip(), "sentence2": row[4].strip(), "label": int(row[0])} for row in cells]


def _csv_labels(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    """Read CSV or TSV with a header: text, label; labels that are numbers stay numbers."""
    [(path, content)] = files
    delimiter = "\t" if path.endswith(".tsv") else ","
    cells = list(csv.reader(io.StringIO(content.decode()), delimiter=delimiter))[1:]
    return [{"text": row[0].strip(), "label": int(row[1]) if row[1].isdigit() else row[1]} for row in cells]


def _in_scope(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    """Read CLINC150's JSON: lists of text and label by split."""
    [(_, content)] = files
    return [{"text": text.strip(), "label": label} for text, label in json.loads(content)[options["split"]]]


def _texts_and_numbers(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    """Read a file of texts and one of numbers, line by line; ``labels`` names the numbers, from ``first`` on."""
    texts, numbers = (_lines(content) for _, content in files)
    names, least = options["labels"], options.get("first", 0)
    return [
        {"text": text.strip(), "label": names[int(number) - least]} for text, number in zip(texts, numbers, strict=True)
    ]


def _trec(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    [(_, content)] = files
    cells = [line.split(" ", 1) for line in _lines(content, "latin-1")]
    return [{"text": text.strip(), "label": label.split(":")[0], "fine": label} for label, text in cells]


def _squad_corpus(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    return [
        {"_id": f"{number}-{place}", "title": article["title"].replace("_", " "), "text": paragraph["context"]}
        for number, article in enumerate(_articles(files))
        for place, paragraph in enumerate(article["paragraphs"])
    ]


def _squad_queries(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    return [
        {"_id": question["id"], "text": question["question"]}
        for article in _articles(files)
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _squad_judgements(files: Sequence[Original], options: Mapping[str, Any]) -> Rows:
    """Return the rows of a table of query, document and grade."""
    return [
        {"query-id": question["id"], "corpus-id": f"{number}-{place}", "score": 1}
        for number, article in enumerate(_articles(files))
        for place, paragraph in enumerate(article["paragraphs"])
        for question in paragraph["qas"]
    ]


def _articles(files: Sequence[Original]) -> list[dict[str, Any]]:
    [(_, content)] = files
    articles: list[dict[str, Any]] = json.loads(content)["data"]
    return articles


READERS: dict[str, Reader] = {
    "scored-pairs": _scored_pairs,
    "csv-pairs": _csv_pairs,
    "sick": _sick,
    "msrp": _msrp,
    "csv-labels": _csv_labels,
    "clinc": _in_scope,
    "texts-and-numbers": _texts_and_numbers,
    "trec": _trec,
    "squad-corpus": _squad_corpus,
    "squad-queries": _squad_queries,
    "squad-judgements": _squad_judgements,
}
"""The manifest's name of a form → its reader."""


def written(path: str, rows: Rows) -> bytes:
    """Return the bytes of one of our files, before compression: JSON lines, or TSV if its name ends in .tsv."""
    if path.endswith(".tsv"):
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return ("\n".join(lines) + "\n").encode()
