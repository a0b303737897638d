"""``echoembed data``: the data sets of our results, checked against their hashes and built where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out

if TYPE_CHECKING:
    from echoembed.evaluation.manifest import DataSet

EPILOG = opt.examples(
    "echoembed data my-data",
    "echoembed data my-data sts banking77",
    "echoembed data my-data --check --json",
)


_FAULTS = {"differs": "differs from the manifest", "unreadable": "cannot be read"}


def data(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the data sets.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Data sets or kinds, such as sts13 and pair. Default: all."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check only; fetch nothing.")] = False,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Build the data sets that our results use, check the files that exist, and say what is missing.

    A file is fetched from its authors' public repository at a fixed revision, converted, and kept if its hash is the
    one in the manifest. Existing files are never changed. Mind each data set's licence: some forbid commercial use.
    The exit code is 1 if a requested file is missing or wrong.
    """
    from echoembed import errors
    from echoembed.evaluation import manifest
    from echoembed.files import folder_of, lookup

    folder = lookup(folder)
    if folder.exists() and folder_of(folder) is None:
        raise errors.data_folder_missing(folder)
    sets = manifest.chosen(names or [])
    reports: list[tuple[DataSet, dict[str, str], str]] = []
    offline = False
    for data_set in sets:
        states: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for file in data_set.files:
            states[file.path] = manifest.state(folder, data_set, file)
            if states[file.path] == "missing" and file.form and not check:
                if not quiet and not offline:
                    out.note(f"fetching {data_set.name}/{file.path}")
                # If one file cannot be reached, do not wait for each of the others.
                reasons[file.path] = (
                    manifest.NOT_REACHED if offline else manifest.build(folder, data_set, file, manifest.fetched)
                )
                offline = reasons[file.path] == manifest.NOT_REACHED
                states[file.path] = "missing" if reasons[file.path] else "there"
        reports.append((data_set, states, next(filter(None, reasons.values()), "")))
    if json:
        out.print_json(
            [
                {
                    "name": data_set.name,
                    "files": states,
                    "reason": reason,
                    "origin": data_set.origin,
                    "revision": data_set.revision,
                }
                for data_set, states, reason in reports
            ]
        )
    else:
        _print(reports, check=check)
    if any(state != "there" for _, states, _ in reports for state in states.values()):
        raise typer.Exit(1)


def _print(reports: list[tuple[DataSet, dict[str, str], str]], *, check: bool) -> None:
    rows = []
    for data_set, states, reason in reports:
        seen = list(states.values())
        if all(state == "there" for state in seen):
            text = "there"
        elif any(state in _FAULTS for state in seen):
            faults = {state: ", ".join(path for path, found in states.items() if found == state) for state in _FAULTS}
            text = "; ".join(f"{_FAULTS[state]}: {paths}" for state, paths in faults.items() if paths)
        else:
            lacking = seen.count("missing")
            missing = "missing" if lacking == len(seen) else f"{lacking} of {len(seen)} files missing"
            by_hand = "not built here: convert it by hand"
            text = f"{missing}; {reason or ('can be built' if check and data_set.built else by_hand)}"
        rows.append(
            [data_set.name, f"{data_set.rows:,}", text, f"{data_set.origin}@{data_set.revision[:10]}", data_set.licence]
        )
    out.print_table(["data set", "rows", "state", "origin", "licence"], rows, right=["rows"])
    good = sum(state == "there" for _, states, _ in reports for state in states.values())
    out.print_line(f"{good} of {sum(len(states) for _, states, _ in reports)} files are there and as they should be.")
