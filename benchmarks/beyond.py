"""Beyond the paper: prompts, depths, calibrations and concatenations on six kinds of tasks, at what cost.

    python benchmarks/beyond.py --data DATA --model smollm2-135m --model gemma.gguf --out beyond.json
    python benchmarks/beyond.py --out beyond.json --page docs/beyond.md          # the tables of the page, from the file

Every prompt is read once, for all layers, and kept (``--store``): a run that is stopped goes on where it was. Scores
are those of the half that no choice was made by (``--half choose`` for the other); calibrations are fitted on sentences
that come with the package. ``--stored`` leaves out what has not been read yet.

Shapes: N texts, D width of the vectors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import echoembed
from beyond_tasks import KINDS, Embed, Task, halves, scored, texts_of
from echoembed import recipes
from echoembed.evaluation.layers import LayerStore, default_folder
from echoembed.evaluation.peers import encoders
from echoembed.model.calibrate import sentences
from echoembed.model.calibration import Calibration
from echoembed.model.fitting import fit
from echoembed.model.moments import Moments
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.recipe import Pooling, Recipe
from echoembed.tune import cost

RESAMPLES = 300
LINES = replace(
    recipes["echo"],
    query_template="{bos}Rewrite the following paragraph: {text}\nThe rewritten paragraph: {text:pool}",
    document_template="",
    name="echo, lines",
)
"""The paper's prompt with a line break for a blank: the wording of ``echo-deep``."""


@dataclass(frozen=True)
class Part:
    """Vectors of one prompt at one depth."""

    prompt: Recipe
    depth: float
    """Share of the layers; 0 for the first layer alone."""
    calibration: str = "none"
    pooling: Pooling = "mean"

    def layer(self, layers: int) -> int:
        """The layer that is pooled."""
        return max(int(self.depth * layers + 0.5), 1)


def _methods() -> dict[str, tuple[Part, ...]]:
    echo, classical, word = recipes["echo"], recipes["classical"], recipes["prompteol"]
    rows: dict[str, tuple[Part, ...]] = {
        "classical": (Part(classical, 1),),
        "echo": (Part(echo, 1),),
        "prompteol": (Part(word, 1, pooling="last"),),
    }
    rows |= {f"bag of words, {kind}": (Part(classical, 0, kind),) for kind in ("none", "z-score", "components-8")}
    calibrations = ("none", "mean", "z-score", "components-1", "components-8", "whiten-128", "spectrum-2")
    for name, prompt in (("echo", echo), ("echo, lines", LINES)):
        rows |= {f"{name}, depth 0.8, {kind}": (Part(prompt, 0.8, kind),) for kind in calibrations}
        rows |= {f"{name}, {kind}": (Part(prompt, 1, kind),) for kind in calibrations[1:]}
    for depth in (0.8, 1.0):
        rows |= {f"prompteol, depth {depth}, {kind}": (Part(word, depth, kind, "last"),) for kind in calibrations[1:]}
    bag = Part(classical, 0, "z-score")
    rows["prompteol beside bag of words, z-score"] = (Part(word, 1, "z-score", "last"), bag)
    rows["echo beside bag of words, z-score"] = (Part(echo, 1, "z-score"), bag)
    rows["echo, depth 0.8, beside its first layer, z-score"] = (Part(echo, 0.8, "z-score"), Part(echo, 0, "z-score"))
    rows["echo beside prompteol, depth 0.8 and 1, z-score"] = (
        Part(echo, 0.8, "z-score"),
        Part(word, 1, "z-score", "last"),
    )
    return rows


class Vectors:
    """Makes the vectors of methods out of what is stored."""

    def __init__(self, name: str, store: LayerStore, fit_on: int) -> None:
        self.model = echoembed.load(name, recipe="echo", overflow="ignore")
        self.layers = transformer_of(self.model).layers
        self.store, self.sentences = store, sentences()[:fit_on]
        self._fitted: dict[Part, Calibration | None] = {}

    def missing(self, part: Part, texts: Sequence[str]) -> int:
        """How many texts have not been read under the part's prompt."""
        whole = under(self.model, part.prompt)
        return self.store.missing(whole, transformer_of(whole).reader.render(texts))

    def embed(self, parts: Sequence[Part]) -> Embed:
        """The method: each part's unit vectors side by side."""

        def made(texts: Sequence[str]) -> NDArray[np.float32]:
            return np.concatenate([self._part(part, texts) for part in parts], axis=1)

        return made

    def _part(self, part: Part, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        if part not in self._fitted:
            self._fitted[part] = self._fit(part)
        vectors_ND = self._raw(part, texts)
        calibration = self._fitted[part]
        if calibration is not None:
            vectors_ND = calibration.calibrated(torch.from_numpy(vectors_ND)).numpy()
        return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)

    def _raw(self, part: Part, texts: Sequence[str]) -> NDArray[np.float32]:
        whole = under(self.model, part.prompt)
        prompts = transformer_of(whole).reader.render(texts)
        return self.store.vectors(whole, prompts, [part.layer(self.layers)], part.pooling)[:, 0]

    def _fit(self, part: Part) -> Calibration | None:
        if part.calibration == "none":
            return None
        if part.calibration.startswith("spectrum"):
            recipe = replace(part.prompt, calibration=part.calibration)
            return fit(transformer_of(self.model).under(recipe), [])[0]
        moments = Moments.needed_by(part.calibration)
        moments.add(self._raw(part, self.sentences))
        return Calibration.of(part.calibration, moments)


