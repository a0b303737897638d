"""Measure bundled models: ``python models/tiny/report.py FOLDER … --corpus CORPUS --data DATA``.

Validation loss, accuracy of copying, and the zero-shot scores of the systems that the paper's Table 1 compares, with a
bootstrap interval of echo minus classical on STS. The result is printed, kept as JSON, and, with ``--card``, put into
the model card between its two marks.

Shapes: T tokens of a sequence, V tokens of the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from train import validate
from transformers import AutoModelForCausalLM

import echoembed
from corpus import BOS, EOS, Sequences, tokenise
from echoembed.evaluation.local import local_tasks
from echoembed.experiments import interval
from echoembed.experiments.experiment import Bench, Plan, Setting, renamed
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row
from echoembed.model.transformer import transformer_of

SYSTEMS = {
    "echo": echoembed.recipes["echo"],
    "echo, compute-matched": echoembed.recipes["echo-compute-matched"],
    "classical, mean": echoembed.recipes["classical"],
    "classical, last": renamed("classical", "classical-last", pooling="last"),
    "classical, bidirectional": echoembed.recipes["classical-bidirectional"],
    "PromptEOL": echoembed.recipes["prompteol"],
}
OTHERS = ("trec", "banking77", "stackoverflow_titles", "twentynewsgroups_subjects", "scifact", "xquad_en")
PAPER = {
    "echo": "Echo (Ours)",
    "echo, compute-matched": "Echo (compute matched)",
    "classical, mean": "Classical",
    "PromptEOL": "PromptEOL",
}
"""Our systems → theirs in Table 1 (Mistral-7B, other data)."""
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
console = Console(width=160)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        help="folders; the first is scored (with --score-all each), of all the loss is measured",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with valid.jsonl.xz")
    parser.add_argument("--data", type=Path, help="folder of local tasks; without it no scores")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON, pictures and caches")
    parser.add_argument("--card", type=Path, help="model card that gets the tables")
    parser.add_argument("--pairs", type=int, help="most pairs of an STS set; all unless given")
    parser.add_argument("--texts", type=int, default=1000, help="most texts of the other tasks")
    parser.add_argument("--score-all", action="store_true", help="score every model, not only the first")
    parser.add_argument("--int8", action="store_true", help="measure the first model with weights in eight bits, too")
    parser.add_argument("--only-sts", action="store_true", help="leave out the other tasks")
    return parser.parse_args()


def losses(folder: Path, name: str, corpus: Path, work: Path) -> dict[str, float]:
    """Validation loss in nats a token, perplexity, nats a byte, and accuracy of copying."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenise([corpus / "valid.jsonl.xz"], tokenizer, work / f"{name}-valid.bin")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loss = validate(model, ids, 512, "cpu")
    return {
        "validation loss": loss,
        "perplexity": math.exp(loss),
        "copying, random spans": copying(model.eval(), ids, tokenizer),
        "copying, echo prompt": echo_copying(folder, ids, tokenizer),
    }


@torch.no_grad()
def copying(model: torch.nn.Module, ids: np.ndarray, tokenizer: Tokenizer, spans: int = 200) -> float:
    """How often the likeliest next token within the second occurrence of a span is the right one."""
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    draw = np.random.default_rng(7)
    source = Sequences(ids=ids, bos=bos, eos=eos, repeated=1.0, seed=7)
    right, total = 0, 0
    for _ in range(spans):
        span = source._piece(draw, int(np.exp(draw.uniform(np.log(8), np.log(151)))))
        before, between = (source._piece(draw, int(draw.integers(1, 9))) for _ in range(2))
        sequence_T = torch.from_numpy(np.concatenate([[bos], before, span, between, span]))
        logits_TV = model(input_ids=sequence_T[None], use_cache=False).logits[0]
        guessed = logits_TV[-len(span) : -1].argmax(-1)
        right += int((guessed == sequence_T[-len(span) + 1 :]).sum())
        total += len(span) - 1
    return right / total


