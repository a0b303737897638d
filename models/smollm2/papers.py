"""Sentences of open-access research articles, to train on: ``python papers.py ARTICLES... --data DATA --out OUT``.

Textbooks and encyclopedias hardly contain the sentences in which researchers report their results. ARTICLES are folders
of articles, as plain text (``NAME.txt``, with its notice of copyright in ``NAME.copyright``) or in XML, as PubMed
Central and PLOS write it (``NAME.xml``). Articles without a Creative Commons licence are left out. Written are

- ``OUT/papers.jsonl.gz``: four neighbouring sentences of a paragraph, as many groups as there are
- ``OUT/agreement/sts/papers/test.jsonl.gz``: pairs of sentences of other articles, which are not trained on, as an STS
  set whose scores are the teacher's cosines. ``echoembed eval ADAPTER --data OUT/agreement -b sts`` says how well an
  adapter agrees with its teacher on such sentences.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from sentence_transformers import SentenceTransformer

from echoembed.experiments.selection import judged_texts
from texts import sentences, write

console = Console()
FEWEST, MOST = 6, 48
"""Words of a sentence that is used: research sentences are long."""
LICENCE = re.compile(r"creative\s*commons", re.IGNORECASE)
CITATION = re.compile(r"\s*[\[(]\s*(\d+\s*[-–,;]?\s*)+[\])]|\s*\[[^\]]{0,60}\d[^\]]{0,60}\]")  # noqa: RUF001
ABBREVIATION = re.compile(r"\b(Fig|Figs|al|vs|cf|Ref|Refs|Dr|No|approx|ca|e\.g|i\.e|sp|spp|St|Eq|Suppl)\.$")
BAD = re.compile(r"[\[\]{}=<>|\\]|\(\s*[,;)]|^\W*[a-z]|\bhttp|www\.")
"""What holes of removed citations, formulas and addresses leave behind."""


def xml_paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of an article in XML: of its abstract and its body, without references, tables and figures."""
    parts = re.findall(r"<abstract[^>]*>.*?</abstract>|<body>.*?</body>", text, re.DOTALL)
    body = re.sub(r"<(table-wrap|fig|disp-formula|inline-formula)\b.*?</\1>", " ", " ".join(parts), flags=re.DOTALL)
    body = re.sub(r'\[?<xref[^>]*ref-type="bibr".*?</xref>\]?', "", body, flags=re.DOTALL)
    for paragraph in re.findall(r"<p>(.*?)</p>", body, re.DOTALL):
        yield html.unescape(re.sub(r"<[^>]+>", "", paragraph))


def articles(folders: list[Path]) -> Iterator[list[str]]:
    """The paragraphs of each article that may be used."""
    for folder in folders:
        for path in sorted([*folder.rglob("*.xml"), *folder.rglob("*.txt")]):
            text = path.read_text("utf-8")
            notice = path.with_suffix(".copyright")
            if LICENCE.search(notice.read_text("utf-8") if notice.exists() else text):
                yield list(xml_paragraphs(text)) if path.suffix == ".xml" else text.split("\n")


def split(paragraph: str) -> list[str]:
    """The sentences of a paragraph, without citations; those that an abbreviation cut are joined again."""
    found: list[str] = []
    for part in sentences(CITATION.sub("", " ".join(paragraph.split()))):
        if found and ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return [re.sub(r"[\s–,-]+([.,;])", r"\1", sentence) for sentence in found]  # noqa: RUF001


def fits(sentence: str) -> bool:
    """Whether a sentence is whole and of a length that is read."""
    return FEWEST <= len(sentence.split()) <= MOST and not BAD.search(sentence) and sentence[-1] in ".!?"


def groups(paragraphs: list[str]) -> Iterator[list[str]]:
    """Four usable sentences of a paragraph, in their order; the few that are left over are dropped."""
    for paragraph in paragraphs:
        usable = [sentence for sentence in split(paragraph) if fits(sentence)]
        for start in range(0, len(usable) - 3, 4):
            yield usable[start : start + 4]


def pairs(kept: list[list[str]], teacher: SentenceTransformer, count: int) -> Iterator[dict[str, object]]:
    """Pairs for an STS set: half of them close in meaning, from all articles; half drawn from one article."""
    draw = random.Random(0)  # noqa: S311
    texts = [text for article in kept for text in article]
    place = np.repeat(np.arange(len(kept)), [len(article) for article in kept])
    vectors_ND = teacher.encode(texts, normalize_embeddings=True, batch_size=32)
    cosine_NN = vectors_ND @ vectors_ND.T
    for number, first in enumerate(draw.sample(range(len(texts)), min(count, len(texts)))):
        if number % 2:
            near = np.argsort(-cosine_NN[first])[1:40]
            second = int(draw.choice([other for other in near if other != first]))
        else:
            second = draw.choice([other for other in np.flatnonzero(place == place[first]) if other != first])
        yield {
            "sentence1": texts[first],
            "sentence2": texts[second],
            "score": round(float(cosine_NN[first, second]), 4),
        }


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("articles", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="folder with what is scored, which is left out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", default="runs/all-mpnet-base-v2")
    parser.add_argument("--kept", type=int, default=12, help="articles that are not trained on")
    options = parser.parse_args()
    judged = judged_texts(options.data)
    found = list(articles(options.articles))
    random.Random(0).shuffle(found)  # noqa: S311
    kept = [[text for group in groups(article) for text in group] for article in found[: options.kept]]
    trained = ({"texts": group} for article in found[options.kept :] for group in groups(article))
    write(options.out / "papers.jsonl.gz", trained, judged)
    agreement = options.out / "agreement" / "sts" / "papers"
    agreement.mkdir(parents=True, exist_ok=True)
    with gzip.open(agreement / "test.jsonl.gz", "wt", encoding="utf-8") as file:
        for pair in pairs(kept, SentenceTransformer(options.teacher), 600):
            file.write(json.dumps(pair, ensure_ascii=False) + "\n")
    console.print(f"{len(found)} articles, of which {len(kept)} are not trained on")


if __name__ == "__main__":
    main()
