"""Group texts with their nearest neighbours, as their teacher sees them: what ``near.toml`` and ``gpu.toml`` train on.

    python models/smollm2/near.py models/smollm2/gpu.toml --out runs/smollm2-near-data/near.jsonl.gz

The student learns about a text only from the other texts of its batch, and sentences that stand beside each other are
rarely close in meaning. So each text is put into a group with texts that are closest to it in all the data, whatever
they come from. The teacher's vectors are kept where the run of the configuration looks for them. Without a GPU, let a
smaller model find the neighbours (``--by``): the run then asks the teacher only for the texts that it uses.

1. Read the plain texts of the configuration's data sets, and let the teacher embed them.
2. Find each text's nearest texts, leaving out those that say the same to the teacher.
3. Go through the texts in random order: a text that is in no group yet takes the nearest that are in none either.

Shapes: N texts, K neighbours, D width of the teacher.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from echoembed.training import config as configuration
from echoembed.training.rows import read
from echoembed.training.tables import TeacherConfig
from echoembed.training.teacher import Teacher

console = Console()
SAME = 0.97
"""A cosine from which on two texts say the same to the teacher."""
CHUNK = 8192
READ = 512
"""Texts that the teacher reads before the time is looked at."""


def embedded(teacher: Teacher, texts: list[str], seconds: float | None = None) -> tuple[list[str], torch.Tensor]:
    """Return the texts with their vectors ``_ND``: all texts, or those that the teacher has read when time is up.

    The texts are in order of length, so that the teacher pads little; it reads parts of them in random order, so that
    those left out are of all lengths.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    starts = np.random.default_rng(0).permutation(np.arange(0, len(texts), READ))
    parts = []
    for start in track(starts, "Embedding", console=console):
        part = texts[start : start + READ]
        parts.append((part, teacher.vectors(part)))
        if time.monotonic() >= end:
            break
    return [text for part, _ in parts for text in part], torch.cat([vectors for _, vectors in parts])


def nearest(vectors_ND: torch.Tensor, count: int) -> NDArray[np.int64]:
    """Each text's nearest other texts that do not say the same, nearest first, ``_NK``; -1 where there are fewer."""
    rows = []
    for start in track(range(0, len(vectors_ND), CHUNK), "Comparing", console=console):
        cosine_CN = vectors_ND[start : start + CHUNK] @ vectors_ND.T
        cosine_CN = cosine_CN.masked_fill_(cosine_CN >= SAME, -1)
        value_CK, index_CK = cosine_CN.topk(min(count, len(vectors_ND)), dim=1)
        rows.append(index_CK.masked_fill_(value_CK <= 0, -1).cpu().numpy())
    return np.concatenate(rows)


def groups(nearest_NK: NDArray[np.int64], size: int, seed: int = 0) -> list[list[int]]:
    """Disjoint groups of texts."""
    free = np.ones(len(nearest_NK), bool)
    found = []
    for text in np.random.default_rng(seed).permutation(len(nearest_NK)):
        if not free[text]:
            continue
        others = [other for other in nearest_NK[text] if other >= 0 and free[other]][: size - 1]
        if len(others) == size - 1:
            found.append([int(text), *map(int, others)])
            free[[text, *others]] = False
    return found


def main() -> None:
    """Write the groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=4, help="texts of a group")
    parser.add_argument("--limit", type=int, help="texts to use, drawn at random; left out for all")
    parser.add_argument("--seconds", type=float, help="how long to embed; further texts are left out")
    parser.add_argument("--words", type=int, help="leave out groups with a text of more words")
    parser.add_argument("--by", help="a SentenceTransformer that finds the neighbours instead of the teacher")
    parser.add_argument("--of", nargs="+", metavar="NAME", help="data sets of the configuration; left out for all")
    parser.add_argument("--nearest", type=int, default=32, help="neighbours that a group is made from")
    options = parser.parse_args()
    config = configuration.read(options.config)
    plain = [data for data in config.data if not data.pairs and Path(data.path).name != options.out.name]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if odd := set(options.of or ()) - {data.name for data in plain}:
        parser.error(f"--of: the configuration has no plain texts named {', '.join(sorted(odd))}")
    if options.of:
        plain = [data for data in plain if data.name in options.of]
    texts = sorted({text for data in plain for text in read(data, "distil")["text"]}, key=len)
    if options.limit and options.limit < len(texts):
        drawn = np.sort(np.random.default_rng(0).choice(len(texts), options.limit, replace=False))
        texts = [texts[place] for place in drawn]
    teacher = Teacher(TeacherConfig(model=options.by)) if options.by else Teacher(config.teacher, Path(config.output))
    texts, vectors_ND = embedded(teacher, texts, options.seconds)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    vectors_ND = torch.nn.functional.normalize(vectors_ND, dim=-1).to(device, dtype)
    found = groups(nearest(vectors_ND, options.nearest), options.size)
    rows = [[texts[place] for place in group] for group in found]
    if options.words:
        rows = [row for row in rows if max(len(text.split()) for text in row) <= options.words]
    with options.out.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        for row in rows:
            file.write((json.dumps({"texts": row}, ensure_ascii=False) + "\n").encode())
    console.print(f"{options.out.name}: {len(rows):,} groups of {options.size} from {len(texts):,} texts")


if __name__ == "__main__":
    main()
