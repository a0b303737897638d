"""The results as one page, with the command, models and data behind every number."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.experiments.experiment import Setting, Summary
from echoembed.experiments.interval import interval_line
from echoembed.experiments.overview import PICTURES as FIRST_PAGE
from echoembed.experiments.overview import overview
from echoembed.experiments.reproduce import Result, shown_seconds
from echoembed.experiments.results import Row, read_rows
from echoembed.experiments.scoretable import NO_DATA
from echoembed.experiments.sets import sizes_of
from echoembed.files import reason_of, write_text
from echoembed.sources.packaged import BUNDLED

_HEAD = """# Results{of}

Made by `{command}`; all numbers and pictures on this page are its output. Scores are × 100, {sizes}. An interval
contains 95 of 100 bootstrap draws.

{model}

{overview}

{pictures}

## What was run

{facts}
"""
_TINY = (
    "These are results of the bundled model, which has a few million parameters and shows only that everything works. "
    "Models a thousand times larger may behave differently, and have far better scores. The paper's numbers are for "
    "other models and more data: compare only the order of the rows."
)
_OTHER = (
    "The paper's numbers are for models of 1.3 to 7 billion parameters, on MTEB: compare the order of the rows and the "
    "sign of differences, not the scores."
)


def write_report(path: Path, results: Sequence[Result], setting: Setting, command: str) -> None:
    """Write the page, and copy the pictures (PNG).

    Args:
        path: The page; its pictures go to ``pictures/PAGE/`` in its folder.
        results: From ``reproduce``.
        setting: The setting of the results.
        command: The command to show on the page.

    Raises:
        FileError: If the page or a picture cannot be written.
    """
    done = [result for result in results if result.summary is not None]
    pictures = Path("pictures", path.stem)
    try:
        (path.parent / pictures).mkdir(parents=True, exist_ok=True)
        parts = [_head(done, setting, command, path.parent, pictures)]
        for result in results:
            parts.append(_section(result, path.parent, pictures, setting))
    except OSError as error:
        raise errors.output_unwritable(path, reason_of(error)) from error
    write_text(path, "\n".join(parts))


def _head(done: Sequence[Result], setting: Setting, command: str, folder: Path, pictures: Path) -> str:
    rows = {result.experiment.name: stored[0] for result in done if (stored := _stored(result, setting))}
    first_page = [result for name in FIRST_PAGE for result in done if result.experiment.name == name]
    drawn = "\n\n".join(filter(None, (_picture(result, rows, folder, pictures) for result in first_page)))
    about = next((result.about for result in done if result.about.get("models")), {})
    of_main = [result.experiment.name for result in done if result.about.get("models")]  # not those of checkpoints
    fingerprints = _fingerprints([rows[name] for name in of_main if name in rows])
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    models = dict.fromkeys(name for result in done for name in result.about.get("models", []))
    facts = [
        ("models", ", ".join(models) or "-"),
        ("machine", about.get("machine", "-")),
        ("versions", versions or "-"),
        ("seed", str(setting.seed)),
        ("data", _data([result.about for result in done])),
        (
            "fingerprints",
            ", ".join(
                f"{name} `{fingerprints[name]}`"
                for name in ("echo", "echo-compute-matched", "classical", "classical-bidirectional", "prompteol")
                if name in fingerprints
            )
            or "-",
        ),
    ]
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in facts)]
    model = _TINY if setting.models[0] == BUNDLED else _OTHER
    tiny = setting.models[0] == BUNDLED
    sizes = "on samples of the data sets that each table names" if setting.quick else "on whole data sets"
    if setting.quick and setting.whole_sts:
        sizes += "; interval, figure6, layers, copies and cost have every pair of their STS sets"
    claims = overview(rows)
    return _HEAD.format(
        of=" of the bundled model" if tiny else "",
        command=command,
        sizes=sizes,
        model=model,
        overview=markdown(claims) if claims.rows else "",
        pictures=drawn,
        facts="\n".join(lines),
    )


def _fingerprints(tables: Sequence[list[Row]]) -> dict[str, str]:
    """Return the fingerprints of the main model's recipes, as ``echoembed info`` prints them, from rows of scores."""
    tables = [rows for rows in tables if rows and {"fingerprint", "recipe", "model"} <= rows[0].keys()]
    main = next((rows[0]["model"] for rows in tables), None)
    scored = [row for rows in tables for row in rows if row["model"] == main and row["fingerprint"]]
    return {row["recipe"]: row["fingerprint"] for row in scored}


def _stored(result: Result, setting: Setting) -> tuple[list[Row], dict[str, Any]] | None:
    return read_rows(setting.out / f"{result.experiment.name}.parquet")


def _picture(result: Result, rows: Mapping[str, list[Row]], folder: Path, pictures: Path) -> str:
    """Copy a picture, and return its line of Markdown; "" if there is no picture with our own numbers."""
    experiment = result.experiment
    picture = next((path for path in result.pictures if path.suffix == ".png"), None)
    if picture is None or _only_the_papers(rows.get(experiment.name, [])):
        return ""
    shutil.copyfile(picture, folder / pictures / picture.name)
    return f"![{experiment.title}]({(pictures / picture.name).as_posix()})"


def _data(abouts: Sequence[Mapping[str, Any]]) -> str:
    """Name every data set of the results, with the hash of its files and how much of it they used."""
    digests: dict[str, str] = {}
    sizes: dict[str, list[str]] = {}
    for about in abouts:
        for name, most in sizes_of(about.get("tasks", {})).items():
            digests[name] = about["tasks"][name][0]
            sizes.setdefault(name, []).append("all" if most is None else f"at most {most} texts")
    used = {name: " or ".join(dict.fromkeys(listed)) for name, listed in sizes.items()}
    return ", ".join(f"{name} `{digest[:8]}` ({used[name]})" for name, digest in digests.items()) or "-"


def _section(result: Result, folder: Path, pictures: Path, setting: Setting) -> str:
    experiment = result.experiment
    lines = [f"## {experiment.name}: {experiment.title}", "", f"{experiment.source}.", ""]
    if result.missing:
        missing = "local data" if result.missing == NO_DATA else result.missing
        return "\n".join([*lines, f"Not run: needs {missing}.", ""])
    if result.error is not None or result.summary is None:
        return "\n".join([*lines, f"Failed: {type(result.error).__name__}: {result.error}", ""])
    stored = _stored(result, setting)
    if experiment.name == "interval" and stored:
        lines += [f"**{interval_line(stored[0])}**", ""]
    if experiment.name not in FIRST_PAGE:
        picture = _picture(result, {experiment.name: stored[0]} if stored else {}, folder, pictures)
        lines += [picture, ""] if picture else []
    lines += [markdown(result.summary), ""]
    taken = shown_seconds(result)
    lines += [*(f"- {note}" for note in result.summary.notes), f"- Key `{result.about['key']}`; {taken}.", ""]
    return "\n".join(lines)


def _only_the_papers(rows: Sequence[Row]) -> bool:
    """Return whether all numbers are the paper's."""
    return bool(rows) and all("ours" in row and row["ours"] is None for row in rows)


def markdown(summary: Summary) -> str:
    """Return the table in Markdown, with numbers aligned to the right."""
    numbers = [
        all(row[place].lstrip("+-").replace(".", "").isdigit() or row[place] == "-" for row in summary.rows)
        for place in range(len(summary.columns))
    ]
    rule = ["---:" if number else "---" for number in numbers]
    rows = [summary.columns, rule, *summary.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
