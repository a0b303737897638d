"""Fine-tune the bundled model, or another, under each recipe at equal settings, and score it on STS.

    python benchmarks/finetuning.py --data DATA --out runs/finetuning
    python benchmarks/finetuning.py @benchmarks/finetuning-smollm2.args --data DATA --out runs/smollm2
    python benchmarks/finetuning.py --data DATA --out runs/finetuning --part 1/2   # in two terminals
    python benchmarks/finetuning.py --data DATA --out runs/finetuning --report docs/finetuning.md

Arms: echo, compute-matched echo, classical, and classical without its causal mask, each with mean and last pooling and
three seeds. Each is a run of ``echoembed train`` in its own folder. A finished run is kept, and a stopped run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console

import echoembed
from echoembed import plots
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.experiments.paper import paper_table
from echoembed.model.describe import fingerprint
from echoembed.training.config import (
    AdapterConfig,
    CheckpointConfig,
    DataConfig,
    OptimiserConfig,
    ScoreConfig,
    TrainConfig,
    recipe_of,
)
from echoembed.training.run import train

ECHO = "{bos}Rewrite the following paragraph: {text} The rewritten paragraph: "
CLASSICAL = "{bos}Write a paragraph: "
ARMS: dict[str, dict[str, Any]] = {
    "echo": {"recipe": "echo"},
    "echo, compute-matched": {"recipe": "echo"},
    "classical": {"recipe": "classical"},
    "classical, bidirectional": {"recipe": "classical-bidirectional"},
}
POOLINGS = ("mean", "last")
# Short texts first; those of abstracts and answers cost ten times as much and are far from what is scored.
SETS = {
    "snli_devtest": 1.0,
    "flickr8k_captions": 1.0,
    "twitter_url_train": 1.0,
    "asset_valid": 1.0,
    "quora_dev_duplicates": 1.0,
    "squad_question_sentence": 0.5,
    "climate_fever": 0.25,
    "wikiqa_train": 0.25,
}
"""Data set → share of the batches. ``stsb_train_positive`` is left out: STS is the test."""
READ = 512
"""Tokens of text that are read of what is scored: all of them, in every arm."""
MARKS = "<!-- measured on {}: begin -->", "<!-- measured on {}: end -->"
"""Where a page has the table and the picture of a model."""
PAPER = {
    ("echo", "last"): ("table14", "Echo + last token pooling"),
    ("echo", "mean"): ("table14", "Echo + mean pooling"),
    ("classical", "last"): ("table14", "Classical + last token pooling"),
    ("classical", "mean"): ("table14", "Classical + mean pooling"),
    ("echo, compute-matched", "last"): ("table5", "Echo (FT+IT compute matched)"),
    ("classical, bidirectional", "last"): ("table5", "Classical + bidirectional attn."),
}
"""Arm and pooling → where the paper has it."""
EARLY = "{} (w/ instruct., {}, step 280)"
"""Table 17's name for a run that is two fifths through."""
console = Console(width=140)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and sts/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--model", default="tiny", help="the bundled one unless given")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--budget", type=int, default=32, help="tokens of text, for each reading")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--curve", type=int, default=2, help="scores on the way, of the first seed; 0 for none")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of each set that are scored")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--poolings", nargs="+", choices=POOLINGS, default=list(POOLINGS))
    parser.add_argument("--part", default="1/1", help="I/N: the I-th of N shares of the runs")
    parser.add_argument("--finished", action="store_true", help="train nothing: take the runs that are finished")
    parser.add_argument("--report", type=Path, help="write the tables into this page, and the pictures beside it")
    parser.add_argument("--results", type=Path, help="write the JSON here")
    return parser.parse_args()


