"""The picture of ``echoembed compare``: a matrix of cosines for each recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from echoembed import errors, versions
from echoembed.cli.output import short
from echoembed.files import check_free, whole_file

SUFFIXES = (".png", ".svg", ".pdf")
NUMBERS_UP_TO = 12


def check_heatmap(path: Path, *, overwrite: bool) -> None:
    """Refuse a picture that could not be drawn, before any work is done.

    Raises:
        FileError: If its suffix is unknown, or it exists and must not be overwritten.
        LibraryError: If matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise errors.output_unknown(path, SUFFIXES)
    check_free(path, overwrite=overwrite)
    versions.check("matplotlib", extra="plot", purpose="A heatmap")


def draw_heatmap(
    path: Path, texts: Sequence[str], matrices: Mapping[str, list[list[float]]], *, overwrite: bool
) -> None:
    """Draw the matrices side by side.

    Every recipe has its own colour scale, over its pairs of different texts, as recipes differ far more in the range of
    their cosines than in the order of the pairs.

    Raises:
        FileError: If the picture cannot be written.
    """
    from matplotlib.figure import Figure

    count = len(texts)
    side = min(2.2 + 0.45 * count, 9)
    labels = [_label(number, text, lines=3 if count <= NUMBERS_UP_TO else 1) for number, text in enumerate(texts, 1)]
    figure = Figure(figsize=(3.2 + (side + 0.9) * len(matrices), side + 0.9), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for index, (axis, (name, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
        pairs = [matrix[row][column] for row in range(count) for column in range(count) if row != column]
        low, high = min(pairs), max(max(pairs), min(pairs) + 1e-6)
        without_diagonal = [
            [value if r != c else float("nan") for c, value in enumerate(row)] for r, row in enumerate(matrix)
        ]
        image = axis.imshow(without_diagonal, cmap="viridis", vmin=low, vmax=high)
        axis.set_title(name, parse_math=False)
        axis.set_xticks(range(count), [str(number) for number in range(1, count + 1)])
        axis.set_yticks(range(count), labels if index == 0 else [""] * count, parse_math=False)
        if count <= NUMBERS_UP_TO:
            for row in range(count):
                for column in range(count):
                    value = matrix[row][column]
                    light = row != column and (value - low) / (high - low) < 0.6
                    color = "white" if light else "black"
                    axis.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=8)
        figure.colorbar(image, ax=axis, shrink=0.8, label="cosine" if index == len(matrices) - 1 else None)
    with whole_file(path, overwrite=overwrite) as handle:
        figure.savefig(handle, format=path.suffix.lower()[1:], dpi=150)


def _label(number: int, text: str, *, lines: int) -> str:
    """Make a label of a text, broken into lines and not cut, as compared texts often differ at their ends."""
    return textwrap.fill(f"{number}  {short(text, 400)}", 36, max_lines=lines, placeholder=" …")
