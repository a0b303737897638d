"""Measure a GPU in eight minutes: the kernel's test, then three models beside sentence-transformers.

    python benchmarks/gpu.py                 on a GPU: all steps, in bfloat16
    python benchmarks/gpu.py --tiny          on any machine: the same steps with tiny models, to see that they run

1. Attention of a whole pack in one kernel is compared with the padded forward. If pytest is installed, the kernel's
   own tests run too.
2. SmolLM2-135M, then models of the shapes of Qwen3-0.6B and Mistral-7B with random weights: tokens a second on
   sentences and on documents, with packs of several sizes; the share of the GPU's own bfloat16 products; the time of
   sentence-transformers, which packs texts itself where flash-attn is installed; memory.

The results are written after every step, so a stopped run keeps them. ``--minutes`` limits the time of all steps; the
results name the steps for which no time was left.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch

import echoembed
import measure
import models
import texts
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from systems import CLASSICAL, LIBRARY, _stock

PACKS = (4096, 16384, 65536)
TESTS = Path(__file__).parents[1] / "tests" / "engine" / "test_varlen.py"
SHAPES = (models.DEFAULT, "0.6b", "mistral-7b")


def main() -> None:
    """Run as many steps as time allows, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few texts, on whatever there is")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        raise SystemExit("No GPU here. --tiny runs the same steps on tiny shapes.")
    run = Run(device=device, tiny=arguments.tiny, out=arguments.out, seconds=60 * arguments.minutes)
    run.step("kernel", 30, lambda: _kernel(device))
    for name in SHAPES:
        run.step(name, 90 if name == SHAPES[-1] else 60, lambda name=name: _model(name, run))
    print(f"written: {run.path}")
    if failed := [name for name, step in run.results["steps"].items() if "failed" in step]:
        raise SystemExit(f"failed: {', '.join(failed)}")


class Run:
    """The steps of one run, and what they found.

    Args:
        device: ``cuda``, or ``cpu`` with tiny shapes.
        tiny: Whether shapes are tiny.
        out: Folder of the results.
        seconds: How long all may take.
    """

    def __init__(self, *, device: str, tiny: bool, out: Path, seconds: float) -> None:
        self.device, self.tiny = device, tiny
        self._until = time.monotonic() + seconds
        name = torch.cuda.get_device_name() if device == "cuda" else measure.processor()
        self.ceiling = measure.ceiling(torch.bfloat16, device, seconds=0.05 if tiny else 1.0)
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / f"gpu{'-tiny' * tiny}-{measure.slug(name)}.json"
        self.results: dict[str, Any] = {
            "device": name,
            "torch": torch.__version__,
            "command": measure.command(),
            "bfloat16 ceiling, TFLOP/s": round(self.ceiling / 1e3, 3),
            "flash-attn": importlib.util.find_spec("flash_attn") is not None,
            "steps": {},
        }

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self._until - time.monotonic()

    def step(self, name: str, seconds: float, work: Callable[[], dict[str, Any]]) -> None:
        """Do a step if time is left for it; write an exception into the results, and go on with the next step."""
        started = time.monotonic()
        if self.left < seconds and not self.tiny:
            found: dict[str, Any] = {"left out": f"{self.left:.0f} s left, it takes {seconds:.0f} s"}
        else:
            try:
                found = work()
            except Exception as error:  # the other steps are worth having
                found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        self.results["steps"][name] = {**found, "seconds": round(time.monotonic() - started, 1)}
        self.path.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(found), flush=True)


def _kernel(device: str) -> dict[str, Any]:
    """Compare packed with padded states in bfloat16, and run the kernel's own tests."""
    sample = [text for left, right, _ in texts.pairs(16) for text in (left, right)]
    model, padded = (
        echoembed.load("tiny", device=device, dtype="bfloat16", engine=engine) for engine in ("packed", "padded")
    )
    cosine = float((model.encode(sample) * padded.encode(sample)).sum(axis=1).min())
    found: dict[str, Any] = {"engine": echoembed.describe(model)["engine"], "least cosine to padded": cosine}
    if importlib.util.find_spec("pytest") and TESTS.is_file():
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", str(TESTS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parents[2])
        found["tests"] = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
        if done.returncode:
            found["failed"] = done.stdout[-1000:]
    return found


