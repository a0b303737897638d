"""Measure what an embedding costs and how good it is, beside sentence-transformers, a plain loop, llama.cpp and others.

    python benchmarks/engine.py --quick                      SmolLM2-135M, a few minutes
    python benchmarks/engine.py --full                       1,000 and more texts a cell, and growth to 10,000 texts
    python benchmarks/engine.py --full --model llama-100m    random weights of that shape, the bundled tokenizer
    python benchmarks/engine.py --device cuda --model mistral-7b   bfloat16 on a GPU, against sentence-transformers
    python benchmarks/engine.py --texts FILE                 texts of your own, one on a line

Peers are optional: ``pip install openvino llama-cpp-python``, and for sentence-transformers' own ONNX and OpenVINO
backends an environment beside this one (``backend_peer.py``). Without one, the benchmark runs without it, and the
results say so. On a CPU, one thread is used; systems take turns on the same slices of texts (``measure.py``) and are
compared by processor time. Beside each speed are the least cosine to the same reading in float32 and, on graded pairs,
the STS score. Results: a JSON file and a PNG in --out, named after model and processor; ``table.py`` puts those of all
processors into one table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch

import measure
import memory
import models
import plots
import texts
from echoembed.sources.packaged import packaged_file
from scores import Kept, quality
from systems import (
    BFLOAT16,
    CLASSICAL,
    CLASSICAL_OURS,
    DEPTH,
    INT8,
    LIBRARY,
    LLAMA_CPP,
    LLAMA_CPP_FILE,
    LLAMA_CPP_Q8,
    LOOP,
    ONNX,
    OPENVINO,
    OURS,
    System,
    load_all,
)

PAIRS, SHORT, DOCUMENTS = "pairs", "sentences", "documents"
SAMPLE = ("A short text.", "Another one, which is somewhat longer than the first.", "Rain fell on the old town.")
GROWTH = (CLASSICAL, LIBRARY, OURS, BFLOAT16, INT8)
EQUAL = (16, 25, 64, 256, 1000, 4000)


def main() -> None:
    """Measure, print, and write the results."""
    arguments = _arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    place = "" if arguments.device == "cpu" else "-gpu"
    machine = _machine(arguments.device)
    full = "-full" if arguments.full else ""
    stem = arguments.out / f"engine-{arguments.model}{place}{full}-{measure.slug(machine['processor'])}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    begun, load_before = time.time(), os.getloadavg()
    results = _earlier(stem) if arguments.cells or arguments.systems else {"cells": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = models.make(arguments.model, Path(scratch) / "model", device=arguments.device, dtype=dtype)
        systems, skipped = load_all(
            folder,
            Path(scratch),
            batch_size=arguments.batch_size,
            device=arguments.device,
            peers=not arguments.no_peers,
            sample=[*SAMPLE] * 8,
            gguf=packaged_file(models.DEFAULT) if arguments.model == models.DEFAULT else None,
            backends=arguments.backends,
            wanted=arguments.systems or [""],
        )
        for name, reason in skipped.items():
            print(f"left out: {name}: {reason}")
        before = results.get("facts", {})
        results["facts"] = {
            **machine,
            "command": measure.command(),
            "model": arguments.model,
            "batch size": arguments.batch_size,
            "threads": "one thread" if arguments.device == "cpu" else "one GPU",
            "clock": "processor time" if arguments.device == "cpu" else "wall time",
            "left out": {**before.get("left out", {}), **skipped},
            "systems": {**before.get("systems", {}), **{name: system.note for name, system in systems.items()}},
        }
        for name, cell in _cells(systems[OURS], arguments).items():
            found = _cell(name, cell, systems, arguments)
            earlier = results["cells"].get(name, {}) if arguments.systems else {}
            for part in ("systems", "ratios", "ceiling_gops"):
                found[part] = earlier.get(part, {}) | found[part]
            results["cells"][name] = found
            # After every cell: a run that is stopped leaves what it has.
            results["facts"]["load average before and after"] = [load_before, os.getloadavg()]
            results["facts"]["minutes"] = round((time.time() - begun) / 60, 1)
            results["aims"] = _aims(results["cells"]) if arguments.device == "cpu" else []
            _write(results, stem)
        if arguments.memory:
            results["memory"] = memory.measure(folder, memory.CASES)
            _write(results, stem)
    plots.draw(results, stem.with_suffix(".png"))
    for aim in results["aims"]:
        print(f"{'met   ' if aim['met'] else 'short '} {aim['aim']}: {aim['reached']} (wanted {aim['wanted']})")
    print(f"written: {stem}.json, {stem}.png")


def _write(results: dict[str, Any], stem: Path) -> None:
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _earlier(stem: Path) -> dict[str, Any]:
    """Return the results of an earlier run, to which the chosen cells are added."""
    path = stem.with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if "facts" in found and isinstance(found.get("cells"), dict) else {"cells": {}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few hundred texts, few slices (the default)")
    size.add_argument("--full", action="store_true", help="1,000 and more texts, and growth with their number")
    parser.add_argument("--model", choices=models.NAMES, default=models.DEFAULT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=Path, help="a file with a text on each line")
    parser.add_argument("--cells", nargs="*", help="only these, put to an earlier run's: sentences, n=25, N=1000")
    parser.add_argument("--systems", nargs="*", help="only those whose names begin so, and what they are compared with")
    parser.add_argument("--batch-size", type=int, default=32, help="sentence-transformers' own default")
    parser.add_argument("--pairs", type=int, default=0, help="graded pairs; 0 for 64 or, in full, all 336")
    parser.add_argument("--slices", type=int, default=0, help="turns of each cell; 0 for 4 or, in full, 16")
    parser.add_argument("--allowance", type=float, default=0, help="seconds of processor time for a system in a cell")
    parser.add_argument("--no-peers", action="store_true", help="without ONNX, OpenVINO and llama.cpp")
    parser.add_argument("--backends", type=Path, help="Python of an environment with ONNX and OpenVINO backends")
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.slices = arguments.slices or (16 if arguments.full else 4)
    arguments.pairs = arguments.pairs or (336 if arguments.full else 64)
    arguments.allowance = arguments.allowance or (60.0 if arguments.full else 20.0)
    return arguments


def _cells(ours: System, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return for each cell its texts and their kind."""
    if arguments.texts:
        own = [line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {arguments.texts.name: {"kind": "real", "texts": own, "source": arguments.texts.name}}
    known = texts.words(ours.counted)
    trained = arguments.model == models.DEFAULT
    graded = texts.pairs(arguments.pairs)
    sentences = list(dict.fromkeys(text for left, right, _ in graded for text in (left, right)))
    cells: dict[str, dict[str, Any]] = {
        PAIRS: {"kind": "real", "texts": sentences, "source": "graded pairs of examples/data", "pairs": graded}
    }
    count = 1024 if arguments.full else 192
    if arguments.full or not trained:
        short, source = texts.sentences(known, max(count, 10_000 if arguments.full else 0))
        long, long_source = texts.documents(known, count if arguments.full else 48)
        cells[SHORT] = {"kind": "real", "texts": short[:count], "source": source}
        cells[DOCUMENTS] = {"kind": "real", "texts": long, "source": long_source}
    for length in EQUAL if arguments.full or not trained else (25, 256):
        tokens = (32768 if arguments.full else 8192) // (1 if arguments.model == "bundled" else 4)
        equal = texts.equal(known, length, max(6 if length < 1000 else 2, tokens // length))
        cells[f"n={length}"] = {"kind": "length", "length": length, "texts": equal, "source": "made"}
    if arguments.full:
        for number in (32, 320, 1000, 3200, 10_000):
            cells[f"N={number}"] = {"kind": "number", "number": number, "texts": short[:number], "source": source}
    if arguments.cells:
        cells = {name: cell for name, cell in cells.items() if name in arguments.cells}
    return cells


def _cell(name: str, cell: dict[str, Any], systems: dict[str, System], arguments: argparse.Namespace) -> dict[str, Any]:
    if cell["kind"] == "real":
        chosen = systems
    else:
        wanted = (CLASSICAL, LIBRARY, OURS) if cell["kind"] == "number" else GROWTH
        chosen = {key: systems[key] for key in wanted if key in systems}
    # How many texts a call has is what the cells of that kind are about: they are not cut.
    if arguments.systems:
        chosen = {
            key: one for key, one in chosen.items() if key == CLASSICAL or key.startswith(tuple(arguments.systems))
        }
    if cell["kind"] == "number":
        turns = [cell["texts"]] * (2 if len(cell["texts"]) < 3200 else 1)
    else:
        turns = measure.slices(cell["texts"], arguments.slices, arguments.batch_size)
    dtypes = sorted({system.dtype for system in chosen.values()})
    before = {dtype: measure.ceiling(getattr(torch, dtype), arguments.device) for dtype in dtypes}
    encoders = {key: Kept(system.encode) for key, system in chosen.items()}
    for system in chosen.values():  # what is done once is done before
        system.encode(cell["texts"][:2])
    clocks = {key: system.clock for key, system in chosen.items()}
    times = measure.take_turns(encoders, turns, allowance=arguments.allowance, clocks=clocks, device=arguments.device)
    after = {dtype: measure.ceiling(getattr(torch, dtype), arguments.device) for dtype in dtypes}
    top = {dtype: statistics.median([before[dtype], after[dtype]]) for dtype in dtypes}
    result: dict[str, Any] = {key: cell[key] for key in ("kind", "length", "number", "source") if key in cell}
    result["ceiling_gops"] = {dtype: round(value, 1) for dtype, value in top.items()}
    result |= {"texts": len(cell["texts"]), "load": os.getloadavg()[0], "systems": {}}
    tops = ", ".join(f"{dtype} {value:.0f}" for dtype, value in top.items())
    print(f"\n{name}: {len(cell['texts'])} texts ({cell['source']}), ceilings {tops} Gop/s, load {result['load']:.1f}")
    worth = quality(encoders, cell.get("pairs", []), {CLASSICAL: (CLASSICAL, ONNX), OURS: (LIBRARY, LOOP, "echo, ")})
    done = {model: [measure.work(systems[model].counted, part) for part in turns] for model in chosen}
    for system, own in times.items():
        dtype = chosen[system].dtype
        row = _row(own, times[CLASSICAL], done[system], top[dtype], arguments.device)
        result["systems"][system] = row = row | {"dtype": dtype, **worth[system]}
        print(
            f"  {system:38} {row['ms_per_text']:9.2f} ms a text {row['tokens_per_s']:9.0f} tokens/s "
            f"{row['share_of_ceiling']:5.0%} of {dtype} ceiling  x{row['ratio']['median']:.2f} "
            f"({row['ratio']['least']:.2f}-{row['ratio']['greatest']:.2f}, {row['ratio']['slices']})",
            *(f" {key} {value:.5g}" for key, value in worth[system].items()),
            flush=True,
        )
    result["ratios"] = {
        f"{one} / {other}": asdict(measure.ratio(_clock(times[one], arguments), _clock(times[other], arguments)))
        for one, other in (
            (LIBRARY, OURS),
            (LIBRARY, INT8),
            (LLAMA_CPP, OURS),
            (LLAMA_CPP_Q8, INT8),
            (LLAMA_CPP_FILE, INT8),
            (OPENVINO, OURS),
            (LOOP, OURS),
            (OURS, CLASSICAL),
            (OURS, CLASSICAL_OURS),
            (DEPTH, CLASSICAL),
            (BFLOAT16, CLASSICAL),
            (INT8, CLASSICAL),
        )
        if one in times and other in times
    }
    return result


def _clock(times: measure.Times, arguments: argparse.Namespace) -> list[float]:
    return times.cpu if arguments.device == "cpu" else times.wall


def _row(
    own: measure.Times, base: measure.Times, done: list[measure.Work], ceiling: float, device: str
) -> dict[str, Any]:
    seconds = own.cpu if device == "cpu" else own.wall
    reference = base.cpu if device == "cpu" else base.wall
    done = done[: len(seconds)]
    total = sum(seconds)
    tokens = sum(part.tokens for part in done)
    return {
        "cpu_s": [round(value, 4) for value in own.cpu],
        "wall_s": [round(value, 4) for value in own.wall],
        "ms_per_text": total / sum(part.texts for part in done) * 1e3,
        "us_per_token": total / tokens * 1e6,
        "tokens_per_s": tokens / total,
        # Of the operations that are needed (no padding, shared prefix, trimmed last layer), and of those without
        # leaving anything out but padding: the second may exceed 1.
        "share_of_ceiling": sum(part.needed for part in done) / total / 1e9 / ceiling,
        "share_of_ceiling_unshared": sum(part.plain for part in done) / total / 1e9 / ceiling,
        "ratio": asdict(measure.ratio(seconds, reference)),
    }


def _aims(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the aims for one thread, and what was reached."""
    aims = []

    def times(cell: str, one: str, other: str, wanted: float, *, most: bool = False) -> None:
        found = cells.get(cell, {}).get("ratios", {}).get(f"{one} / {other}")
        if found is None:
            return
        reached = found["median"]
        aims.append(
            {
                "aim": f"{cell}: time of [{one}] / [{other}]",
                "wanted": f"{'at most' if most else 'at least'} {wanted}",
                "reached": f"{reached:.2f} ({found['least']:.2f}-{found['greatest']:.2f})",
                "met": reached <= wanted if most else reached >= wanted,
            }
        )

    for cell in (PAIRS, SHORT, DOCUMENTS):
        times(cell, DEPTH, CLASSICAL, 1.0, most=True)
        times(cell, INT8, CLASSICAL, 0.6, most=True)
        times(cell, BFLOAT16, CLASSICAL, 0.25, most=True)
        times(cell, LIBRARY, OURS, 1.4)
        times(cell, LLAMA_CPP, OURS, 2.5)
        times(cell, LLAMA_CPP_Q8, INT8, 5.0)
        for system, least in ((INT8, 0.999), (BFLOAT16, 0.9998)):
            row = cells.get(cell, {}).get("systems", {}).get(system, {})
            if "cosine" in row:
                aim = {"aim": f"{cell}: least cosine to float32 of [{system}]", "wanted": f"at least {least}"}
                aims.append({**aim, "reached": f"{row['cosine']:.5f}", "met": row["cosine"] >= least})
        row = cells.get(cell, {}).get("systems", {}).get(OURS)
        if row:
            aim = {"aim": f"{cell}: share of the float32 ceiling", "wanted": "at least 80 %"}
            share = row["share_of_ceiling"]
            aims.append({**aim, "reached": f"{share:.0%}", "met": share >= 0.8})
    return aims


def _machine(device: str) -> dict[str, Any]:
    versions = {}
    for package in ("torch", "transformers", "sentence-transformers", "llama-cpp-python", "openvino"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if "llama-cpp-python" not in versions and sys.modules.get("llama_cpp"):  # built, not installed
        versions["llama-cpp-python"] = sys.modules["llama_cpp"].__version__
    processor = measure.processor() if device == "cpu" else torch.cuda.get_device_name(device)
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability() if device == "cpu" else "",
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
