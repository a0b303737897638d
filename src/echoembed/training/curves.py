"""Pictures of a run: its loss, its gradient's norm and its scores over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed import plots
from echoembed.files import whole_file
from echoembed.training.run_folder import LOG, SCORES, read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 0.05
"""The share of the steps over which the smooth line averages."""
_SHADES = ("#0b6e99", "#c4541c", "#5b8c3a", "#7a4fa3", "#b8860b", "#2f4f4f", "#a0306a", "#666666")


def draw(folder: Path) -> list[Path]:
    """Draw ``loss.png`` and ``scores.png`` from the run's logs; a picture without a log is left out.

    Args:
        folder: The run's folder.

    Returns:
        The pictures' paths.

    Raises:
        LibraryError: If matplotlib is not installed.
        FileError: If a picture cannot be written.
    """
    log, scores = read_lines(folder / LOG), read_lines(folder / SCORES)
    figures = {}
    if log:
        figures["loss.png"] = loss_figure(log)
    if scores:
        figures["scores.png"] = scores_figure(scores)
    for name, figure in figures.items():
        with whole_file(folder / name, overwrite=True) as handle:
            figure.savefig(handle, format="png", dpi=110, metadata={"Software": None})
    return [folder / name for name in figures]


def loss_figure(log: list[dict[str, Any]]) -> Figure:
    """Draw each data set's loss, a dot per step and a smooth line, above the gradient's norm."""
    figure, (top, bottom) = plots.figure(
        "Training", rows=2, height=5.2, sharex=True, gridspec_kw={"height_ratios": [2, 1]}
    )
    names = list(dict.fromkeys(line["data_set"] for line in log))
    for number, name in enumerate(names):
        lines = [line for line in log if line["data_set"] == name]
        shade = _SHADES[number % len(_SHADES)]
        steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
        top.plot(steps, losses, ".", markersize=3, alpha=0.25, color=shade)
        top.plot(steps, _smooth(losses), color=shade, linewidth=1.5, label=name)
    top.set_ylabel("loss")
    if len(names) <= 2 * len(_SHADES):
        top.legend(fontsize=7, ncols=1 + len(names) // 8)
    steps, norms = [line["step"] for line in log], [line["gradient_norm"] for line in log]
    bottom.plot(steps, norms, ".", markersize=3, alpha=0.25, color=plots.COLOURS["other"])
    bottom.plot(steps, _smooth(norms), color=plots.COLOURS["other"], linewidth=1.5)
    bottom.set(xlabel="steps", ylabel="gradient's norm")
    if min(norms) > 0:
        plots.logarithmic_y(bottom)
    return figure


def scores_figure(scores: list[dict[str, Any]]) -> Figure:
    """Draw a line for each task, and their mean."""
    figure, (axis,) = plots.figure("Scores over the steps of training")
    tasks = list(dict.fromkeys(line["task"] for line in scores))
    for number, task in enumerate(tasks):
        lines = [line for line in scores if line["task"] == task]
        axis.plot(
            [line["step"] for line in lines],
            [100 * line["score"] for line in lines],
            marker="o",
            markersize=3,
            linewidth=1,
            color=_SHADES[number % len(_SHADES)],
            label=task,
        )
    if len(tasks) > 1:
        steps = sorted({line["step"] for line in scores})
        by_step = {step: [100 * line["score"] for line in scores if line["step"] == step] for step in steps}
        means = {step: sum(values) / len(values) for step, values in by_step.items() if len(values) == len(tasks)}
        axis.plot(list(means), list(means.values()), "k", linewidth=2, label="mean")
    axis.set(xlabel="steps", ylabel="score × 100")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _smooth(values: list[float]) -> list[float]:
    """Average each value with its neighbours in a window, which narrows towards both ends."""
    half = max(1, round(WINDOW * len(values) / 2))
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        means.append(sum(window) / len(window))
    return means
