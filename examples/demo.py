"""What echo embeddings find and classical ones miss, on texts that were written before any model was run on them.

Run it with ``make demo``, or with ``python examples/demo.py [MODEL]`` where echoembed is installed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from echoembed.experiments.selection import Pairs, Search

DATA = Path(__file__).parent / "data"
# The bag of words is the model's first layer, where a token's state still depends little on its neighbours.
SYSTEMS: dict[str, dict[str, Any]] = {
    "bag of words": {"recipe": "classical", "layer": 1},
    "classical": {"recipe": "classical"},
    "echo": {"recipe": "echo"},
}
SHOWN = {"echo": 4, "classical": 1}  # the number of shown queries for which only this system ranks the answer first
Array = NDArray[np.float64]


@dataclass
class Result:
    """The vectors of a system on the data, compared."""

    reads: str
    cosines: Array  # of each pair of sentences
    similarities_QP: Array  # of each query to each passage
    rate: float  # sentences a second of processor time


def main() -> None:
    """Embed with three systems, show some queries, and print scores and speed."""
    console = Console(width=min(Console().width, 100), highlight=False)
    started = time.perf_counter()
    with console.status("importing"):
        from echoembed.cli import threads

        threads.settle()  # before PyTorch is imported, so that its threads do not spin beside other programs
        import echoembed
        from echoembed.experiments import selection
    (pairs,) = selection.sts_pairs(DATA, quick=False, seed=0)
    (search,) = selection.searches(DATA)
    results: dict[str, Result] = {}
    columns = TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console) as progress:
            for name, settings in SYSTEMS.items():
                bar = progress.add_task(name, total=len(pairs.gold) * 2 + len(search.passages) + len(search.queries))
                results[name] = embed_all(settings, pairs, search, progress, bar)
    except echoembed.errors.EchoembedError as error:
        console.print(f"error: {error}", style="red")
        sys.exit(1)

    console.print()
    show_queries(console, search, results)
    show_scores(console, pairs, search, results)
    words = np.mean([len(sentence.split()) for sentence in [*pairs.first, *pairs.second]])
    console.print(
        f"STS: Spearman correlation on {len(pairs.gold)} pairs of sentences. Retrieval: nDCG@10 of "
        f"{len(search.queries)} queries over {len(search.passages)} passages. Texts/s: sentences of {words:.0f} words "
        f"in a second of one core, in {native_dtype()}. All of it took {time.perf_counter() - started:.0f} s.",
        style="dim",
    )


def embed_all(settings: dict[str, Any], pairs: Pairs, search: Search, progress: Progress, bar: TaskID) -> Result:
    """Load the model under a recipe, and embed sentences, passages and queries."""
    import echoembed

    def embed(encode: Any, texts: list[str]) -> Array:
        parts = []
        for start in range(0, len(texts), 64):
            parts.append(encode(texts[start : start + 64]))
            progress.advance(bar, len(parts[-1]))
        return np.concatenate(parts).astype(np.float64)

    model = echoembed.load(*sys.argv[1:2], dtype=native_dtype(), **settings)
    model.encode(pairs.first[:8])  # so that work which is done only once is not timed
    used = time.process_time()
    first, second = embed(model.encode, pairs.first), embed(model.encode, pairs.second)
    used = time.process_time() - used
    passages = embed(model.encode_document, search.passages)
    return Result(
        reads=echoembed.render(model, "…").text + (" (layer 1)" if "layer" in settings else ""),
        cosines=np.sum(first * second, axis=1),
        similarities_QP=embed(model.encode_query, search.queries) @ passages.T,
        rate=2 * len(first) / used,
    )


def native_dtype() -> str:
    """Return bfloat16 if the processor can multiply it, which halves the time; else float32."""
    import torch

    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def show_queries(console: Console, search: Search, results: dict[str, Result]) -> None:
    """Show the nearest passages of queries for which only echo, or only classical, ranks the answer first."""
    nearest = {name: results[name].similarities_QP.argmax(axis=1) for name in SHOWN}
    right = {name: search.grades[np.arange(len(places)), places] > 0 for name, places in nearest.items()}
    alone = {name: right[name] & ~right[other] for name, other in zip(SHOWN, reversed(SHOWN), strict=True)}
    table = Table("query", "nearest under echo", "nearest under classical")
    for name, count in SHOWN.items():
        for row in np.flatnonzero(alone[name])[:count]:
            cells = [
                f"[{'green]✓' if right[each][row] else 'red]✗'}[/] "
                f"{search.passages[nearest[each][row]].partition('. ')[0]}"
                for each in SHOWN
            ]
            table.add_row(search.queries[row], *cells)
        table.add_section()
    console.print(table)
    both = (right["echo"] & right["classical"]).sum()
    console.print(
        f"Of {len(search.queries)} queries, echo alone puts a right passage first for {alone['echo'].sum()}, classical "
        f"alone for {alone['classical'].sum()}, both for {both}. Shown: the first few of each kind.\n",
        style="dim",
    )


def show_scores(console: Console, pairs: Pairs, search: Search, results: dict[str, Result]) -> None:
    """Show scores, speed, and intervals of the differences."""
    from echoembed.experiments import interval

    gold = np.asarray(pairs.gold)
    ndcg = {name: interval.ndcg_at_10(result.similarities_QP, search.grades) for name, result in results.items()}
    table = Table("system", "reads", title="Scores × 100, without any calibration, and speed")
    for column in ("STS", "retrieval", "texts/s"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        sts = interval.correlation(result.cosines, gold)
        table.add_row(name, result.reads, f"{100 * sts:.1f}", f"{100 * ndcg[name].mean():.1f}", f"{result.rate:.0f}")
    table.add_section()
    for other in ("classical", "bag of words"):
        random = np.random.default_rng(42)
        cosines = results["echo"].cosines, results[other].cosines, gold
        gains = ndcg["echo"] - ndcg[other]
        table.add_row(
            f"echo − {other}",  # noqa: RUF001
            "95 % interval",
            with_interval(
                interval.difference(*cosines), interval.bootstrap(interval.difference, *cosines, random=random)
            ),
            with_interval(gains.mean(), interval.bootstrap(np.mean, gains, random=random)),
        )
    console.print(table)


def with_interval(value: float, drawn: Array) -> str:
    """Return a difference × 100, with the interval of its bootstrap draws."""
    from echoembed.experiments import interval

    low, high = interval.ends(drawn)
    return f"{100 * value:+.1f}\n{100 * low:+.1f} to {100 * high:+.1f}"


if __name__ == "__main__":
    main()