def config_of(arm: str, pooling: str, seed: int, options: argparse.Namespace) -> TrainConfig:
    """Return the configuration of one run; runs differ only in what their names say."""
    beginning = ECHO if arm.startswith("echo") else CLASSICAL
    data = tuple(
        DataConfig(
            name=name,
            path=str(options.data / "train" / name / "train.jsonl.gz"),
            ratio=ratio,
            symmetric=True,
            bad_rows="skip",
        )
        for name, ratio in SETS.items()
    )
    curve = max(1, options.steps // options.curve) if seed == 0 and options.curve else 0
    return TrainConfig(
        output=str(options.out / f"{arm.replace(', ', '-').replace(' ', '-')}-{pooling}-{seed}"),
        model=options.model,
        query_template=beginning + ("{text:pool}" if pooling == "mean" else "{text}{eos:pool}"),
        pooling=pooling,
        budget=options.budget,
        finished_budget=READ,
        seed=seed,
        data=data,
        adapter=AdapterConfig(),
        optimiser=OptimiserConfig(
            steps=options.steps,
            batch_size=options.batch,
            chunk_size=16,
            gradient_cache=False,
            learning_rate=options.learning_rate,
            precision=options.precision,
            warmup_steps=max(1, options.steps // 10),
            compute_matched=arm == "echo, compute-matched",
        ),
        checkpoint=CheckpointConfig(every=max(1, options.steps // 2)),
        score=ScoreConfig(data=str(options.data), tasks=("sts",), every=curve, sample=options.pairs)
        if curve
        else ScoreConfig(),
        **ARMS[arm],
    )


def sts(model: Any, options: argparse.Namespace) -> dict[str, float]:
    """Return the Spearman correlation for each set."""
    tasks = local_tasks(options.data, ["sts"], max_texts=2 * options.pairs)
    return {score.task: score.score for score in evaluate(model, tasks)}


def run(arm: str, pooling: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless the run is finished, and score."""
    config = config_of(arm, pooling, seed, options)
    folder = Path(config.output)
    kept = folder / "result.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if found.get("read") == READ:
        return found
    begun = time.process_time()
    finished = folder / "model" if found else train(config, resume=folder.is_dir(), console=console)
    spent = found.get("cpu_seconds", time.process_time() - begun)
    model = echoembed.load(adapter=str(finished), budget=READ)
    found = {
        "arm": arm,
        "pooling": pooling,
        "seed": seed,
        "sts": sts(model, options),
        "read": READ,
        "cpu_seconds": spent,
        "fingerprint": fingerprint(model),
        "settings": {key: str(getattr(options, key)) for key in ("steps", "batch", "budget", "learning_rate")},
    }
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def zero_shot(arm: str, pooling: str, options: argparse.Namespace) -> dict[str, float]:
    """Score the same recipe before training."""
    name = arm.removesuffix(", compute-matched")  # which differs in its training alone
    kept = options.out / f"zero-shot-{name}-{pooling}-{READ}.json"
    if not kept.is_file():
        recipe = recipe_of(config_of(arm, pooling, 0, options).effective())
        model = echoembed.load(options.model, recipe=replace(recipe, trained=False), budget=READ)
        kept.write_text(json.dumps(sts(model, options)), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def table(results: list[dict[str, Any]], before: dict[tuple[str, str], dict[str, float]]) -> str:
    """Return the table of means and spreads over the seeds, beside the paper's scores."""
    names = list(results[0]["sts"])
    lines = [
        f"| | pooling | zero-shot | {' | '.join(names)} | STS | seeds | processor time | paper | paper, step 280 |"
    ]
    lines.append("| --- | --- |" + " ---: |" * (len(names) + 6))
    for arm, pooling in before:
        own = [result for result in results if (result["arm"], result["pooling"]) == (arm, pooling)]
        if not own:
            continue
        means = [100 * fmean(result["sts"].values()) for result in own]
        spread = f" ± {stdev(means):.1f}" if len(means) > 1 else ""
        sets = " | ".join(f"{100 * fmean(result['sts'][name] for result in own):.1f}" for name in names)
        place, system = PAPER.get((arm, pooling), ("table5", ""))
        theirs = paper_table(place).find(system=system).get("sts", "")
        early = paper_table("table17").find(system=EARLY.format(arm.capitalize(), pooling)).get("sts", "")
        spent = fmean(result["cpu_seconds"] for result in own) / 60
        start = 100 * fmean(before[arm, pooling].values())
        cells = f"{fmean(means):.1f}{spread} | {len(own)} | {spent:.1f} min | {theirs} | {early}"
        lines.append(f"| {arm} | {pooling} | {start:.1f} | {sets} | {cells} |")
    return "\n".join(lines) + "\n"


def picture(results: list[dict[str, Any]], options: argparse.Namespace, target: Path) -> None:
    """Draw STS over the steps of the first seed, by arm and pooling."""
    drawn, axes = plots.figure("STS over the steps of fine-tuning", columns=len(options.poolings), width=9, sharey=True)
    for axis, pooling in zip(axes, options.poolings, strict=True):
        for arm in options.arms:
            path = Path(config_of(arm, pooling, 0, options).output) / "scores.jsonl"
            if not path.is_file():
                continue
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            steps = sorted({row["step"] for row in rows})
            means = [100 * fmean(row["score"] for row in rows if row["step"] == step) for step in steps]
            matched = "matched" in arm
            axis.plot(
                steps,
                means,
                marker="o",
                markersize=3,
                label=arm,
                color=plots.colour(arm),
                linestyle=":" if matched else "-",
            )
        axis.set(title=f"{pooling} pooling", xlabel="steps")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("Spearman correlation × 100")
    plots.save(drawn, target)


def main() -> None:
    """Do the requested share of the runs, then print the results."""
    options = arguments()
    options.data, options.out = options.data.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    runs = [(a, p, s) for s in range(options.seeds) for p in options.poolings for a in options.arms]
    index, of = map(int, options.part.split("/"))
    results, before = [], {}
    for place, (arm, pooling, seed) in enumerate(runs):
        done = (Path(config_of(arm, pooling, seed, options).output) / "model").is_dir()
        if place % of == index - 1 and (done or not options.finished):
            result = run(arm, pooling, seed, options)
            results.append(result)
            console.print(f"{arm}, {pooling}, seed {seed}: {100 * fmean(result['sts'].values()):.2f}")
            before[arm, pooling] = zero_shot(arm, pooling, options)
    text = table(results, before)
    console.print(text, markup=False, highlight=False)
    if options.results:
        machine = f"{platform.system()} {platform.machine()}, one thread, torch {torch.__version__}"
        rows = [{"arm": a, "pooling": p, "sts": scores} for (a, p), scores in before.items()]
        content = {"machine": machine, "runs": results, "zero-shot": rows}
        options.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.report:
        name = f"finetuning-{options.model}"
        drawn = ""
        if options.curve:
            picture(results, options, options.report.parent / "pictures" / name)
            drawn = f"\n![STS over the steps of fine-tuning](pictures/{name}.png)\n"
        first, last = (mark.format(options.model) for mark in MARKS)
        start, rest = options.report.read_text(encoding="utf-8").split(first)
        _, end = rest.split(last)
        options.report.write_text(f"{start}{first}\n{text}{drawn}{last}{end}", encoding="utf-8")


if __name__ == "__main__":
    main()
