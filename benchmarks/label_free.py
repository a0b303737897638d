"""How well tune's choice without labels agrees with true STS scores, over some three hundred recipes.

    python benchmarks/label_free.py --data DATA --model smollm2-135m --model gemma.gguf [--texts FILE]

For each half of the STS pairs (``beyond_tasks.py``), recipes are scored without labels, on texts of this half or of
FILE (a text a line), and truly, by the pairs. The table has the rank correlation of both, and the true scores of the
recipe that is picked, of plain echo and of the best. Calibrations are fitted on the package's sentences. ``--store``
keeps the vectors, as for ``beyond.py``.

Shapes: N texts, D width of the vectors.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr

from beyond_methods import LINES, Part, Vectors
from beyond_tasks import Task, halves, texts_of
from echoembed import recipes
from echoembed.evaluation.layers import LayerStore, default_folder
from echoembed.tune.evidence import Halves, merits

DEPTHS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
CALIBRATIONS = ("none", "mean", "z-score", "components-1", "components-8", "z-components-8", "whiten-128")
STRONG = ("z-score", "components-8", "z-components-8")
"""The calibrations that are also tried beside a bag of words, from 0.75 of the depth on."""
TEXTS = 260
BUDGET = 512


def candidates() -> Iterator[tuple[Part, ...]]:
    """Yield recipes: prompts, depths and calibrations, and some beside a bag of words."""
    word, echo, classical = (recipes[name].overridden(budget=BUDGET) for name in ("prompteol", "echo", "classical"))
    lines = LINES.overridden(budget=BUDGET)
    bags = [Part(classical, 0, kind) for kind in ("components-8", "z-components-8")]
    for prompt in (word, echo, lines, classical):
        for depth in (0, 0.8, 1.0) if prompt is classical else DEPTHS:
            for kind in CALIBRATIONS:
                part = Part(prompt, depth, kind, "last" if prompt is word else "mean")
                yield (part,)
                if prompt is not classical and depth >= 0.75 and kind in STRONG:
                    yield from ((part, bag) for bag in bags)


def name_of(parts: Sequence[Part]) -> str:
    """Name a recipe for the table."""
    return " beside ".join(f"{part.prompt.name}, depth {part.depth}, {part.calibration}" for part in parts)


def true_score(tasks: Sequence[Task], texts: Sequence[str], vectors_ND: NDArray[np.float32]) -> float:
    """Return the mean Spearman correlation × 100 over STS sets."""
    index = {text: place for place, text in enumerate(texts)}
    scores = []
    for task in tasks:
        left, right = ([index[row[side]] for row in task] for side in ("sentence1", "sentence2"))
        cosines = (vectors_ND[left] * vectors_ND[right]).sum(axis=1)
        scores.append(100 * spearmanr(cosines, [row["gold"] for row in task]).statistic)
    return float(np.mean(scores))


def rows(vectors: Vectors, name: str, data: Path, evidence_texts: Sequence[str] | None) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each half."""
    for number, half in enumerate(("choosing", "judging")):
        tasks = [task for (kind, _), task in halves(data)[number].items() if kind == "sts"]
        texts = list(dict.fromkeys(text for task in tasks for text in texts_of("sts", task)))
        seed = number if evidence_texts else 1
        evidence = Halves.of(random.Random(seed).sample(list(evidence_texts or texts), TEXTS))
        scores, spreads, true, names = [], [], [], []
        for parts in candidates():
            embed = vectors.embed(parts)
            unit_ND = embed(evidence.texts) / np.float32(np.sqrt(len(parts)))
            scores.append(evidence.score(evidence.values(unit_ND), np.arange(len(evidence))))
            spreads.append(evidence.spread(unit_ND))
            true.append(true_score(tasks, texts, embed(texts)))
            names.append(name_of(parts))
        merit_N, true_N = merits(scores, spreads), np.array(true)
        picked = int(np.argmax(merit_N))
        echo = true_N[names.index(name_of((Part(replace(recipes["echo"], budget=BUDGET), 1.0),)))]
        correlations = [f"{spearmanr(values, true_N).statistic:.2f}" for values in (scores, merit_N)]
        numbers = [f"{value:.1f}" for value in (true_N[picked], echo, true_N.max())]
        yield (name, half, *correlations, *numbers, names[picked])


def main() -> None:
    """Read the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--store", type=Path, default=default_folder())
    parser.add_argument("--texts", type=Path, help="a text a line, none of them in the pairs")
    options = parser.parse_args()
    texts = None if options.texts is None else [line for line in options.texts.read_text().splitlines() if line.strip()]
    head = ("model", "half", "halves alone", "sum of ranks", "picked", "echo", "best", "the recipe that was picked")
    lines = [f"| {' | '.join(head)} |", "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    for model in options.model:
        vectors = Vectors(model, LayerStore(options.store), 512)
        lines += [f"| {' | '.join(row)} |" for row in rows(vectors, Path(model).stem, options.data, texts)]
    Console(width=250).print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
