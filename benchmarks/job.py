"""Compare the rate of ``echoembed embed`` as a whole with that of its engine on the same prompts.

    python benchmarks/job.py --texts 2000                    SmolLM2-135M, sentences
    python benchmarks/job.py --texts 20000 --dtype bfloat16  the job of the aim

The engine's rate is that of one call of ``encode_prompts`` on prompts that are ready. The job is the command as a user
runs it, in its own process: importing, loading, reading, tokenising, the model, writing. The two take turns,
``--turns`` times. They are compared by processor time a text, which depends little on other work on the machine. The
fixed part of the job (a run on 8 texts) is given separately, as are reading, tokenising and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch

import echoembed
import measure
import models
import texts
from echoembed.model.encode import encode_prompts
from echoembed.model.transformer import transformer_of
from echoembed.texts import Embedder, TextReader, embed_stream, open_writer

FEW = 8
COMMAND = "from echoembed.cli import main; main()"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--format", default="npy", choices=("npy", "jsonl", "parquet"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = echoembed.load(arguments.model, dtype=arguments.dtype, overflow="ignore")
    given, source = texts.sentences(texts.words(model), arguments.texts)
    given = [" ".join(text.split()) for text in given]  # a text a line
    with tempfile.TemporaryDirectory() as scratch:
        found = run(model, given, Path(scratch), arguments)
    found = {
        "processor": measure.processor(),
        "command": measure.command(),
        "model": arguments.model,
        "dtype": arguments.dtype,
        "texts": len(given),
        "source": source,
        "load": os.getloadavg()[0],
        **found,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"job-{arguments.model}-{arguments.dtype}-{measure.slug(measure.processor())}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def run(model: Any, given: list[str], scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run engine and job in turns; return milliseconds of processor time a text."""
    many, few = scratch / "many.txt", scratch / "few.txt"
    many.write_text("\n".join(given) + "\n", encoding="utf-8")
    few.write_text("\n".join(given[:FEW]) + "\n", encoding="utf-8")
    prompts = transformer_of(model).reader.render(given)
    encode_prompts(model, prompts[:FEW])
    engine, whole, fixed, walls = [], [], [], []
    for _ in range(arguments.turns):
        started = time.process_time()
        encode_prompts(model, prompts)
        engine.append(time.process_time() - started)
        seconds, wall = _command(many, scratch / f"many.{arguments.format}", arguments)
        whole.append(seconds)
        walls.append(wall)
        fixed.append(_command(few, scratch / f"few.{arguments.format}", arguments)[0])
    count = len(given)
    each = [(job - start) / (count - FEW) for job, start in zip(whole, fixed, strict=True)]
    shares = [own / count / job for own, job in zip(engine, each, strict=True)]
    return {
        "engine, ms a text": [round(1e3 * seconds / count, 3) for seconds in engine],
        "job, ms a text": [round(1e3 * seconds, 3) for seconds in each],
        "job, fixed part in s": [round(seconds, 2) for seconds in fixed],
        "job, wall time in s": [round(seconds, 2) for seconds in walls],
        "the engine's rate that the job reaches": round(statistics.median(shares), 3),
        "aim": 0.9,
        "host work, ms a text": _host(model, many, scratch / f"host.{arguments.format}", count),
    }


def _command(file: Path, out: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return processor and wall time of the command."""
    words = ["embed", str(file), "-o", str(out), "--overwrite", "-q", "-m", arguments.model, "--dtype", arguments.dtype]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND, *words, "--device", "cpu"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, time.perf_counter() - started


def _host(model: Any, file: Path, out: Path, count: int) -> dict[str, float]:
    """Time reading, tokenising and writing, without the model."""
    spent = {}
    started = time.process_time()
    reader = TextReader([file])
    reader.check()
    items = list(reader)
    spent["reading, twice"] = time.process_time() - started
    started = time.process_time()
    transformer_of(model).reader.render([item.text for item in items])
    spent["tokenising"] = time.process_time() - started
    vectors_ND = encode_prompts(model, transformer_of(model).reader.render([items[0].text])).repeat(count, axis=0)
    embedder = Embedder(model=model)
    started = time.process_time()
    embed_stream(items, lambda part: vectors_ND[: len(part)], open_writer(out, embedder.stamp(), overwrite=True))
    spent["writing"] = time.process_time() - started
    return {kind: round(1e3 * seconds / count, 4) for kind, seconds in spent.items()}


if __name__ == "__main__":
    main()
