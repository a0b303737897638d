"""Figure 13: do scores rise over the steps of fine-tuning (appendix F)?

It takes a folder of models that ``echoembed.load`` loads, in folders whose names end in the number of steps, such as
``step-80`` or ``checkpoint-160``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from echoembed import errors
from echoembed.evaluation.run import evaluate
from echoembed.experiments import scoretable, sweep
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.results import Row, distinct, values
from echoembed.model.load import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def checkpoints(folder: Path | None) -> dict[int, Path]:
    """Return steps → folder, in the order of steps.

    Raises:
        ExperimentError: If two folders have the same number of steps.
    """
    if folder is None or not folder.is_dir():
        return {}
    folders: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (match := re.search(r"(\d+)$", path.name)):
            other = folders.setdefault(int(match[1]), path)
            if other != path:
                allowed = f"a folder with one model for each number of steps; {other.name!r} and {path.name!r} have one"
                raise errors.ExperimentError.bad_value("--checkpoints", str(folder), allowed)
    return dict(sorted(folders.items()))


def plan(bench: Bench) -> Plan:
    """Plan the checkpoints on the local tasks."""
    folders = checkpoints(bench.setting.checkpoints)
    needs = "" if folders else "--checkpoints FOLDER with folders whose names end in the number of steps"
    prints = {str(step): bench.identity(path) for step, path in folders.items()}
    return Plan(
        tasks=bench.tasks, settings={"checkpoints": prints}, needs=needs or ("" if bench.tasks else scoretable.NO_DATA)
    )


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each checkpoint and task."""
    rows: list[Row] = []
    for step, path in checkpoints(bench.setting.checkpoints).items():
        model = load(str(path), device=bench.setting.device, dtype=bench.setting.dtype)
        for score in evaluate(model, plan.tasks, store=bench.store, batch_size=bench.setting.batch_size):
            row = {"model": score.model, "recipe": score.recipe, "fingerprint": score.fingerprint}
            rows.append({**row, "step": step, "task": score.task, "kind": score.kind, "score": score.score})
        bench.progress.done(0, f"step {step}")
    return rows


def summary(rows: list[Row]) -> Summary:
    """Summarise the means of the categories by step."""
    steps = distinct(rows, "step")
    means = {step: scoretable.by_kind(values(rows, step=step)) for step in steps}
    columns = ["step", *means[steps[0]]]
    out = [[str(step), *(f"{value:.2f}" for value in means[step].values())] for step in steps]
    notes = [
        f"Scores × 100 of {rows[0]['model']}, fine-tuned under the recipe {rows[0]['recipe']}.",
        "The paper shows its curves only in a picture; for many tasks the scores fall.",
    ]
    return Summary(columns, out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw a line for each task, in panels by category."""
    figure, axes = sweep.panels(
        {scoretable.spaced(kind): values(rows, kind=kind) for kind in distinct(rows, "kind")},
        title=f"Scores during fine-tuning ({rows[0]['model']})",
        by="task",
        x="step",
        xlabel="steps",
    )
    for axis in axes:
        axis.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(
    name="figure13",
    title="Do scores rise during fine-tuning?",
    source="Figure 13, Appendix F",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