def measure(
    name: str, data: Path, store: LayerStore, half: str, fit_on: int, *, stored: bool
) -> list[dict[str, object]]:
    """A row for each method and kind of task: score × 100, interval, cost."""
    vectors = Vectors(name, store, fit_on)
    tasks = halves(data)[half == "judge"]
    texts = [text for (kind, _), task in tasks.items() for text in texts_of(kind, task)]
    costs = cost.measured(vectors.model, sentences()[: cost.TEXTS], recipes["echo"])
    rows: list[dict[str, object]] = []
    for method, parts in _methods().items():
        needed = [
            *texts,
            *(vectors.sentences if any(part.calibration[:4] not in ("none", "spec") for part in parts) else ()),
        ]
        absent = sum(vectors.missing(part, needed) for part in parts)
        if stored and absent:
            sys.stderr.write(f"{method}: {absent} texts are not stored\n")
            continue
        spent = sum(costs.of(vectors.model, part.prompt, part.layer(vectors.layers)) for part in parts)
        rows += [row | {"cost": spent} for row in _judged(method, vectors.embed(parts), tasks)]
    for system in encoders()[0]:
        rows += [row | {"cost": None} for row in _judged(system.name, system.encode, tasks)]
    return [{"model": name, "half": half, **row} for row in rows]


def _judged(method: str, embed: Embed, tasks: Mapping[tuple[str, str], Task]) -> list[dict[str, object]]:
    """The scores of a method's vectors, a row for each kind of task and one for their mean."""
    by_kind: dict[str, list[NDArray[np.float64]]] = {}
    for (kind, _), task in tasks.items():
        result = scored(kind, task, embed)
        draw = np.random.default_rng(len(by_kind))
        samples = [np.arange(result.count), *draw.integers(0, result.count, (RESAMPLES, result.count))]
        by_kind.setdefault(kind, []).append(np.array([result.score(sample) for sample in samples]))
    means = {kind: np.nanmean(values, axis=0) for kind, values in by_kind.items()}
    means["average"] = np.mean(list(means.values()), axis=0)
    sys.stderr.write(f"{method}: " + ", ".join(f"{kind} {values[0]:.1f}" for kind, values in means.items()) + "\n")
    rows: list[dict[str, object]] = []
    for kind, values in means.items():
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        scores = {"score": float(values[0]), "low": float(low), "high": float(high)}
        rows.append({"method": method, "kind": kind, **scores})
    return rows


def tables(rows: Sequence[dict[str, object]]) -> str:
    """A table for each model and half, in Markdown."""
    out: list[str] = []
    for model, half in dict.fromkeys((row["model"], row["half"]) for row in rows):
        own = [row for row in rows if (row["model"], row["half"]) == (model, half)]
        kinds = [*KINDS, "average"]
        title = "judging" if half == "judge" else "choosing"
        out += [f"**{Path(str(model)).stem}**, {title} half", "", f"| method | cost | {' | '.join(kinds)} |"]
        out.append(f"| --- | ---: |{' ---: |' * len(kinds)}")
        for method in dict.fromkeys(row["method"] for row in own):
            cells = {row["kind"]: row for row in own if row["method"] == method}
            shown = [
                f"{cells[kind]['score']:.1f} ({cells[kind]['low']:.0f}-{cells[kind]['high']:.0f})" for kind in kinds
            ]
            spent = next(iter(cells.values()))["cost"]
            out.append(f"| {method} | {'' if spent is None else f'{spent:.2f}'} | {' | '.join(shown)} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    """Measure, or write what was measured into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", choices=["choose", "judge"], default="judge")
    parser.add_argument("--store", type=Path, default=default_folder())
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--sentences", type=int, default=len(sentences()), help="how many calibrations are fitted on")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.is_file() else []
    for model in options.model:
        rows = [row for row in rows if (row["model"], row["half"]) != (model, options.half)]
        rows += measure(
            model, options.data, LayerStore(options.store), options.half, options.sentences, stored=options.stored
        )
        options.out.write_text(json.dumps(rows, indent=1))
    if options.page:
        begin, end = "<!-- tables: written by benchmarks/beyond.py -->\n", "<!-- end of tables -->\n"
        before, _, rest = options.page.read_text().partition(begin)
        options.page.write_text(before + begin + tables(rows) + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
