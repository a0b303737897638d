"""Time a step of fine-tuning with the model's own padded forward and with the packed one.

    python benchmarks/training_speed.py --data DATA --model smollm2-135m --turns 5

The ways take turns on the same batches, on one thread and in random order. The result is tokens a second of processor
time for a forward and a backward pass, without padding tokens; and how far the gradients are from those of the padded
forward in float32, for the worst of all LoRA matrices. With ``--exact``, they are also compared with the padded forward
in float64, which shows how much of the difference is float32's own rounding. ``--report PAGE`` writes the table into a
page.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console

import echoembed
from echoembed.engine import gradients
from echoembed.engine.gradients import TrainingEngine
from echoembed.model.transformer import transformer_of
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig
from echoembed.training.heap import keep_freed_memory
from echoembed.training.loss import contrastive_loss

WAYS = {
    "padded, float32": (None, torch.float32),
    "padded, bfloat16 (autocast)": (None, torch.bfloat16),
    "packed, float32": ("packed", torch.float32),
    "packed, bfloat16": ("packed", torch.bfloat16),
}
SETS = ("snli_devtest", "squad_question_sentence", "medquad")
MARKS = ("<!-- speed: begin -->", "<!-- speed: end -->")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--recipe", default="echo")
    parser.add_argument("--rows", type=int, default=16, help="pairs of a batch")
    parser.add_argument("--budget", type=int, default=32, help="tokens of text, for each reading")
    parser.add_argument("--turns", type=int, default=5, help="batches; each way takes each")
    parser.add_argument("--exact", action="store_true", help="compare with float64 too; takes twice as long")
    parser.add_argument("--report", type=Path, help="write the table into this page")
    return parser.parse_args()


def batches(options: argparse.Namespace) -> list[list[list[str]]]:
    """Return for each turn queries and positives of one data set."""
    found = []
    for turn in range(options.turns):
        path = options.data / "train" / SETS[turn % len(SETS)] / "train.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(2000), strict=False)]
        drawn = random.Random(turn).sample(rows, options.rows)
        found.append([[row["query"] for row in drawn], [row["positive"] for row in drawn]])
    return found


def step(
    model: Any,
    features: list[dict[str, Any]],
    way: str,
    engines: dict[str, TrainingEngine],
    *,
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Run a forward and a backward pass; return processor seconds and the gradient of each matrix."""
    packed, dtype = WAYS[way]
    gradients.use(transformer_of(model).model, engines[way] if packed else None)
    loss = contrastive_loss(
        model,
        temperature=0.05,
        chunk_size=chunk_size or len(features[0]["input_ids"]),
        gradient_cache=chunk_size is not None,
    )
    model.zero_grad()
    begun = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=not packed and dtype == torch.bfloat16):
        value = loss([dict(column) for column in features], None)
    value.backward()
    seconds = time.process_time() - begun
    return {
        "seconds": seconds,
        "gradients": {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None},
    }


def exact_gradients(model: Any, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The gradients of the padded forward in float64, norms included, which the model's own code rounds to float32."""
    doubled = copy.deepcopy(model).double()
    for module in doubled.modules():
        if hasattr(module, "variance_epsilon"):  # Llama's norm and its like
            module.forward = lambda states, own=module: (
                own.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + own.variance_epsilon)
            )
    return step(doubled, features, "padded, float32", {}, chunk_size=4)["gradients"]  # few at a time: 8 bytes a number


def largest_distance(gradients_of: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Of all matrices, the largest norm of the difference as a share of the wanted gradient's."""
    return max(float((gradients_of[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def main() -> None:
    """Take turns, and print the table."""
    options = arguments()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a run
    model = echoembed.load(
        options.model, recipe=options.recipe, budget=options.budget, engine="padded", device="cpu", overflow="ignore"
    )
    add_adapter(model, AdapterConfig())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # 0 at the beginning: half of the gradient would be too
                weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(len(name)))
    transformer = transformer_of(model)
    causal = transformer.recipe.attention == "causal"
    engines = {
        way: TrainingEngine.of(transformer.model, causal=causal, dtype=dtype)
        for way, (packed, dtype) in WAYS.items()
        if packed
    }
    model.train()
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    cosines: dict[str, list[float]] = {way: [] for way in WAYS}
    distances: dict[str, list[float]] = {way: [] for way in WAYS}
    to_exact: dict[str, list[float]] = {way: [] for way in WAYS}
    drawn = batches(options)
    step(model, [model.preprocess(texts, task="query") for texts in drawn[0]], "padded, float32", {})  # takes memory
    for turn, columns in enumerate(drawn):
        features = [model.preprocess(texts, task="query") for texts in columns]
        tokens = int(sum(column["attention_mask"].sum() for column in features))
        order = random.Random(turn).sample(list(WAYS), len(WAYS))
        done = {way: step(model, features, way, engines) for way in order}
        wanted = done["padded, float32"]["gradients"]
        exact = exact_gradients(model, features) if options.exact else {}
        for way, result in done.items():
            speeds[way].append(tokens / result["seconds"])
            pairs = [(result["gradients"][name].flatten(), wanted[name].flatten()) for name in wanted]
            cosines[way].append(min(float(torch.cosine_similarity(one, other, 0)) for one, other in pairs))
            distances[way].append(largest_distance(result["gradients"], wanted))
            if exact:
                to_exact[way].append(largest_distance(result["gradients"], exact))
    head = "| | tokens/s | × padded, the same dtype | gradients: least cosine | largest distance |"
    lines = [head + (" to float64 |" if options.exact else "")]
    lines.append("| --- | ---: | ---: | ---: | ---: |" + (" ---: |" if options.exact else ""))
    for way, (_, dtype) in WAYS.items():
        base = next(name for name, (packed, other) in WAYS.items() if not packed and other == dtype)
        ratio = statistics.median(one / other for one, other in zip(speeds[way], speeds[base], strict=True))
        lines.append(
            f"| {way} | {statistics.median(speeds[way]):,.0f} | {ratio:.1f} | {min(cosines[way]):.5f} | "
            f"{max(distances[way]):.1e} |" + (f" {max(to_exact[way]):.1e} |" if options.exact else "")
        )
    table = "\n".join(lines)
    Console().print(table, markup=False)
    if options.report:
        page = options.report.read_text(encoding="utf-8")
        start, end = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        options.report.write_text(f"{start}{MARKS[0]}\n{table}\n{MARKS[1]}{end}", encoding="utf-8")


if __name__ == "__main__":
    main()
