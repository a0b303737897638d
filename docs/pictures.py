"""Draw the README's picture from what the bundled model really reads: python docs/pictures.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

import echoembed

TEXT = "Every morning the old man feeds the birds"
SEEN, UNSEEN, PROMPT = "#2a6f97", "#f3d9c9", "#e9ecef"


def draw(axes: Axes, recipe: str) -> None:
    """One row for each pooled token, one column for each token read: what has each pooled state seen?"""
    model = echoembed.load(recipe=recipe)
    read = echoembed.render(model, TEXT)
    pieces = model[0].pieces
    tokens = [pieces.token(id_).replace("Ġ", "") for id_ in read.ids]
    start, stop = read.span
    length = stop - start
    first = next(place for place in range(len(tokens)) if read.ids[place : place + length] == read.ids[start:stop])
    is_text = np.zeros(len(tokens), dtype=bool)
    is_text[first : first + length] = True
    is_text[start:stop] = True
    for row, place in enumerate(range(start, stop)):
        words = set()
        for column in range(len(tokens)):
            seen = column <= place
            color = (SEEN if seen else UNSEEN) if is_text[column] else PROMPT
            axes.add_patch(Rectangle((column, row), 0.92, 0.88, color=color))
            if seen and is_text[column]:
                words.add(column - first if column < first + length else column - start)
        axes.text(len(tokens) + 0.4, row + 0.5, f"{len(words)} of {length}", va="center", fontsize=9, color="#333333")
    axes.set_xlim(0, len(tokens) + 3.2)
    axes.set_ylim(length, -0.1)
    axes.set_xticks(np.arange(len(tokens)) + 0.46, tokens, rotation=60, ha="right", fontsize=9, rotation_mode="anchor")
    axes.set_yticks(np.arange(length) + 0.46, tokens[start:stop], fontsize=9)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def main() -> None:
    """Write ``pictures/reading.png``."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9.5, 6.6), layout="constrained")
    draw(top, "classical")
    top.set_title("classical: the first pooled state has seen one token of the text", loc="left", fontsize=12)
    draw(bottom, "echo")
    bottom.set_title("echo: every pooled state has seen the whole text", loc="left", fontsize=12)
    for axes in (top, bottom):
        axes.set_ylabel("pooled states")
    bottom.set_xlabel("tokens, in reading order")
    legend = [
        Patch(color=SEEN, label="text, seen"),
        Patch(color=UNSEEN, label="text, not seen yet"),
        Patch(color=PROMPT, label="prompt"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    figure.savefig(Path(__file__).parent / "pictures" / "reading.png", dpi=130)


if __name__ == "__main__":
    main()
