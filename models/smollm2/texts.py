"""Make what ``echo.toml``, ``near.toml`` and ``gpu.toml`` train on: groups of texts that belong together, and pairs.

    python models/smollm2/texts.py --corpus CORPUS --data DATA --out runs/smollm2-echo-data

- ``corpus.jsonl.gz``: four neighbouring sentences of a paragraph, from the text corpus
- ``passages.jsonl.gz``: a passage of several sentences from each document of the corpus
- ``captions.jsonl.gz``: a sentence, what follows from it and what contradicts it (SNLI)
- ``questions.jsonl.gz``: a question and the sentence that answers it (SQuAD, MedQuAD)
- ``science.jsonl.gz``: a title or summary and the abstract's first sentence (arXiv, SciTLDR)
- ``pairs.jsonl.gz``: the questions with their answers, as rows of queries and positives

What is scored in one of the data sets is left out, with the whole group that it stands in. Only sets whose licence lets
what is trained on them be shipped are used; README.md names them. Texts are cut to what is read of them in training, so
that the teacher reads no more than the student.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from echoembed.errors import DataError
from echoembed.experiments.selection import judged_texts, plain

LEFT_OUT = {"masc"}
"""Sources of the corpus whose terms are not clear enough to ship what is trained on them."""
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
console = Console()
FEWEST, MOST = 4, 28
"""Words of a sentence that is used."""
LONGEST = 70
"""The most words of a passage."""


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph."""
    return [" ".join(sentence.split()) for sentence in SENTENCE.split(paragraph)]


def fits(sentence: str) -> bool:
    """Whether a sentence is neither a fragment nor longer than what is read."""
    return FEWEST <= len(sentence.split()) <= MOST


def short(text: str) -> str:
    """The first sentence of a text, or its first words."""
    return " ".join(sentences(text)[0].split()[:MOST])


def documents(folder: Path, shards: int) -> Iterator[list[str]]:
    """The paragraphs of every document of the corpus."""
    for path in sorted(folder.glob("train-*.jsonl.xz"))[:shards]:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                document = json.loads(line)
                if document["source"] not in LEFT_OUT:
                    yield re.split(r"\n\n+", document["text"])


def corpus(folder: Path, shards: int, groups: int) -> Iterator[list[str]]:
    """Four neighbouring sentences of every document, from a paragraph drawn at random; or several such groups."""
    draw = random.Random(0)  # noqa: S311
    for paragraphs in documents(folder, shards):
        draw.shuffle(paragraphs)
        found = 0
        for paragraph in paragraphs[:20]:
            parts = [part for line in paragraph.split("\n") for part in sentences(line)]
            starts = [n for n in range(len(parts) - 3) if all(map(fits, parts[n : n + 4]))]
            if starts:
                start = draw.choice(starts)
                yield parts[start : start + 4]
                found += 1
                if found == groups:
                    break


def passages(folder: Path, shards: int) -> Iterator[str]:
    """The first sentences of a paragraph of every document, as many as fit into ``LONGEST`` words."""
    draw = random.Random(1)  # noqa: S311
    for paragraphs in documents(folder, shards):
        draw.shuffle(paragraphs)
        for paragraph in paragraphs[:20]:
            passage: list[str] = []
            for sentence in sentences(" ".join(paragraph.split())):
                if len(" ".join([*passage, sentence]).split()) > LONGEST:
                    break
                passage.append(sentence)
            if len(passage) > 1 and len(" ".join(passage).split()) > MOST:
                yield " ".join(passage)
                break


def rows(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of a training set."""
    with gzip.open(folder / "train" / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def write(path: Path, found: Iterable[dict[str, object]], judged: set[str]) -> None:
    """Rows as gzipped JSON lines, the same bytes for the same rows, without those that have a scored text."""
    count, left_out = 0, 0
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        for row in found:
            texts = [text for value in row.values() for text in (value if isinstance(value, list) else [value])]
            if any(plain(part) in judged for text in map(str, texts) for part in (text, *sentences(text))):
                left_out += 1
                continue
            count += 1
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    console.print(f"{path.name}: {count:,} rows; {left_out:,} left out, as they have a text that is scored")


def main() -> None:
    """Write the six files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train-*.jsonl.xz")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and what is scored")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=1, help="shards of the corpus to read")
    parser.add_argument("--groups", type=int, default=1, help="groups of sentences from each document")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        judged = judged_texts(options.data)
    except DataError:  # a folder with train/ alone
        judged = set()
        console.print(f"{options.data} has no data set that is scored: nothing is left out")
    groups = ({"texts": group} for group in corpus(options.corpus, options.shards, options.groups))
    write(options.out / "corpus.jsonl.gz", groups, judged)
    write(
        options.out / "passages.jsonl.gz", ({"text": text} for text in passages(options.corpus, options.shards)), judged
    )
    captions = rows(options.data, "snli_devtest")
    triples = ([row["query"], row["positive"], row["negative"]] for row in captions)
    write(options.out / "captions.jsonl.gz", ({"texts": list(map(short, triple))} for triple in triples), judged)
    asked = [
        [short(row["query"]), short(row["positive"])]
        for name in ("squad_question_sentence", "medquad")
        for row in rows(options.data, name)
    ]
    write(options.out / "questions.jsonl.gz", ({"texts": pair} for pair in asked), judged)
    science = (
        {"texts": [short(row["query"]), short(row["positive"])]}
        for name in ("arxiv_title_abstract", "scitldr")
        for row in rows(options.data, name)
    )
    write(options.out / "science.jsonl.gz", science, judged)
    write(options.out / "pairs.jsonl.gz", ({"query": query, "positive": answer} for query, answer in asked), judged)


if __name__ == "__main__":
    main()
