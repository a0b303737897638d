"""Pictures of a run: its loss and gradient, and its scores, over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed import errors, plots
from echoembed.files import reason_of
from echoembed.training.run_folder import LOG, SCORES, read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 0.05
"""Share of the steps over which the smooth line averages."""
_SHADES = ("#0b6e99", "#c4541c", "#5b8c3a", "#7a4fa3", "#b8860b", "#2f4f4f", "#a0306a", "#666666")


def draw(folder: Path) -> list[Path]:
    """Draw ``loss.png`` and ``scores.png`` from what the run has logged; what it has not is left out.

    Args:
        folder: The run's.

    Returns:
        The pictures.

    Raises:
        LibraryError: If matplotlib is not installed.
        FileError: If they cannot be written.
    """
    log, scores = read_lines(folder / LOG), read_lines(folder / SCORES)
    drawn = {}
    if log:
        drawn["loss.png"] = loss_figure(log)
    if scores:
        drawn["scores.png"] = scores_figure(scores)
    for name, figure in drawn.items():
        try:
            figure.savefig(folder / name, dpi=110, metadata={"Software": None})
        except OSError as error:
            raise errors.training_output_unwritable(folder / name, reason_of(error)) from error
    return [folder / name for name in drawn]


def loss_figure(log: list[dict[str, Any]]) -> Figure:
    """Loss of each data set, a dot per step and a smooth line, above the gradient's norm."""
    figure, (top, bottom) = plots.figure(
        "Training", rows=2, height=5.2, sharex=True, gridspec_kw={"height_ratios": [2, 1]}
    )
    names = list(dict.fromkeys(line["data_set"] for line in log))
    for number, name in enumerate(names):
        own = [line for line in log if line["data_set"] == name]
        shade = _SHADES[number % len(_SHADES)]
        steps, losses = [line["step"] for line in own], [line["loss"] for line in own]
        top.plot(steps, losses, ".", markersize=3, alpha=0.25, color=shade)
        top.plot(steps, _smooth(losses), color=shade, linewidth=1.5, label=name)
    top.set_ylabel("loss")
    if len(names) <= 2 * len(_SHADES):
        top.legend(fontsize=7, ncols=1 + len(names) // 8)
    steps, norms = [line["step"] for line in log], [line["gradient_norm"] for line in log]
    bottom.plot(steps, norms, ".", markersize=3, alpha=0.25, color=plots.COLOURS["other"])
    bottom.plot(steps, _smooth(norms), color=plots.COLOURS["other"], linewidth=1.5)
    bottom.set(xlabel="steps", ylabel="gradient's norm", yscale="log" if min(norms) > 0 else "linear")
    return figure


def scores_figure(scores: list[dict[str, Any]]) -> Figure:
    """A line per task, and their mean."""
    figure, (axis,) = plots.figure("Scores over the steps of training")
    tasks = list(dict.fromkeys(line["task"] for line in scores))
    for number, task in enumerate(tasks):
        own = [line for line in scores if line["task"] == task]
        axis.plot(
            [line["step"] for line in own],
            [100 * line["score"] for line in own],
            marker="o",
            markersize=3,
            linewidth=1,
            color=_SHADES[number % len(_SHADES)],
            label=task,
        )
    if len(tasks) > 1:
        steps = sorted({line["step"] for line in scores})
        whole = {step: [100 * line["score"] for line in scores if line["step"] == step] for step in steps}
        kept = {step: values for step, values in whole.items() if len(values) == len(tasks)}
        axis.plot(list(kept), [sum(values) / len(values) for values in kept.values()], "k", linewidth=2, label="mean")
    axis.set(xlabel="steps", ylabel="score × 100")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _smooth(values: list[float]) -> list[float]:
    """Means of the values about each, as many as there are towards the ends."""
    half = max(1, round(WINDOW * len(values) / 2))
    out = []
    for place in range(len(values)):
        near = min(half, place, len(values) - 1 - place)
        window = values[place - near : place + near + 1]
        out.append(sum(window) / len(window))
    return out
