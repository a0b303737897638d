r"""Put the best adapter of a run into the package: chosen on development data, in half precision, with a card.

    python models/smollm2/ship.py runs/smollm2-echo --data DATA --corpus CORPUS \
        --out src/echoembed/tiny/adapters/smollm2-echo

1. Each ``models/step-N`` of the run, the newest few, is scored on development data that is in no training set.
2. The best is written in float16, which halves it; what that rounds off is below what a score shows. With
   ``--mean-with``, its weights are averaged with those of the adapter that the run began with: both are adapters of the
   same base, close to each other, and each is off by its own noise.
3. The base's perplexity with and without it is measured on text that neither has seen, and its logits without it are
   compared with those of a model that never had it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import echoembed
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.sources.adapters import read
from echoembed.sources.resolve import resolve, resolve_adapter

WEIGHTS = "adapter_model.safetensors"
MOST_BYTES = 12_000_000
LICENCES = Path(__file__).with_name("licences.md")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="folder of evaluation data; left out, the newest is taken unscored")
    parser.add_argument("--corpus", type=Path, help="folder with valid.jsonl.xz, for the perplexity")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mean-with", type=Path, help="an adapter, whose weights are averaged with those of the best")
    parser.add_argument("--tasks", nargs="+", default=["stsb"], help="development data that the choice is made on")
    parser.add_argument("--last", type=int, default=3, help="how many of the newest steps are compared")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--documents", type=int, default=20, help="for the perplexity, each cut at 256 tokens")
    return parser.parse_args()


def choose(options: argparse.Namespace) -> tuple[Path, dict[str, float]]:
    """The folder of the step that scores best, and the mean of each step."""
    steps = sorted((options.run / "models").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    if options.data is None:
        return steps[-1], {}
    tasks = local_tasks(options.data, options.tasks, max_texts=2 * options.pairs)
    scores = {
        path.name: fmean(score.score for score in evaluate(echoembed.load(adapter=str(path), dtype="auto"), tasks))
        for path in steps[-options.last :]
    }
    best = max(scores, key=scores.__getitem__)
    return options.run / "models" / best, scores


def write(chosen: Path, target: Path, other: Path | None = None) -> int:
    """The adapter in float16, or its mean with another one, and how many bytes its weights take."""
    target.mkdir(parents=True, exist_ok=True)
    for path in chosen.iterdir():
        if path.name != WEIGHTS:
            shutil.copyfile(path, target / path.name)
    adapters = [load_file(folder / WEIGHTS) for folder in (chosen, other) if folder is not None]
    weights = {name: sum(one[name].float() for one in adapters) / len(adapters) for name in adapters[0]}
    save_file({name: weight.to(torch.float16).contiguous() for name, weight in weights.items()}, target / WEIGHTS)
    (target / WEIGHTS).chmod(0o644)
    size = (target / WEIGHTS).stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{size:,} bytes are more than {MOST_BYTES:,}: lower the rank")
    return size


def texts_of(corpus: Path, count: int) -> list[str]:
    """Documents that are in no training data."""
    with lzma.open(corpus / "valid.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


@torch.no_grad()
def perplexity(model: Any, batches: list[torch.Tensor]) -> float:
    """Of the next token."""
    total, count = 0.0, 0
    for ids in batches:
        total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return math.exp(total / count)


def as_language_model(adapter: Path, texts: list[str]) -> dict[str, float]:
    """The base's perplexity without and with an adapter, and how far its logits are moved by one that is off."""
    base = read(resolve_adapter(str(adapter))).base
    folder = resolve(base.name).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batches = [tokenizer(text, return_tensors="pt").input_ids[:, :256] for text in texts]
    with torch.no_grad():
        before = model(input_ids=batches[0]).logits
    found = {"without": perplexity(model, batches)}
    model.model.load_adapter(str(adapter))
    found["with"] = perplexity(model, batches)
    model.model.disable_adapters()
    with torch.no_grad():
        found["moved when off"] = float((model(input_ids=batches[0]).logits - before).abs().max())
    return found


def main() -> None:
    """Choose, write, measure, and add it all to the card."""
    options = arguments()
    torch.set_num_threads(1)
    chosen, scores = choose(options)
    size = write(chosen, options.out, options.mean_with)
    lines = ["", "## What it is", ""]
    step = f"step {chosen.name.removeprefix('step-')} of the run"
    what = f"The mean of {step} and the adapter that it began with" if options.mean_with else f"The weights of {step}"
    lines.append(f"{what}, {size / 1e6:.1f} MB in float16.")
    if scores:
        listed = ", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())
        lines.append(f"It was chosen on {', '.join(options.tasks)} (development split, × 100): {listed}.")
    if options.corpus is not None:
        measured = as_language_model(options.out, texts_of(options.corpus, options.documents))
        lines += [
            "",
            f"As a language model, the base has a perplexity of {measured['without']:.1f} without the adapter "
            f"and {measured['with']:.1f} with it, on {options.documents} documents that are in no training data.",
            "",
            f"With the adapter switched off, the logits differ by {measured['moved when off']:g} from those of the "
            "base.",
        ]
    card = options.out / "README.md"
    text = card.read_text(encoding="utf-8").rstrip("\n")
    licences = LICENCES.read_text(encoding="utf-8") if LICENCES.is_file() else ""
    card.write_text(f"{text}\n" + "\n".join(lines) + f"\n\n{licences}", encoding="utf-8")
    Console().print_json(json.dumps({"chosen": chosen.name, "bytes": size, "scores": scores}))


if __name__ == "__main__":
    main()
