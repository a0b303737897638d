"""Draw docs/architecture.md's picture by running its steps one after the other: python docs/architecture.py.

What is drawn is what the code gives: the reader's prompts, the engine's pack and states, the model's vectors.

Shapes: B texts, T tokens of the pack, P pooled tokens of the pack, D width of the model.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

import echoembed
from echoembed.engine import PackedEngine
from echoembed.engine.pack import lay_out
from echoembed.model import transformer_of

TEXTS = ["Birds sing.", "The old man feeds the birds.", "Rain fell on the hills."]
PROMPT, FIRST_COPY, SECOND_COPY = "#e9ecef", "#f3d9c9", "#2a6f97"
NUMBERS = 64
"""Numbers of each state and vector that are drawn."""


def width(token: str) -> float:
    """How wide a token's box is."""
    return len(token) + 1.2


def token_row(axes: Axes, row: float, tokens: list[str], colours: list[str]) -> None:
    """Draw tokens as boxes from left to right."""
    start = 0.0
    for token, colour in zip(tokens, colours, strict=True):
        axes.add_patch(Rectangle((start, row + 0.08), width(token) - 0.25, 0.8, color=colour, linewidth=0))
        ink = "white" if colour == SECOND_COPY else "#333333"
        axes.text(start + width(token) / 2 - 0.12, row + 0.5, token, ha="center", va="center", fontsize=5, color=ink)
        start += width(token)


def heatmap(axes: Axes, values_ND: np.ndarray, names: list[str]) -> None:
    """Draw numbers, scaled to the largest."""
    limit = float(np.abs(values_ND).max())
    axes.imshow(values_ND, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xticks([])


def main() -> None:
    """Write ``pictures/architecture.png``."""
    model = echoembed.load("tiny")
    transformer = transformer_of(model)

    prompts = transformer.reader.render(TEXTS)
    colours = []
    for prompt in prompts:
        start, stop = prompt.span
        copy = prompt.ids[start:stop]
        first = next(place for place in range(start) if prompt.ids[place : place + len(copy)] == copy)
        of_prompt = [PROMPT] * len(prompt.ids)
        of_prompt[first : first + len(copy)] = [FIRST_COPY] * len(copy)
        of_prompt[start:stop] = [SECOND_COPY] * len(copy)
        colours.append(of_prompt)
    tokens = [[transformer.pieces.token(id_).replace("Ġ", "") for id_ in prompt.ids] for prompt in prompts]

    engine = PackedEngine(causal=True)
    prefix = prompts[0].prefix
    ((order, states_PD),) = engine.run(transformer.model, prompts)
    layout = lay_out(prompts, list(order), prefix)
    pack = tokens[0][:prefix] + [token for index in order for token in tokens[index][prefix:]]
    pack_colours = colours[0][:prefix] + [colour for index in order for colour in colours[index][prefix:]]
    assert len(pack) == len(layout.ids)
    vectors_BD = model.encode(TEXTS)

    widest = sum(map(width, pack))
    figure, axes = plt.subplots(
        5, 1, figsize=(13, 9.2), layout="constrained", gridspec_kw={"height_ratios": [1.5, 1.9, 0.9, 3.6, 1.3]}
    )
    titles = [
        "1  texts: what the user gives, checked (prompts/text.py)",
        "2  prompts: the reader fills the recipe's template with each text, twice (prompts/reader.py)",
        f"3  pack: {sum(map(len, tokens))} tokens become {len(pack)}: no padding, the constant beginning once "
        "(engine/pack.py)",
        f"4  states: one for each of the {len(states_PD)} tokens of the second copies, {NUMBERS} of "
        f"{states_PD.shape[1]} numbers drawn (engine/engine.py)",
        "5  vectors: each text's states averaged and scaled to length 1 (sentence-transformers)",
    ]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left", fontsize=10)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.tick_params(length=0)
    for axis, rows in zip(axes[:3], (len(TEXTS), len(TEXTS), 1), strict=True):
        axis.set(xlim=(0, widest), ylim=(rows, 0), xticks=[], yticks=[])

    for row, text in enumerate(TEXTS):
        axes[0].text(0.2, row + 0.45, f"“{text}”", va="center", fontsize=9)
        token_row(axes[1], row, tokens[row], colours[row])
    token_row(axes[2], 0, pack, pack_colours)
    heatmap(axes[3], states_PD[:, :NUMBERS].float().numpy(), [pack[place] for place in layout.pooled.tolist()])
    for row in np.cumsum([len(prompts[index].ids[slice(*prompts[index].span)]) for index in order])[:-1]:
        axes[3].axhline(row - 0.5, color="white", linewidth=3)
    heatmap(axes[4], vectors_BD[:, :NUMBERS], [f"“{text}”" for text in TEXTS])
    legend = [
        Patch(color=PROMPT, label="template"),
        Patch(color=FIRST_COPY, label="first copy"),
        Patch(color=SECOND_COPY, label="second copy: the pooled span"),
    ]
    axes[1].legend(handles=legend, loc="center right", frameon=False, fontsize=8)
    figure.savefig(Path(__file__).parent / "pictures" / "architecture.png", dpi=140)


if __name__ == "__main__":
    main()
