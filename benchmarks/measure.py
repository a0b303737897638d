"""Timing that depends little on other work on the machine: systems take turns on the same slices of texts.

A cell is one set of texts, cut into slices. Every system runs once on each slice, in a random order. The results are
medians over the slices, and ratios of two systems on the same slices: the median, the least and the greatest. A system
that has used up its time skips the later slices, and is compared on those that it ran on.
"""

from __future__ import annotations

import platform
import random
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Encode = Callable[[list[str]], Any]


@dataclass
class Times:
    """Seconds a system took, slice by slice."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """The time of one system divided by that of another, on the same slices."""

    median: float
    least: float
    greatest: float
    slices: int


def slices(texts: Sequence[str], count: int, batch_size: int) -> list[list[str]]:
    """Cut texts into parts that consist of the batches of one call on all texts.

    sentence-transformers sorts the texts of a call by length and pads each batch to its longest text. A part drawn at
    random would have more unequal batches than the whole, and make padding look dearer than it is.

    Args:
        texts: All texts.
        count: How many parts, at most one for each batch.
        batch_size: Texts of a batch.
    """
    order = sorted(texts, key=len, reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [[text for batch in batches[start::count] for text in batch] for start in range(min(count, len(batches)))]


def take_turns(
    systems: dict[str, Encode],
    parts: Sequence[list[str]],
    *,
    allowance: float,
    clocks: Mapping[str, Callable[[], float]] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Times]:
    """Run every system on every slice, in a random order for each slice.

    Args:
        systems: How each embeds texts.
        parts: The slices.
        allowance: Seconds of processor time (on a GPU, of wall time) for each system; at least two slices are run
            whatever they take.
        clocks: Name → what reads a system's processor time, where that is not this process's alone.
        device: Where the work happens: on a GPU it is waited for.
        seed: Of the orders.
    """
    times = {name: Times() for name in systems}
    chance = random.Random(seed)
    for number, part in enumerate(parts):
        for name in chance.sample(list(systems), len(systems)):
            own = times[name]
            # The next slice will take about as long as those before: stop before, not after.
            spent = own.cpu if device == "cpu" else own.wall
            if (number >= 2 and sum(spent) * (1 + 1 / len(spent)) > allowance) or len(spent) < number:
                continue
            _wait(device)
            clock = (clocks or {}).get(name, time.process_time)
            wall, cpu = time.perf_counter(), clock()
            systems[name](part)
            _wait(device)
            own.cpu.append(clock() - cpu)
            own.wall.append(time.perf_counter() - wall)
    return times


def ratio(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Divide the times of ``one`` by those of ``other``, on the slices that both ran on."""
    ratios = [first / second for first, second in zip(one, other, strict=False)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def ceiling(dtype: torch.dtype, device: str = "cpu", seconds: float = 0.5) -> float:
    """Measure the fastest matrix product of this thread or GPU, in 10⁹ operations a second (int8: PyTorch's)."""
    sizes = (512, 1024) if device == "cpu" else (4096, 8192)
    best = 0.0
    for size in sizes:
        for product in _products(dtype, device, size):
            product()
            _wait(device)
            until = time.perf_counter() + seconds / 2 / len(sizes)
            tries = 0
            while tries < 3 or time.perf_counter() < until:
                clock = time.process_time if device == "cpu" else time.perf_counter
                start = clock()
                product()
                _wait(device)
                best = max(best, 2 * size**3 / (clock() - start) / 1e9)
                tries += 1
    return best


def _products(dtype: torch.dtype, device: str, size: int) -> list[Callable[[], object]]:
    from echoembed.engine import onednn

    if dtype == torch.int8:
        codes, others = torch.randint(-127, 128, (2, size, size), dtype=torch.int8, device=device)
        return [lambda: torch._int_mm(codes, others.t())]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    products: list[Callable[[], object]] = [lambda: torch.nn.functional.linear(left, right)]
    if device == "cpu" and dtype == torch.float32 and onednn.available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    return products


def processor() -> str:
    """Return the processor's name and its fast products in bfloat16 and int8."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    fast = [flag for flag in ("avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if flag in flags]
    return f"{name or platform.processor() or 'unknown'} ({', '.join(fast) or 'neither VNNI nor AMX'})"


def command() -> str:
    """Return the running command, without the folder of its results and other folders of this machine."""
    words = ["FOLDER" if word.startswith(("/", "~")) else word for word in sys.argv[1:]]
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def slug(name: str) -> str:
    """Turn a processor's name into a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("avx512_", "").replace("processor", "")).strip("-")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Work:
    """The work that a set of prompts takes.

    Attributes:
        texts: How many they are.
        tokens: Prompt tokens, without padding.
        plain: Floating-point operations of a forward without padding, in linear layers and attention.
        needed: The same without what the engine leaves out: shared prefixes and the last layer's unpooled tokens.
    """

    texts: int
    tokens: int
    plain: float
    needed: float


def work(model: Any, texts: Sequence[str]) -> Work:
    """Count tokens and operations of texts under a model's recipe."""
    first = model[0]
    config = first.model.config
    rendered = first.reader.render(list(texts))
    shared = rendered[0].prefix
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    width, layers = config.hidden_size, config.num_hidden_layers
    early, late = 2 * width * 2 * keys, 2 * (2 * width * heads + 3 * width * config.intermediate_size)
    plain = needed = 0.0
    for prompt in rendered:
        count, pooled = len(prompt.ids), prompt.span[1] - prompt.span[0]
        own = count - shared
        square = 2 * heads * count**2  # scores and sums, causal: half of 4
        plain += layers * (count * (early + late) + square)
        needed += (layers - 1) * (own * (early + late) + square) + own * early + pooled * late
        needed += square * min(1.0, 2 * pooled / count)
    return Work(len(rendered), sum(len(prompt.ids) for prompt in rendered), plain, needed)
