"""Pretrain the bundled model: ``python models/tiny/train.py models/tiny/two-cores.toml --corpus CORPUS``.

A Llama of transformers' own, on a corpus of JSON lines, with Muon for its matrices and AdamW for the rest; in
bfloat16 and compiled on a GPU, in float32 on a CPU. It writes a checkpoint every few minutes and when it is stopped,
and resumes there when it is called again.

Shapes: B sequences of a step, T tokens of each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corpus import BOS, EOS, PAD, Sequences, tokenise, train_tokenizer

console = Console()


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file: [model], [data], [training]")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train-*.jsonl.xz and valid.jsonl.xz")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, log, finished model")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, with a checkpoint")
    parser.add_argument("--repeated", type=float, help="overrides the configuration's share of repeated spans")
    parser.add_argument("--steps", type=int, help="overrides the configuration's number of steps")
    parser.add_argument("--threads", type=int, help="threads of a CPU")
    return parser.parse_args()


def build(config: dict[str, Any], tokenizer: Tokenizer) -> LlamaForCausalLM:
    """The model to begin with: a new one, or that of a checkpoint."""
    if start := config["model"].get("start"):
        return LlamaForCausalLM.from_pretrained(Path(start), dtype=torch.float32)
    shape = {key: value for key, value in config["model"].items() if key not in ("start", "tokenizer", "vocabulary")}
    settings = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        **shape,
    )
    torch.manual_seed(config["training"]["seed"])
    return LlamaForCausalLM(settings)


def optimisers(model: LlamaForCausalLM, training: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=training["muon"], momentum=0.95, weight_decay=training["weight_decay"]),
        torch.optim.AdamW(others, lr=training["adamw"], betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, training: dict[str, Any]) -> float:
    """Share of the largest learning rate: up over the warm-up, level, then in a straight line to nearly 0."""
    steps = training["steps"]
    decay = max(1, round(training["decay"] * steps))
    return min(1.0, (step + 1) / training["warmup"], max(0.02, (steps - step) / decay))


def loss_of(model: torch.nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the next token, in nats."""
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    return cross_entropy(logits_BTV.flatten(0, 1).float(), ids_BT[:, 1:].flatten())


@torch.no_grad()
def validate(model: torch.nn.Module, ids: Any, length: int, device: str, most: int = 120_000) -> float:
    """Loss on the first tokens of the validation documents."""
    model.eval()
    count = min(len(ids) - 1, most) // length
    losses = []
    for row in range(0, count, 8):
        rows = [ids[at * length : (at + 1) * length + 1].astype("int64") for at in range(row, min(row + 8, count))]
        losses += [float(loss_of(model, torch.stack([torch.from_numpy(one) for one in rows]).to(device)))] * len(rows)
    model.train()
    return sum(losses) / len(losses)


def write(target: Path, content: dict[str, Any]) -> None:
    """A checkpoint, whole or not at all."""
    unfinished = target.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(target)


