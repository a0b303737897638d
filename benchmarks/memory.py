"""Measure the memory that ``encode`` takes besides the model, each case in its own process.

    python benchmarks/memory.py                      the engine on texts of several lengths and numbers
    python benchmarks/memory.py --flat 100000        one call on that many short texts, measured while it runs
    python benchmarks/memory.py --load smollm2-135m  loading a model in each dtype, from a converted GGUF file

A peak is the kernel's high-water mark of resident memory after a first small ``encode``, minus the resident memory at
that moment. Mapped weights count as resident, although the system can take back their pages; the memory that it cannot
take back, ``anonymous``, is read every few milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

DTYPES = ("float32", "bfloat16", "int8", "auto")
SYSTEMS = ("padded", "packed", "int8")
CASES = ((25, 64), (25, 1000), (1000, 16))
"""Tokens of a text, and how many texts."""
LIMIT = 300


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--flat", type=int, default=0, metavar="TEXTS")
    parser.add_argument("--load", nargs="+", default=[], metavar="MODEL")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--load-child", nargs=2, metavar=("MODEL", "DTYPE"), help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=4, metavar=("FOLDER", "SYSTEM", "LENGTH", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--flat-child", nargs=2, metavar=("FOLDER", "TEXTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, system, length, count = arguments.child
        print(json.dumps(_child(Path(folder), system, int(length), int(count))))
        return
    if arguments.flat_child:
        print(json.dumps(_flat(Path(arguments.flat_child[0]), int(arguments.flat_child[1]))))
        return

    if arguments.load_child:
        print(json.dumps(_loaded(*arguments.load_child)))
        return
    if arguments.load:
        rows = {Path(name).name: loading(name) for name in arguments.load}
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "memory-load.json").write_text(json.dumps(rows, indent=1) + "\n")
        return

    import models

    with tempfile.TemporaryDirectory() as scratch:
        folder = models.make(arguments.model, Path(scratch) / "model")
        if arguments.flat:
            name, result = f"memory-flat-{arguments.model}", run(["--flat-child", str(folder), str(arguments.flat)])
            print(result)
        else:
            name, result = f"memory-{arguments.model}", {"limit": LIMIT, "rows": measure(folder, CASES)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, cases: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Measure every system on every case."""
    rows = []
    for length, count in cases:
        for system in SYSTEMS:
            row = run(["--child", str(folder), system, str(length), str(count)])
            rows.append({"system": system, "length": length, "texts": count, **row})
            print(f"memory: {rows[-1]}", flush=True)
    return rows


def loading(name: str) -> list[dict[str, Any]]:
    """Measure loading a model in each dtype: the peak, and the memory that stays in use."""
    run(["--load-child", name, "float32"])  # converts a GGUF file, which is done once
    rows = []
    for dtype in DTYPES:
        rows.append({"dtype": dtype, **run(["--load-child", name, dtype])})
        print(f"loading {name}: {rows[-1]}", flush=True)
    return rows


def _loaded(name: str, dtype: str) -> dict[str, Any]:
    import torch

    import echoembed

    torch.set_num_threads(1)
    echoembed.load("tiny", device="cpu").encode("a text")  # what the libraries take is no part of it
    before, own = _resident(), _status("RssAnon:")
    most, finished = [own], threading.Event()

    def watch() -> None:
        while not finished.wait(0.005):
            most[0] = max(most[0], _status("RssAnon:"))

    watcher = threading.Thread(target=watch)
    _forget_peak()
    started = time.process_time()
    watcher.start()
    model = echoembed.load(name, device="cpu", dtype=dtype)
    seconds, peak, stays = time.process_time() - started, _peak() - before, _resident() - before
    finished.set()
    watcher.join()
    anonymous = {"peak": most[0] - own, "stays": _status("RssAnon:") - own}
    facts = echoembed.describe(model)
    from safetensors import safe_open

    folder = model[0].weights_folder
    whole = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            whole += sum(4 * weights.get_tensor(key).numel() for key in weights.keys())  # noqa: SIM118
    return {
        "became": facts["dtype"],
        "float32_mb": round(whole / 1e6, 1),
        "peak_over_float32": round(peak * 1e6 / whole, 2),
        "stays_over_float32": round(stays * 1e6 / whole, 2),
        **{f"{when}_anonymous_over_float32": round(value * 1e6 / whole, 2) for when, value in anonymous.items()},
        "cpu_s": round(seconds, 1),
    }


def run(arguments: list[str]) -> dict[str, Any]:
    """Return the report of a child process."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(folder: Path, system: str, length: int, count: int) -> dict[str, Any]:
    import texts

    settings = {"padded": {"engine": "padded"}, "packed": {}, "int8": {"dtype": "int8"}}[system]
    model = _load(folder, **settings)
    batch = texts.equal(texts.words(model), length, count)
    model.encode(batch[0][:20])
    before = _resident()
    _forget_peak()
    model.encode(batch)
    weights = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())
    return {
        "added_mb": round(_peak() - before, 1),
        "resident_mb": round(before, 1),
        "weights_mb": round(weights / 1e6, 1),
    }


def _flat(folder: Path, count: int) -> dict[str, Any]:
    import texts

    model = _load(folder)
    known = texts.words(model)
    # Distinct texts of two words; their vectors, which the caller asked for, are taken off what is resident.
    batch = [f"{known[number % len(known)]} {known[number // len(known)]}" for number in range(count)]
    width = model.get_embedding_dimension()
    model.encode(batch[:64])
    before = _resident()
    _forget_peak()
    done = [0]
    hook = model[0].register_forward_hook(lambda _, __, out: done.__setitem__(0, done[0] + len(out["attention_mask"])))
    rows: list[dict[str, float]] = []
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(2.0):
            rows.append(
                {"texts": done[0], "resident_mb": _resident() - before, "vectors_mb": done[0] * width * 4 / 1e6}
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    vectors = model.encode(batch)
    seconds = time.process_time() - start
    finished.set()
    watcher.join()
    hook.remove()
    beside = [row["resident_mb"] - row["vectors_mb"] for row in rows]
    middle = len(beside) // 2
    return {
        "texts": count,
        "cpu_s": round(seconds, 1),
        "peak_added_mb": round(_peak() - before, 1),
        "vectors_mb": round(vectors.nbytes / 1e6, 1),
        "beside_vectors_mb": {
            "greatest of first half": round(max(beside[:middle], default=0.0), 1),
            "greatest of second half": round(max(beside[middle:], default=0.0), 1),
        },
        "rows": [{key: round(value, 1) for key, value in row.items()} for row in rows[:: max(1, len(rows) // 40)]],
    }


def _load(folder: Path, **settings: Any) -> Any:
    import torch

    import echoembed

    torch.set_num_threads(1)
    return echoembed.load(folder, recipe="echo", budget=2048, device="cpu", overflow="ignore", **settings)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def _resident() -> float:
    return _status("VmRSS:")


def _peak() -> float:
    return _status("VmHWM:")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