def _model(name: str, run: Run) -> dict[str, Any]:
    """Measure a model's speed with packs of several sizes, and sentence-transformers' speed on the same texts."""
    with tempfile.TemporaryDirectory() as scratch:
        if run.tiny and name != models.DEFAULT:
            models.shrink(name)
        elif run.tiny:
            name = "bundled"  # SmolLM2 has one size
        folder = models.make(name, Path(scratch) / "model", device=run.device, dtype=torch.bfloat16)
        settings: dict[str, Any] = {"device": run.device, "dtype": "bfloat16", "overflow": "ignore"}
        model = echoembed.load(folder, **settings)
        transformer = transformer_of(model)
        known = texts.words(model)
        cells = {"sentences": (20, 4 if run.tiny else 4000), "documents": (400, 2 if run.tiny else 200)}
        found: dict[str, Any] = {"engine": echoembed.describe(model)["engine"]}
        for cell, (length, count) in cells.items():
            given = texts.equal(known, length, count)
            found[cell] = {"texts": count, "tokens of a text": length}
            for tokens in PACKS:
                found[cell][f"packs of {tokens}"] = _timed(_variant(model, tokens=tokens), model, given, run)
            baseline = given if name != SHAPES[-1] else given[: max(2, count // 4)]
            found[cell][LIBRARY] = _timed(_variant(model, wanted="padded"), model, baseline, run)
            stock = _library(folder, run.device)
            stock[0].model = _flattening(stock) or transformer.model
            found[cell][CLASSICAL] = _timed(stock, None, baseline, run) | {"flattens": stock[0].can_flatten_inputs}
            del stock
            ours = found[cell][f"packs of {PACKS[1]}"]["texts/s"]
            for system in (LIBRARY, CLASSICAL):
                found[cell][f"speed of {system} relative to ours"] = found[cell][system]["texts/s"] / ours
        return found


def _variant(model: Any, **choice: Any) -> Any:
    """Return the same weights with packs of another size, or padded."""
    other = under(model, transformer_of(model).recipe)
    transformer = transformer_of(other)
    transformer.selector = replace(transformer.selector, _choices={}, **choice)
    return other


def _library(folder: Path, device: str) -> Any:
    """Return sentence-transformers' own modules, which pack texts if flash-attn is installed."""
    kwargs: dict[str, Any] = {"dtype": "bfloat16"}
    if device == "cuda" and importlib.util.find_spec("flash_attn"):
        kwargs["attn_implementation"] = "flash_attention_2"
    return _stock(folder, device=device, model_kwargs=kwargs)


def _flattening(stock: Any) -> Any:
    """Its own weights, where it runs another attention; None where ours can be shared."""
    return stock[0].model if stock[0].can_flatten_inputs else None


def _timed(model: Any, counted: Any, given: list[str], run: Run) -> dict[str, Any]:
    """Time the second of two calls: texts a second, and tokens a second for our own prompts."""
    model.encode(given[: max(2, len(given) // 20)])
    if run.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    measure._wait(run.device)
    started = time.perf_counter()
    model.encode(given)
    measure._wait(run.device)
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {"texts/s": len(given) / seconds}
    if counted is not None:
        work = measure.work(counted, given)
        found["tokens/s"] = work.tokens / seconds
        found["share of the ceiling"] = work.needed / seconds / 1e9 / run.ceiling
        started = time.perf_counter()
        transformer_of(counted).reader.render(given)
        found["tokenising, share of the time"] = (time.perf_counter() - started) / seconds
    if run.device == "cuda":
        found["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    return found


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