def main() -> None:
    """Train, from the beginning or from a checkpoint."""
    options = arguments()
    config = tomllib.loads(options.config.read_text(encoding="utf-8"))
    training = config["training"]
    if options.repeated is not None:
        config["data"]["repeated"] = options.repeated
    if options.steps is not None:
        training["steps"] = options.steps
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.run.mkdir(parents=True, exist_ok=True)
    work = options.run.parent

    shards = sorted(options.corpus.glob("train-*.jsonl.xz"))
    kept = work / f"tokenizer-{config['model'].get('vocabulary', 'given')}.json"
    if not kept.is_file():
        given = config["model"].get("tokenizer")
        made = Tokenizer.from_file(given) if given else train_tokenizer(shards, config["model"]["vocabulary"])
        made.save(str(kept))
    tokenizer = Tokenizer.from_file(str(kept))
    corpus_ids = tokenise(shards, tokenizer, work / f"{kept.stem}-train.bin")
    valid_ids = tokenise([options.corpus / "valid.jsonl.xz"], tokenizer, work / f"{kept.stem}-valid.bin")
    sequences = Sequences(
        ids=corpus_ids,
        bos=tokenizer.token_to_id(BOS),
        eos=tokenizer.token_to_id(EOS),
        repeated=config["data"]["repeated"],
        seed=training["seed"],
    )

    model = build(config, tokenizer).to(device)
    opts = optimisers(model, training)
    parameters = sum(weight.numel() for weight in model.parameters())
    console.print(
        f"{parameters / 1e6:.1f} M parameters, {len(corpus_ids) / 1e6:.1f} M tokens, "
        f"{training['steps']} steps of {training['batch']} by {training['length']} on {device}"
    )
    checkpoint = options.run / "checkpoint.pt"
    step, seconds = 0, 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["config"] != json.dumps(config, sort_keys=True):
            raise SystemExit(f"{checkpoint} was made under another configuration; choose another --run.")
        model.load_state_dict(saved["model"])
        for opt, state in zip(opts, saved["optimisers"], strict=True):
            opt.load_state_dict(state)
        step, seconds = saved["step"], saved["seconds"]
        console.print(f"Going on from step {step}.")

    forward = torch.compile(model) if training.get("compile") else model
    stopped: list[int] = []
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda number, _: stopped.append(number))

    def keep() -> None:
        states = [opt.state_dict() for opt in opts]
        content = {"model": model.state_dict(), "optimisers": states, "step": step, "seconds": seconds}
        write(checkpoint, {**content, "config": json.dumps(config, sort_keys=True)})

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    begun = kept_at = time.perf_counter()
    with Progress(*columns, console=console) as progress, (options.run / "log.jsonl").open("a") as log:
        bar = progress.add_task("training", total=training["steps"], completed=step)
        while step < training["steps"] and not stopped and time.perf_counter() - begun < options.minutes * 60:
            start = time.perf_counter()
            share = rate(step, training)
            late = step >= (1 - training.get("long_share", 0.0)) * training["steps"]
            longer = training.get("long_factor", 1) if late else 1
            rows, length = training["batch"] // longer, training["length"] * longer
            ids_BT = torch.from_numpy(sequences.batch(step, rows, length)).to(device)
            micro = training.get("micro", rows * length) // length
            total = 0.0
            for part_BT in ids_BT.split(max(1, micro)):
                with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                    loss = loss_of(forward, part_BT) * len(part_BT) / rows
                loss.backward()
                total += loss.item()
            if not math.isfinite(total):
                raise SystemExit(f"The loss of step {step} is {total}; {checkpoint} holds the last good one.")
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt, peak in zip(opts, (training["muon"], training["adamw"]), strict=True):
                for group in opt.param_groups:
                    group["lr"] = peak * share
                opt.step()
                opt.zero_grad(set_to_none=True)
            step += 1
            took = time.perf_counter() - start
            seconds += took
            line = {"step": step, "loss": total, "norm": float(norm), "rate": share, "seconds": seconds}
            line["tokens"] = step * training["batch"] * training["length"]
            if step % training["validate_every"] == 0 or step == training["steps"]:
                line["valid"] = validate(model, valid_ids, training["length"], device)
                progress.console.print(f"step {step}: loss {total:.3f}, validation {line['valid']:.3f}")
            log.write(json.dumps(line) + "\n")
            log.flush()
            speed = rows * length / took
            progress.update(bar, completed=step, description=f"loss {total:.3f}, {speed:,.0f} tokens/s")
            if time.perf_counter() - kept_at > 120:
                keep()
                kept_at = time.perf_counter()
        keep()
    if step >= training["steps"]:
        finish(model, kept, options.run / "model")
    else:
        console.print(f"Stopped at step {step} of {training['steps']}; call again to resume.")


def finish(model: LlamaForCausalLM, tokenizer: Path, folder: Path) -> None:
    """The finished model in bfloat16, as plain transformers loads it."""
    model.config.use_cache = True
    model.config.dtype = "bfloat16"
    model.to(torch.bfloat16).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), bos_token=BOS, eos_token=EOS, pad_token=PAD).save_pretrained(
        folder
    )
    console.print(f"Finished: {folder}")


if __name__ == "__main__":
    main()
