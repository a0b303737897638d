"""Short passages of a corpus of documents, as plain texts to train on: ``python passages.py CORPUS OUT.jsonl.gz``.

CORPUS is a folder of ``train-*.jsonl.xz`` whose lines have a ``text`` with paragraphs between empty lines. Of every
document some paragraphs are kept, each cut at the end of a sentence, in an order that a fixed seed shuffles: the same
corpus gives the same file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import random
import re
from collections.abc import Iterator
from pathlib import Path

SHORTEST, LONGEST = 80, 320
"""Characters of a passage."""


def passages(document: str, longest: int) -> Iterator[str]:
    """Each paragraph's first sentences, as many as fit."""
    for paragraph in re.split(r"\n+", document):
        taken = ""
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip()):
            if taken and len(taken) + 1 + len(sentence) > longest:
                break
            taken = f"{taken} {sentence}".strip()
        if SHORTEST <= len(taken) <= longest:
            yield taken


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=2, help="Passages of one document, at most.")
    parser.add_argument("--count", type=int, default=160_000, help="Passages in all, at most.")
    parser.add_argument("--longest", type=int, default=LONGEST, help="Characters of a passage, at most.")
    chosen = parser.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)  # noqa: S311
    found: list[str] = []
    for file in sorted(chosen.corpus.glob("train-*.jsonl.xz")):
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                several = list(passages(json.loads(line)["text"], chosen.longest))
                found += draw.sample(several, min(chosen.each, len(several)))
    found = list(dict.fromkeys(found))
    draw.shuffle(found)
    with chosen.out.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
        for text in found[: chosen.count]:
            packed.write((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
