"""One style for all figures, and saving them as PNG and SVG, both reproducible byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed import versions
from echoembed.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "local-llm-embed": "#a07b00",
    "MiniLM": "#3c3c3c",
    "prompteol-bag": "#3d2758",
    "bag-of-words": "#9a9a9a",
    "echo-deep": "#063b53",
    "mntp": "#dc9dbe",
    "llm2vec": "#b8457e",
    "bidirectional": "#5b8c3a",
    "compute-matched": "#7fb8d1",
    "echo": "#0b6e99",
    "classical": "#c4541c",
    "prompteol": "#7a4fa3",
    "other": "#666666",
}
"""Part of a system's name → its colour in all figures; the first part that occurs in a name counts."""
LEFT_OUT = ("echo-compute-matched", "local-llm-embed, prefix+whiten")
"""Systems that figures leave out because their points cover those of others; tables show them."""
PAPER: dict[str, Any] = {"marker": "D", "color": "black", "s": 26, "zorder": 5}
"""The mark of a number from the paper."""
_STYLE: Any = {
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "echoembed",
}


def colour(name: str) -> str:
    """Return the colour of a recipe or system, by its name."""
    return next((value for key, value in COLOURS.items() if key.lower() in name.lower()), COLOURS["other"])


def figure(
    title: str, *, columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 3.6, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make an empty figure; returns it with its axes, in reading order.

    Raises:
        LibraryError: If matplotlib is not installed.
    """
    with versions.needed("matplotlib", extra="plot", purpose="Drawing"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
    mpl.rcParams.update(_STYLE)
    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False, **options)
    drawn.suptitle(title, fontsize=11)
    return drawn, [axis for row in axes for axis in row]


def bars(axis: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], *, label: str) -> None:
    """Draw grouped bars, one series per recipe; missing values leave a gap."""
    wide = 0.8 / max(len(series), 1)
    for number, (name, heights) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * wide for place in range(len(groups))]
        axis.bar(
            places,
            [0 if height is None else height for height in heights],
            width=wide * 0.94,
            label=name,
            color=colour(name),
            alpha=1.0 if _first_of_colour(name, list(series)) else 0.55,
        )
    axis.set_xticks(range(len(groups)), groups)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel(label)


def _first_of_colour(name: str, names: Sequence[str]) -> bool:
    return next(other for other in names if colour(other) == colour(name)) == name


def logarithmic_y(axis: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at its ticks: formulas are not parsed in our pictures."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}" if high < 20 * low else "")  # over more, the labels would touch
    axis.tick_params(axis="y", which="minor", labelsize=7)


def named_points(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw points with their names beside them, in their colours; names that would overlap move up.

    Args:
        axis: The axes, whose limits must be set.
        points: x, y and name of each point.
    """
    tall, apart = 10.5, 4.0  # points of a line of text, and between a point and its name
    drawn: Any = axis.figure
    drawn.draw_without_rendering()  # places the axes finally
    scale = 72 / drawn.dpi
    places = [(*axis.transData.transform((x, y)) * scale, x, y, name) for x, y, name in points]
    occupied: list[tuple[float, float, float]] = []
    for left, low, x, y, name in sorted(places, key=lambda place: place[1]):
        wide = 4.6 * len(name)
        height = low - tall / 2
        while any(
            abs(height - other) < tall and left < right and start < left + wide for other, start, right in occupied
        ):
            height += 1
        occupied.append((height, left, left + wide))
        axis.scatter(x, y, color=colour(name), s=30, zorder=3)
        axis.annotate(
            name, (x, y), xytext=(apart, height - low), textcoords="offset points", fontsize=8, color=colour(name)
        )


def save(drawn: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``, each whole or not at all.

    Raises:
        FileError: If they cannot be written.
    """
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    with whole_file(paths[0], overwrite=True) as handle:
        drawn.savefig(handle, format="png", dpi=110, metadata={"Software": None})
    with whole_file(paths[1], overwrite=True) as handle:
        drawn.savefig(handle, format="svg", metadata={"Date": None, "Creator": None})
    return paths
