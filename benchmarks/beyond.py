"""Beyond the paper: prompts, depths, calibrations and concatenations on six kinds of tasks.

    python benchmarks/beyond.py --data DATA --model smollm2-135m --model gemma.gguf --out beyond.json
    python benchmarks/beyond.py --out beyond.json --page docs/beyond.md          # the tables of the page, from the file

Every prompt is read once, for all layers, and kept (``--store``): a run that is stopped goes on where it was. Scores
are those of the half that no choice was made by (``--half choose`` for the other); calibrations are fitted on sentences
that come with the package. ``--stored`` leaves out what has not been read yet. Texts are cut to ``--budget`` tokens.
Costs are tokens times layers, the paper's echo 1; token prepending, KV-Embedding and ReBA take two to three times as
long for each, as they need the padded forward.

Shapes: N texts, D width of the vectors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beyond_methods import CALIBRATIONS, MEAN_OF_PROMPTS, Vectors, compressed_layers, methods
from beyond_tasks import KINDS, Embed, Task, halves, scored, texts_of
from echoembed import Recipe, recipes
from echoembed.evaluation.layers import LayerStore, default_folder
from echoembed.evaluation.peers import encoders, whitened
from echoembed.model.calibrate import sentences
from echoembed.tune import cost

RESAMPLES = 100


def measure(
    name: str, data: Path, store: LayerStore, half: str, options: argparse.Namespace
) -> Iterator[dict[str, object]]:
    """Yield a row for each method and kind of task: score × 100, interval, cost."""
    vectors = Vectors(name, store, options.sentences)
    tasks = halves(data)[half == "judge"]
    texts = [text for (kind, _), task in tasks.items() for text in texts_of(kind, task)]
    costs = _costs(vectors)
    wanted = not options.only or any("KV" in word for word in options.only)
    keys = compressed_layers(vectors, options.budget) if wanted else "none"
    for method, parts in methods(options.budget, keys).items():
        if options.only and not any(word in method for word in options.only):
            continue
        fitted = any(part.calibration[:4] not in ("none", "spec") for part in parts)
        needed = [*texts, *(vectors.sentences if fitted else ())]
        absent = sum(vectors.missing(part, needed) for part in parts)
        if options.stored and absent:
            sys.stderr.write(f"{method}: {absent} texts are not stored\n")
            continue
        deepest: dict[Recipe, int] = {}  # parts with the same prompt come from one forward
        for part in parts:
            deepest[part.prompt] = max(deepest.get(part.prompt, 0), part.layer(vectors.layers))
        spent = sum(costs.of(vectors.model, prompt, layer) for prompt, layer in deepest.items())
        shown = f"{method} ({keys})" if method.startswith("KV") else method
        yield from (
            {"model": Path(name).stem, "half": half, **row, "cost": spent}
            for row in _judged(shown, vectors.embed(parts, mean=method.startswith(MEAN_OF_PROMPTS)), tasks)
        )
    systems = encoders(options.encoder)[0]
    if options.peers:
        systems += whitened(vectors.model, vectors.sentences)[0]
    for system in systems:
        if not options.only or any(word in system.name for word in options.only):
            yield from (
                {"model": Path(name).stem, "half": half, **row, "cost": None}
                for row in _judged(system.name, system.encode, tasks)
            )


def _costs(vectors: Vectors) -> cost.Costs:
    """Return what a layer-token costs, in units of the paper's echo."""
    texts = sentences()[: cost.TEXTS]
    layer_tokens = cost.Costs(texts, 1.0, 1.0).of(vectors.model, recipes["echo"], vectors.layers)
    return cost.Costs(texts, 1.0, 1 / layer_tokens)


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
        # Centred on the score: draws repeat texts, which raises V-measure.
        low, high = values[0] + np.nanquantile(values[1:] - np.nanmean(values[1:]), [0.025, 0.975])
        scores = {"score": float(values[0]), "low": float(low), "high": float(high)}
        rows.append({"method": method, "kind": kind, **scores})
    return rows


def tables(rows: Sequence[dict[str, object]]) -> str:
    """Return two tables for each model and half, in Markdown: all methods, and what each calibration adds."""
    out: list[str] = []
    kinds = [*KINDS, "average"]
    for model, half in dict.fromkeys((row["model"], row["half"]) for row in rows):
        by_method: dict[str, dict[str, dict[str, object]]] = {}
        for row in rows:
            if (row["model"], row["half"]) == (model, half):
                by_method.setdefault(str(row["method"]), {})[str(row["kind"])] = row
        title = "judging" if half == "judge" else "choosing"
        out += [f"**{model}**, {title} half", "", f"| method | cost | {' | '.join(kinds)} |"]
        out.append(f"| --- | ---: |{' ---: |' * len(kinds)}")
        for method, cells in by_method.items():
            shown = [
                f"{cells[kind]['score']:.1f} ({cells[kind]['low']:.0f}-{cells[kind]['high']:.0f})" for kind in kinds
            ]
            spent = cells["average"]["cost"]
            out.append(f"| {method} | {'' if spent is None else f'{spent:.2f}'} | {' | '.join(shown)} |")
        out += ["", f"What a calibration adds, {model}:", "", f"| | {' | '.join(kinds)} |"]
        out.append(f"| --- |{' ---: |' * len(kinds)}")
        for depth, plain in (("depth 0.8", "echo, depth 0.8, none"), ("last layer", "`echo`")):
            for kind in CALIBRATIONS[1:]:
                method = f"echo, {depth}, {kind}"
                if method in by_method and plain in by_method:
                    scores = [[float(str(by_method[one][name]["score"])) for name in kinds] for one in (method, plain)]
                    gains = [
                        f"{calibrated - uncalibrated:+.1f}" for calibrated, uncalibrated in zip(*scores, strict=True)
                    ]
                    out.append(f"| {depth}, {kind} | {' | '.join(gains)} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    """Measure, or write what was measured into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; rows of other models and methods stay")
    parser.add_argument("--half", choices=["choose", "judge"], default="judge")
    parser.add_argument("--store", type=Path, default=default_folder())
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--sentences", type=int, default=len(sentences()), help="how many calibrations are fitted on")
    parser.add_argument("--budget", type=int, default=512, help="the most tokens of text in each copy")
    parser.add_argument("--only", action="append", default=[], help="methods whose names contain this")
    parser.add_argument("--encoder", action="append", default=[], help="a further sentence encoder: a folder or a name")
    parser.add_argument("--peers", action="store_true", help="local-llm-embed too, which takes long")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    rows = {_key(row): row for row in (json.loads(options.out.read_text()) if options.out.is_file() else [])}
    for model in options.model:
        for row in measure(model, options.data, LayerStore(options.store), options.half, options):
            rows[_key(row)] = row
            options.out.write_text(json.dumps([*rows.values()], indent=1))
    if options.page:
        begin, end = "<!-- tables: written by benchmarks/beyond.py -->\n", "<!-- end of tables -->\n"
        before, _, rest = options.page.read_text().partition(begin)
        options.page.write_text(before + begin + tables([*rows.values()]) + end + rest.partition(end)[2])


def _key(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("model", "half", "method", "kind"))


if __name__ == "__main__":
    main()
