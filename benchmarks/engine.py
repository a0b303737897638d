"""What an embedding costs: echoembed beside sentence-transformers, a naive loop, llama.cpp and OpenVINO.

    python benchmarks/engine.py --quick                      a few minutes
    python benchmarks/engine.py --full                       1,000 and more texts a cell, growth to 10,000 texts
    python benchmarks/engine.py --full --model llama-100m    random weights of that shape, same tokenizer
    python benchmarks/engine.py --device cuda --model mistral-7b   bfloat16 on a GPU, against sentence-transformers
    python benchmarks/engine.py --texts FILE                 texts of your own, one on a line

Peers are optional: ``pip install llama-cpp-python gguf openvino``; one that is absent is left out, and the results say
so. On a CPU one thread; systems take turns on the same slices of texts (``measure.py``) and are compared by processor
time. Results: a JSON and a PNG in --out.
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
from systems import (
    CLASSICAL,
    CLASSICAL_OURS,
    INT8,
    LIBRARY,
    LLAMA_CPP,
    LLAMA_CPP_Q8,
    LOOP,
    OPENVINO,
    OURS,
    System,
    load_all,
)

SHORT, DOCUMENTS = "sentences", "documents"
SAMPLE = ("A short text.", "Another one, which is somewhat longer than the first.", "Rain fell on the old town.")
GROWTH = (LIBRARY, CLASSICAL, OURS, INT8)
EQUAL = (16, 25, 64, 256, 1024)


def main() -> None:
    """Measure, print, and write the results."""
    arguments = _arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    place = "" if arguments.device == "cpu" else "-gpu"
    stem = arguments.out / f"engine-{arguments.model}{place}{'-full' if arguments.full else ''}"
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
        )
        for name, reason in skipped.items():
            print(f"left out: {name}: {reason}")
        results["facts"] = {
            **_machine(arguments.device),
            "model": arguments.model,
            "batch size": arguments.batch_size,
            "threads": "one thread" if arguments.device == "cpu" else "one GPU",
            "clock": "processor time" if arguments.device == "cpu" else "wall time",
            "left out": skipped,
            "systems": {name: system.note for name, system in systems.items()},
        }
        for name, cell in _cells(systems[OURS], arguments).items():
            results["cells"][name] = _cell(name, cell, systems, arguments)
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
    """What is there of an earlier run, to which chosen cells are added."""
    path = stem.with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if "facts" in found and isinstance(found.get("cells"), dict) else {"cells": {}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few hundred texts, few slices (the default)")
    size.add_argument("--full", action="store_true", help="1,000 and more texts, and growth with their number")
    parser.add_argument("--model", choices=models.NAMES, default="bundled")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=Path, help="a file with a text on each line")
    parser.add_argument("--cells", nargs="*", help="only these, put to an earlier run's: sentences, n=25, N=1000")
    parser.add_argument("--systems", nargs="*", help="only those whose names begin so, and what they are compared with")
    parser.add_argument("--batch-size", type=int, default=32, help="sentence-transformers' own default")
    parser.add_argument("--slices", type=int, default=0, help="turns of each cell; 0 for 4 or, in full, 16")
    parser.add_argument("--allowance", type=float, default=0, help="seconds of wall time for a system in a cell")
    parser.add_argument("--no-peers", action="store_true", help="without llama.cpp and OpenVINO")
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.slices = arguments.slices or (16 if arguments.full else 4)
    arguments.allowance = arguments.allowance or (60.0 if arguments.full else 10.0)
    return arguments


def _cells(ours: System, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name of a cell → its texts, and of what kind it is."""
    if arguments.texts:
        own = [line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {arguments.texts.name: {"kind": "real", "texts": own, "source": arguments.texts.name}}
    known = texts.words(ours.counted)
    count = 1024 if arguments.full else 192
    short, source = texts.sentences(known, max(count, 10_000 if arguments.full else 0))
    long, long_source = texts.documents(known, count if arguments.full else 48)
    cells: dict[str, dict[str, Any]] = {
        SHORT: {"kind": "real", "texts": short[:count], "source": source},
        DOCUMENTS: {"kind": "real", "texts": long, "source": long_source},
    }
    for length in EQUAL:
        tokens = (32768 if arguments.full else 8192) // (1 if arguments.model == "bundled" else 4)
        equal = texts.equal(known, length, max(6, tokens // length))
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
        wanted = (LIBRARY, OURS) if cell["kind"] == "number" else GROWTH
        chosen = {key: systems[key] for key in wanted if key in systems}
    # How many texts a call has is what the cells of that kind are about: they are not cut.
    if arguments.systems:
        chosen = {key: one for key, one in chosen.items() if key == LIBRARY or key.startswith(tuple(arguments.systems))}
    if cell["kind"] == "number":
        turns = [cell["texts"]] * (2 if len(cell["texts"]) < 3200 else 1)
    else:
        turns = measure.slices(cell["texts"], arguments.slices, arguments.batch_size)
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    before = measure.ceiling(dtype, arguments.device)
    encoders = {key: system.encode for key, system in chosen.items()}
    for encode in encoders.values():  # what is done once is done before
        encode(cell["texts"][:2])
    times = measure.take_turns(encoders, turns, allowance=arguments.allowance, device=arguments.device)
    top = statistics.median([before, measure.ceiling(dtype, arguments.device)])
    result: dict[str, Any] = {key: cell[key] for key in ("kind", "length", "number", "source") if key in cell}
    result |= {"texts": len(cell["texts"]), "ceiling_gflops": round(top, 1), "load": os.getloadavg()[0], "systems": {}}
    if arguments.device == "cpu":
        result["int8_ceiling_gops"] = round(measure.ceiling(torch.int8), 1)
    print(
        f"\n{name}: {len(cell['texts'])} texts ({cell['source']}), ceiling {top:.0f} GFLOP/s, load {result['load']:.1f}"
    )
    done = {model: [measure.work(systems[model].counted, part) for part in turns] for model in chosen}
    for system, own in times.items():
        result["systems"][system] = row = _row(own, times[LIBRARY], done[system], top, arguments.device)
        print(
            f"  {system:32} {row['ms_per_text']:9.2f} ms a text {row['tokens_per_s']:9.0f} tokens/s "
            f"{row['share_of_ceiling']:5.0%} of ceiling  x{row['ratio']['median']:.2f} "
            f"({row['ratio']['least']:.2f}-{row['ratio']['greatest']:.2f}, {row['ratio']['slices']})",
            flush=True,
        )
    result["ratios"] = {
        f"{one} / {other}": asdict(measure.ratio(_clock(times[one], arguments), _clock(times[other], arguments)))
        for one, other in (
            (LIBRARY, OURS),
            (LIBRARY, INT8),
            (LLAMA_CPP, OURS),
            (LLAMA_CPP_Q8, INT8),
            (OPENVINO, OURS),
            (LOOP, OURS),
            (OURS, CLASSICAL),
            (OURS, CLASSICAL_OURS),
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
    """What was aimed at, one thread, and what was reached."""
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

    for cell, exact, small in ((SHORT, 1.4, 3.0), (DOCUMENTS, 1.15, 2.3)):
        times(cell, LIBRARY, OURS, exact)
        times(cell, LIBRARY, INT8, small)
        times(cell, LLAMA_CPP, OURS, 2.5)
        times(cell, LLAMA_CPP_Q8, INT8, 5.0)
        if cell in cells:
            share = cells[cell]["systems"][OURS]["share_of_ceiling"]
            aims.append(
                {
                    "aim": f"{cell}: share of the GEMM ceiling",
                    "wanted": "at least 80 %",
                    "reached": f"{share:.0%}",
                    "met": share >= 0.8,
                }
            )
    for length in (25, 64, 256):
        times(f"n={length}", INT8, CLASSICAL, 1.0, most=True)
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
    processor = _processor() if device == "cpu" else torch.cuda.get_device_name(device)
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability() if device == "cpu" else "",
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
