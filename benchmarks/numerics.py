"""Compare each dtype with float32: vectors, scores and processor time.

    python benchmarks/numerics.py smollm2-135m path/to/gemma.gguf
    python benchmarks/numerics.py smollm2-135m --recipe prompteol-bag    another recipe than echo
    python benchmarks/numerics.py smollm2-135m --long 1000 4000     documents of so many tokens instead
    python benchmarks/numerics.py smollm2-135m --sts stsb sts13     400 pairs of each of these sets instead, scored

bfloat16's share of the time depends on the processor: run this file where you have AMX. Texts are the 336 pairs of
examples/data, read under echo unless a recipe is named. For each dtype, the file prints the least and the mean cosine
to the float32 vectors; the least cosine between a text alone and the same text in a batch; the STS score; and the
processor time of one thread as a share of float32's (systems take turns: the median, the least and the greatest). For
long documents, it prints seconds, their share of float32's, and the cosine to float32; for STS sets (folders of
``texts.DATA``/sts), scores and cosines.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.stats import spearmanr

import echoembed
import texts as data

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    """Measure the named models, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["smollm2-135m"])
    parser.add_argument("--recipe", default="echo")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--texts", type=int, default=64, help="sentences timed in a turn")
    parser.add_argument("--sts", nargs="*", default=[], help="sets of graded pairs")
    parser.add_argument("--pairs", type=int, default=400, help="pairs of each set")
    parser.add_argument("--long", type=int, nargs="*", default=[], help="tokens of long documents")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.long:
        rows = {Path(name).name: long(name, arguments.long, turns=arguments.turns) for name in arguments.models}
        write(arguments.out / "numerics-long.json", rows)
        return
    if arguments.sts:
        graded = {task: pairs_of(task, arguments.pairs) for task in arguments.sts}
        write(arguments.out / "numerics-sts.json", {Path(name).name: scores(name, graded) for name in arguments.models})
        return
    lines = (ROOT / "examples/data/sts/everyday/test.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    results = {
        Path(name).name: measure(name, pairs, arguments.recipe, turns=arguments.turns, texts=arguments.texts)
        for name in arguments.models
    }
    file = "numerics.json" if arguments.recipe == "echo" else f"numerics-{arguments.recipe}.json"
    write(arguments.out / file, results)


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results, with the machine."""
    record = {"machine": machine(), "torch": torch.__version__, "models": results}
    path.write_text(json.dumps(record, indent=1) + "\n")


def pairs_of(task: str, count: int) -> list[dict[str, Any]]:
    """Draw graded pairs of an installed set at random."""
    rows = []
    for path in sorted((data.DATA / "sts" / task).glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    return random.Random(0).sample(rows, min(count, len(rows)))


def scores(name: str, graded: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by task and dtype, Spearman × 100 and cosines to float32, with one model at a time in memory."""
    exact: dict[str, np.ndarray] = {}
    rows: dict[str, dict[str, dict[str, float]]] = {task: {} for task in graded}
    for dtype in DTYPES:
        model = echoembed.load(name, device="cpu", dtype=dtype, overflow="ignore")
        for task, pairs in graded.items():
            vectors_ND = model.encode([pair[key] for key in ("sentence1", "sentence2") for pair in pairs])
            cosines_N = (vectors_ND * exact.setdefault(task, vectors_ND)).sum(axis=1)
            alike_N = (vectors_ND[: len(pairs)] * vectors_ND[len(pairs) :]).sum(axis=1)
            score = 100 * float(spearmanr(alike_N, [pair["score"] for pair in pairs]).statistic)
            rows[task][dtype] = {"STS": score, "least cosine": float(cosines_N.min()), "pairs": float(len(pairs))}
            print(name, task, dtype, rows[task][dtype], flush=True)
    return rows


def long(name: str, lengths: list[int], *, turns: int) -> list[dict[str, Any]]:
    """Time a document of each length under echo in each dtype, in turns."""
    models = {
        dtype: echoembed.load(name, device="cpu", dtype=dtype, budget=max(lengths), overflow="ignore")
        for dtype in DTYPES
    }
    lines = (ROOT / "examples/data/sts/everyday/test.jsonl").read_text(encoding="utf-8").splitlines()
    words = " ".join(json.loads(line)[key] for line in lines for key in ("sentence1", "sentence2"))
    tokens = models["float32"].tokenizer(words, add_special_tokens=False)["input_ids"]
    rows: list[dict[str, Any]] = []
    for length in lengths:
        text = models["float32"].tokenizer.decode(tokens[:length])
        for turn in range(turns):
            vectors, seconds = {}, {}
            for dtype, model in models.items():
                started = time.process_time()
                vectors[dtype] = model.encode(text)
                seconds[dtype] = time.process_time() - started
            row: dict[str, Any] = {"tokens": length, "turn": turn}
            for dtype in DTYPES:
                share, cosine = seconds[dtype] / seconds["float32"], float(vectors[dtype] @ vectors["float32"])
                row[dtype] = {"seconds": seconds[dtype], "share": share, "cosine": cosine}
            rows.append(row)
            print(name, row, flush=True)
    return rows


def measure(
    name: str, pairs: list[dict[str, str]], recipe: str, *, turns: int, texts: int
) -> dict[str, dict[str, float]]:
    """Return the measurements of a model under a recipe, by dtype."""
    models = {dtype: echoembed.load(name, recipe=recipe, device="cpu", dtype=dtype) for dtype in DTYPES}
    left, right = ([pair[key] for pair in pairs] for key in ("sentence1", "sentence2"))
    gold = [float(pair["score"]) for pair in pairs]
    exact_ND = models["float32"].encode([*left, *right])
    rows: dict[str, dict[str, float]] = {}
    for dtype, model in models.items():
        vectors_ND = model.encode([*left, *right])
        alone_ND = np.stack([model.encode(text) for text in left[:texts]])
        cosines_N = (vectors_ND * exact_ND).sum(axis=1)
        score = spearmanr((vectors_ND[: len(left)] * vectors_ND[len(left) :]).sum(axis=1), gold).statistic
        rows[dtype] = {
            "least cosine": float(cosines_N.min()),
            "mean cosine": float(cosines_N.mean()),
            "least cosine, alone": float((alone_ND * vectors_ND[:texts]).sum(axis=1).min()),
            "STS": 100 * float(score),
        }
    shares: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for _ in range(turns):
        seconds = {}
        for dtype, model in models.items():
            started = time.process_time()
            model.encode(left[:texts])
            seconds[dtype] = time.process_time() - started
        for dtype in DTYPES:
            shares[dtype].append(seconds[dtype] / seconds["float32"])
    print(f"{name} on {machine()}")
    for dtype, row in rows.items():
        low, high = min(shares[dtype]), max(shares[dtype])
        row |= {"time": statistics.median(shares[dtype]), "time, least": low, "time, greatest": high}
        print(f"  {dtype:9}", *(f"{key} {value:.5g};" for key, value in row.items()), flush=True)
    return rows


def machine() -> str:
    """Return the processor's name and its fast products."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    fast = [flag for flag in ("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags]
    return f"{name or platform.processor()} ({', '.join(fast) or 'none of VNNI, AMX'})"


if __name__ == "__main__":
    main()
