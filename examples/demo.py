"""Embed the texts beside this file with the bundled model, and compare echo with classical embeddings.

Run it with ``make demo``, or with ``python examples/demo.py`` where echoembed is installed.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import echoembed

HERE = Path(__file__).parent
NEAREST = 2


def main() -> None:
    """Embed, show what is nearest under each recipe, and write the vectors."""
    console = Console()
    texts = (HERE / "texts.txt").read_text(encoding="utf-8").splitlines()
    queries = (HERE / "queries.txt").read_text(encoding="utf-8").splitlines()

    nearest: dict[str, list[list[tuple[float, str]]]] = {}
    seconds: dict[str, float] = {}
    for recipe in ("echo", "classical"):
        model = echoembed.load(recipe=recipe)
        model.encode_query(queries[:1])  # warm up, so that the first recipe does not pay for what both need
        started = time.perf_counter()
        document_vectors = model.encode_document(texts)
        scores = model.similarity(model.encode_query(queries), document_vectors).numpy()
        seconds[recipe] = time.perf_counter() - started
        order = np.argsort(-scores, axis=1)[:, :NEAREST]
        nearest[recipe] = [[(scores[row, place], texts[place]) for place in places] for row, places in enumerate(order)]
        if recipe == "echo":
            vectors = document_vectors

    for recipe in nearest:
        shown = echoembed.render(echoembed.load(recipe=recipe), "…").text
        console.print(f"[bold]{recipe}[/bold] reads: {shown}", highlight=False)
    console.print()
    table = Table("query", "nearest under echo", "nearest under classical", title="Nearest texts and their cosines")
    for row, query in enumerate(queries):
        for place in range(NEAREST):
            cells = [f"{cosine:.2f} {text}" for cosine, text in (nearest[recipe][row][place] for recipe in nearest)]
            table.add_row(query if place == 0 else "", *cells)
        table.add_section()
    console.print(table)

    target = Path(tempfile.mkdtemp(prefix="echoembed-demo-")) / "echo.npy"
    np.save(target, vectors)
    console.print(
        f"\n{len(texts)} texts and {len(queries)} queries: echo {seconds['echo']:.2f} s, "
        f"classical {seconds['classical']:.2f} s\nvectors of the texts, {vectors.shape}: {target}",
        highlight=False,
    )
    console.print(
        "The bundled model is very small: it shows how things work, not how well they can. "
        "Try your own: echoembed.load('org/name').",
        style="dim",
    )


if __name__ == "__main__":
    main()
