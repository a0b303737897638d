"""The texts to embed: real texts where they are installed, otherwise artificial ones of similar lengths.

    shared/data/sts/*/*.jsonl.gz             sentences, about 15 tokens each
    shared/data/retrieval/*/corpus.jsonl.gz  abstracts and paragraphs, about 300 tokens each

The folder is looked for beside the checkout; ``ECHOEMBED_DATA`` names another. Without it, texts are made of random
words, with a similar distribution of lengths.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

from sentence_transformers import SentenceTransformer

DATA = Path(os.environ.get("ECHOEMBED_DATA", Path(__file__).parents[2] / "shared" / "data"))

PAIRS = Path(__file__).parents[1] / "examples" / "data" / "sts" / "everyday" / "test.jsonl"


def words(model: SentenceTransformer) -> list[str]:
    """Return words that are one token each."""
    pieces = model[0].pieces
    plain = [token[1:] for token in model.tokenizer.get_vocab() if token[:1] in "▁Ġ" and token[1:].isalpha()]
    candidates = [word for word in sorted(plain) if word.isascii() and len(word) > 3]
    return [word for word in candidates if len(pieces.encode([" " + word])[0].ids) == 1][:800]


def equal(known: list[str], length: int, count: int, seed: int = 0) -> list[str]:
    """Texts of ``length`` tokens each."""
    chance = random.Random(f"{length} {seed}")
    return [" ".join(chance.choices(known, k=length)) for _ in range(count)]


def sentences(known: list[str], count: int) -> tuple[list[str], str]:
    """Return distinct short texts, and their source."""
    found = [row[key] for row in _rows("sts/*/*.jsonl.gz") for key in ("sentence1", "sentence2")]
    return _chosen(found, count, "STS sentences") or (_made(known, count, 2.7, 0.5), "made, of STS-like lengths")


def pairs(count: int) -> list[tuple[str, str, float]]:
    """Return graded pairs of the repository's own sentences, spread over the whole file."""
    lines = PAIRS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][:: max(1, len(lines) // count)][:count]
    return [(row["sentence1"], row["sentence2"], float(row["score"])) for row in rows]


def documents(known: list[str], count: int) -> tuple[list[str], str]:
    """Return distinct abstracts and paragraphs, and their source."""
    found = [f"{row.get('title') or ''} {row['text']}".strip() for row in _rows("retrieval/*/corpus.jsonl.gz")]
    return _chosen(found, count, "retrieval corpora") or (
        _made(known, count, 5.6, 0.5),
        "made, of abstract-like lengths",
    )


def _rows(pattern: str) -> list[dict[str, str]]:
    rows = []
    for path in sorted(DATA.glob(pattern)):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    return rows


def _chosen(found: list[str], count: int, source: str) -> tuple[list[str], str] | None:
    unique = sorted({text for text in found if text.strip()})
    return (random.Random(0).sample(unique, count), source) if len(unique) >= count else None


def _made(known: list[str], count: int, middle: float, spread: float) -> list[str]:
    chance = random.Random(0)
    lengths = [min(1000, max(3, round(chance.lognormvariate(middle, spread)))) for _ in range(count)]
    return [" ".join(chance.choices(known, k=length)) for length in lengths]
