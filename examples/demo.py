"""What echo embeddings find and classical ones miss, on texts that were written before any model was run on them.

Run it with ``make demo``, or with ``python examples/demo.py [MODEL]`` where echoembed is installed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

DATA = Path(__file__).parent / "data"
# The bag of words is the first of the model's layers: a token's state has hardly looked at its neighbours there.
SYSTEMS: dict[str, dict[str, Any]] = {
    "bag of words": {"recipe": "classical", "layer": 1},
    "classical": {"recipe": "classical"},
    "echo": {"recipe": "echo"},
}
TIMED = 96  # sentences whose embedding is timed on one core
SHOWN = {"echo": 4, "classical": 1}  # queries shown of those that only this system answers first
Array = NDArray[np.float64]


def main() -> None:
    """Embed with three systems, show some queries, and print scores and speed."""
    console = Console(width=min(Console().width, 100), highlight=False)
    started = time.perf_counter()
    with console.status("importing"):
        import torch

        import echoembed
        from echoembed.experiments import interval, selection
    (pairs,) = selection.sts_pairs(DATA, quick=False, seed=0)
    (search,) = selection.searches(DATA)
    sentences = [*pairs.first, *pairs.second]

    cosines: dict[str, Array] = {}  # of each pair
    similarities: dict[str, Array] = {}  # of each query to each passage
    rates: dict[str, float] = {}
    reads: dict[str, str] = {}
    with Progress(TextColumn("{task.description:<26}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
        for name, settings in SYSTEMS.items():
            count = len(sentences) + len(search.passages) + len(search.queries)
            bar = progress.add_task(f"{name}: loading", total=count)
            model = echoembed.load(*sys.argv[1:2], **settings)
            reads[name] = echoembed.render(model, "…").text
            progress.update(bar, description=f"{name}: one core, timed")
            rates[name] = texts_per_second(torch, model.encode, sentences)

            def embed(encode: Callable[..., Any], texts: list[str], bar: Any = bar) -> Array:  # noqa: ANN401
                parts = []
                for start in range(0, len(texts), 64):
                    parts.append(encode(texts[start : start + 64]))
                    progress.advance(bar, len(parts[-1]))
                return np.concatenate(parts).astype(np.float64)

            progress.update(bar, description=f"{name}: embedding")
            first, second = np.split(embed(model.encode, sentences), 2)
            cosines[name] = np.sum(first * second, axis=1)
            passages = embed(model.encode_document, search.passages)
            similarities[name] = embed(model.encode_query, search.queries) @ passages.T
            progress.update(bar, description=name)

    console.print()
    show_queries(console, search, similarities)
    gold = np.asarray(pairs.gold)
    ndcg = {name: interval.ndcg_at_10(similarities[name], search.grades) for name in SYSTEMS}
    table = Table("system", "reads", title="Scores × 100, without any calibration, and speed")
    for column in ("STS", "retrieval", "texts/s"):
        table.add_column(column, justify="right")
    for name in SYSTEMS:
        sts = 100 * interval.correlation(cosines[name], gold)
        what = f"{reads[name]} (layer 1)" if "layer" in SYSTEMS[name] else reads[name]
        table.add_row(name, what, f"{sts:.1f}", f"{100 * ndcg[name].mean():.1f}", f"{rates[name]:.0f}")
    table.add_section()
    for other in ("classical", "bag of words"):
        random = np.random.default_rng(42)
        drawn = interval.bootstrap(interval.difference, cosines["echo"], cosines[other], gold, random=random)
        found = interval.bootstrap(
            lambda ours, theirs: (ours - theirs).mean(), ndcg["echo"], ndcg[other], random=random
        )
        sts = interval.difference(cosines["echo"], cosines[other], gold)
        table.add_row(
            f"echo − {other}",  # noqa: RUF001
            "95 % interval",
            with_interval(sts, interval.ends(drawn)),
            with_interval((ndcg["echo"] - ndcg[other]).mean(), interval.ends(found)),
            "",
        )
    console.print(table)
    console.print(
        f"STS: Spearman correlation on {len(gold)} pairs of sentences. Retrieval: nDCG@10 of {len(search.queries)} "
        f"queries over {len(search.passages)} passages.\nTexts/s: sentences of "
        f"{np.mean([len(sentence.split()) for sentence in sentences]):.0f} words on one core, in float32. "
        f"All of it took {time.perf_counter() - started:.0f} s.",
        style="dim",
    )


def texts_per_second(torch: Any, encode: Callable[..., Any], sentences: list[str]) -> float:  # noqa: ANN401
    """Sentences a second on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    encode(sentences[:32])  # what is done once is not timed
    started = time.perf_counter()
    encode(sentences[:: len(sentences) // TIMED][:TIMED])
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    return TIMED / seconds


def show_queries(console: Console, search: Any, similarities: dict[str, Array]) -> None:  # noqa: ANN401
    """The nearest passage under echo and under classical, for queries that only one of the two answers first."""
    nearest = {name: similarities[name].argmax(axis=1) for name in SHOWN}
    right = {name: search.grades[np.arange(len(places)), places] > 0 for name, places in nearest.items()}
    alone = {name: right[name] & ~right[other] for name, other in zip(SHOWN, reversed(SHOWN), strict=True)}
    table = Table("query", "nearest under echo", "nearest under classical")
    for name, count in SHOWN.items():
        for row in np.flatnonzero(alone[name])[:count]:
            found = [
                f"[{'green' if right[each][row] else 'red'}]{'✓' if right[each][row] else '✗'}[/] "
                f"{search.passages[nearest[each][row]].partition('. ')[0]}"
                for each in SHOWN
            ]
            table.add_row(search.queries[row], *found)
        table.add_section()
    console.print(table)
    both = int((right["echo"] & right["classical"]).sum())
    console.print(
        f"Of {len(search.queries)} queries, echo alone puts a right passage first for {alone['echo'].sum()}, classical "
        f"alone for {alone['classical'].sum()}, both for {both}. Shown: the first few of each kind.\n",
        style="dim",
    )


def with_interval(value: float, ends: tuple[float, float]) -> str:
    """A difference times 100, and its interval."""
    return f"{100 * value:+.1f}\n{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"


if __name__ == "__main__":
    main()
