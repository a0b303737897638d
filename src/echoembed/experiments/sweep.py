"""The common parts of experiments that draw scores against a number, such as a layer, a budget or a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from echoembed import plots
from echoembed.experiments.results import Row, distinct, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def mean_score(rows: Sequence[Row], **equal: object) -> float:
    """Return the mean score × 100 of the rows in which these columns have these values."""
    return 100 * fmean(row["score"] for row in values(rows, **equal))


def table(rows: Sequence[Row], *, by: str, x: str, at: Sequence[object]) -> list[list[str]]:
    """Return a row for each value of the column ``by``, with its mean score at every value of the column ``x``."""
    return [
        [str(name), *(f"{mean_score(rows, **{by: name, x: place}):.2f}" for place in at)] for name in distinct(rows, by)
    ]


def panels(
    groups: Mapping[str, Sequence[Row]], *, title: str, by: str, x: str, xlabel: str
) -> tuple[Figure, list[Axes]]:
    """Draw a panel for each group of rows, with a curve for each value of the column ``by``; four panels in a line."""
    lines = -(-len(groups) // 4)
    columns = -(-len(groups) // lines)
    figure, axes = plots.figure(
        title, columns=columns, rows=lines, width=3.1 * columns + 0.2, height=0.4 + 3.2 * lines, sharey=True
    )
    for axis, (name, rows) in zip(axes, groups.items(), strict=False):
        curves(axis, rows, by=by, x=x)
        axis.set(title=name, xlabel=xlabel)
    for axis in axes[::columns]:
        axis.set_ylabel("score × 100")
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    return figure, axes[: len(groups)]


def curves(axis: Axes, rows: Sequence[Row], *, by: str | None, x: str, **style: Any) -> None:
    """Draw the mean score at every value of ``x``: a curve for each value of the column ``by``, or one for all rows."""
    for name in distinct(rows, by) if by else [None]:
        curve_rows = values(rows, **{by: name}) if by else rows
        places = sorted(distinct(curve_rows, x))
        scores = [mean_score(curve_rows, **{x: place}) for place in places]
        colour = plots.colour(str(name))  # recipes have colours; tasks take matplotlib's in turn
        usual = {"label": name, **({"color": colour} if colour != plots.COLOURS["other"] else {})}
        axis.plot(places, scores, **{"marker": "o", "markersize": 4, **usual, **style})
