"""Running experiments; an experiment that is finished with the same key does not run again."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from echoembed import errors, plots
from echoembed.experiments import (
    copies,
    cost,
    figure2,
    figure3,
    figure4,
    figure6,
    figure13,
    finetuned,
    interval,
    layers,
    table1,
    table2,
    table3,
    table4,
)
from echoembed.experiments.experiment import Bench, Experiment, Plan, Setting, Summary, machine, planned_work
from echoembed.experiments.results import Row, read_rows, write_rows
from echoembed.experiments.sets import sets_line, sizes_of
from echoembed.progress import shown_time

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        figure2.EXPERIMENT,
        table1.EXPERIMENT,
        interval.EXPERIMENT,
        table2.EXPERIMENT,
        table3.EXPERIMENT,
        table4.EXPERIMENT,
        figure3.EXPERIMENT,
        figure4.EXPERIMENT,
        figure4.FINE_TUNED_EXPERIMENT,
        figure6.EXPERIMENT,
        layers.EXPERIMENT,
        copies.EXPERIMENT,
        cost.EXPERIMENT,
        *finetuned.EXPERIMENTS,
        figure13.EXPERIMENT,
    )
}
"""Name → experiment, in the order in which ``all`` runs them."""
_LIBRARIES = ("echoembed", "torch", "transformers", "sentence-transformers", "mteb", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Result:
    """The result of one experiment."""

    experiment: Experiment
    summary: Summary | None = None
    about: dict[str, Any] = field(default_factory=dict)
    reused: bool = False
    missing: str = ""
    """What the experiment lacks, if it could not run."""
    pictures: Sequence[Path] = ()
    error: Exception | None = None


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names; ``all`` for all.

    Raises:
        ExperimentError: If there is no experiment of a name.
    """
    if "all" in names:
        return list(EXPERIMENTS.values())
    by_name = {alias: experiment for experiment in EXPERIMENTS.values() for alias in experiment.aliases} | EXPERIMENTS
    for name in names:
        if name not in by_name:
            raise errors.ExperimentError.unknown_name("experiment", name, ["all", *by_name])
    return list({by_name[name].name: by_name[name] for name in names}.values())


def reproduce(names: Sequence[str], setting: Setting, *, say: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Run experiments, store their rows and draw their pictures.

    If an experiment fails, the others still run, and its result carries the error.

    Args:
        names: Names of experiments, or ``all``.
        setting: The models, data and options.
        say: Called with lines of progress.

    Raises:
        ExperimentError: If there is no experiment of a name.
    """
    experiments = find_experiments(names)
    bench = Bench(setting, say=say)
    results = []
    plans: dict[str, Plan | Exception] = {}
    for experiment in experiments:
        plans[experiment.name] = _planned(experiment, bench)
    for planned in plans.values():
        if isinstance(planned, Plan) and not planned.needs:
            bench.progress.expect(planned_work(planned))
    for experiment in experiments:
        planned = plans[experiment.name]
        if isinstance(planned, Exception):
            results.append(Result(experiment, error=planned))
        elif planned.needs:
            results.append(Result(experiment, missing=planned.needs))
        else:
            say(f"{experiment.name}: {experiment.title}")
            try:
                results.append(_finish(experiment, planned, bench))
            except Exception as error:  # whatever the error, the other experiments still run
                results.append(Result(experiment, error=error))
    return results


def _planned(experiment: Experiment, bench: Bench) -> Plan | Exception:
    try:
        return experiment.plan(bench)
    except Exception as error:  # reported when it is the experiment's turn
        return error


def _finish(experiment: Experiment, plan: Plan, bench: Bench) -> Result:
    out = bench.setting.out
    path = out / f"{experiment.name}.parquet"
    key = bench.key(experiment, plan)
    stored = read_rows(path)
    reused = stored is not None and stored[1].get("key") == key["key"]
    if stored is not None and reused:
        rows, about = stored
        bench.progress.done(planned_work(plan), f"{experiment.name}: finished before")
    else:
        started = time.monotonic()
        rows = experiment.run(bench, plan)
        about = {**key, **_circumstances(bench), "seconds": round(time.monotonic() - started, 1)}
        for picture in _files(out / experiment.name):  # an old one must not stand beside new rows if drawing fails
            picture.unlink(missing_ok=True)
        write_rows(path, rows, about)
    pictures = _pictures(experiment, rows, out / experiment.name)
    summary = experiment.summary(rows)
    sets = sets_line(sizes_of(about["tasks"])) if about["tasks"] else ""
    if sets and not any(sets in note for note in summary.notes):
        summary = replace(summary, notes=[*summary.notes, sets])
    return Result(experiment, summary, about, reused, pictures=pictures)


def _files(stem: Path) -> list[Path]:
    return [stem.with_suffix(suffix) for suffix in (".png", ".svg")]


def _pictures(experiment: Experiment, rows: list[Row], stem: Path) -> Sequence[Path]:
    """Draw the pictures of these rows where they are missing."""
    if experiment.plot is None:
        return ()
    files = _files(stem)
    if all(path.is_file() and path.stat().st_size for path in files):
        return files
    return plots.save(experiment.plot(rows), stem)


def _circumstances(bench: Bench) -> dict[str, Any]:
    return {
        "quick": bench.setting.quick,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
    }


def shown_seconds(result: Result) -> str:
    """Say how long an experiment took, and whether it was finished before."""
    taken = shown_time(result.about.get("seconds", 0))
    return f"finished before, in {taken}" if result.reused else taken