@torch.no_grad()
def echo_copying(folder: Path, ids: np.ndarray, tokenizer: Tokenizer, texts: int = 200) -> float:
    """The same for the second reading of echo's prompt."""
    embedder = transformer_of(echoembed.load(str(folder), recipe="echo"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    draw = np.random.default_rng(8)
    right, total = 0, 0
    while total < texts * 20:
        at = int(draw.integers(0, len(ids) - 40))
        text = tokenizer.decode(ids[at : at + int(draw.integers(10, 40))].tolist()).strip()
        if not text:
            continue
        (one,) = embedder.reader.render([text])
        sequence_T = torch.tensor(one.ids)
        logits_TV = model(input_ids=sequence_T[None], use_cache=False).logits[0]
        places = list(range(one.span[0] + 1, one.span[1]))
        right += int((logits_TV[[place - 1 for place in places]].argmax(-1) == sequence_T[places]).sum())
        total += len(places)
    return right / total


def scores(folder: Path, called: str, options: argparse.Namespace, *, whole: bool) -> dict[str, Any]:
    """Zero-shot scores by system and task, and echo minus classical on STS; or those two on STS alone."""
    name = str(folder)
    setting = Setting(out=options.out / called, data=options.data, models=(name,), quick=options.pairs is not None)
    setting.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(setting, say=lambda line: console.print(f"  {line}", style="dim", highlight=False))
    tasks = local_tasks(options.data, ["sts"], max_texts=options.pairs and 2 * options.pairs)
    if whole and not options.only_sts:
        tasks += local_tasks(options.data, OTHERS, max_texts=options.texts)
    found: dict[str, list[Row]] = {}
    for system, recipe in SYSTEMS.items():
        if not whole and system not in ("echo", "classical, mean"):
            continue
        found[system] = bench.scores([recipe], tasks)
        console.print(f"{called}: {system} {100 * _sts(found[system]):.2f} on STS")
    plan = Plan(recipes=[SYSTEMS["echo"], SYSTEMS["classical, mean"]], tasks=tasks)
    return {"scores": found, "interval": interval.run(bench, plan)}


def in_int8(folder: Path, target: Path) -> Path:
    """A copy of a model whose matrices were rounded to eight bits, with a scale for each row."""
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapters"))
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2:
            wide = weight.float()
            scale = (wide.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12)
            weights[name] = (wide / scale).round().clamp(-127, 127) * scale
        else:
            weights[name] = weight.float()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _sts(rows: list[Row]) -> float:
    return fmean(row["score"] for row in rows if row["kind"] == "STS")


def tables(measured: dict[str, dict[str, Any]]) -> str:
    """All that was measured, as Markdown."""
    systems = {"echo": "echo, STS", "classical, mean": "classical, STS"}
    names = [*next(iter(measured.values()))["losses"], *systems.values()]
    out = [f"| model | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for name, found in measured.items():
        cells = [
            f"{100 * value:.1f} %" if "copying" in key else f"{value:.3f}" for key, value in found["losses"].items()
        ]
        own = found.get("scores", {})
        cells += [f"{100 * _sts(own[system]):.1f}" if system in own else "" for system in systems]
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, found in measured.items():
        if len(found.get("scores", {})) > len(systems):
            out += ["", *_score_table(name, found)]
    return "\n".join(out) + "\n"


def _score_table(name: str, found: dict[str, Any]) -> list[str]:
    rows = next(iter(found["scores"].values()))
    names = [row["task"] for row in rows]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    ends = ["STS", "average of kinds", "paper, STS", "paper, average"]
    out = [f"**{name}**, zero-shot, scores × 100:", "", f"| system | {' | '.join([*names, *ends])} |"]
    out.append("| --- |" + " ---: |" * (len(names) + len(ends)))
    for system, rows in found["scores"].items():
        by_kind = {kind: fmean(row["score"] for row in rows if row["kind"] == kind) for kind in kinds}
        cells = [100 * row["score"] for row in rows] + [100 * by_kind["STS"], 100 * fmean(by_kind.values())]
        paper = paper_table("table1").find(system=PAPER.get(system))
        theirs = [f"{paper[key]:.1f}" if paper else "" for key in ("sts", "average")]
        out.append(f"| {system} | " + " | ".join([*(f"{value:.1f}" for value in cells), *theirs]) + " |")
    return [*out, "", interval.interval_line(found["interval"])]


def _name(folder: Path) -> str:
    """What a model is called: its folder's name, or that of its run."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def main() -> None:
    """Measure, print, keep."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    measured: dict[str, dict[str, Any]] = {}
    folders: dict[str, Path] = {}
    for folder in options.models:  # two models of one name go by their folders
        folders[_name(folder) if _name(folder) not in folders else str(folder).strip("/").replace("/", "-")] = folder
    first = next(iter(folders))
    if options.int8:
        eight = f"{first}, int8"
        folders[eight] = in_int8(folders[first], options.out / eight.replace(", ", "-"))
    for name, folder in folders.items():
        found: dict[str, Any] = {"losses": losses(folder, name, options.corpus, options.out)}
        if options.data and (name == first or options.score_all or name.endswith("int8")):
            found |= scores(folder, name, options, whole=name == first)
        measured[name] = found
    text = tables(measured)
    console.print(text, markup=False, highlight=False)
    (options.out / "report.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    (options.out / "report.md").write_text(text, encoding="utf-8")
    if options.card:
        card = options.card.read_text(encoding="utf-8")
        before, rest = card.split(MARKS[0])
        _, after = rest.split(MARKS[1])
        options.card.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
