"""Results as one page: every number made by the command, with what it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.experiments.experiment import Setting, Summary, called
from echoembed.experiments.interval import interval_line
from echoembed.experiments.overview import PICTURES as FIRST
from echoembed.experiments.overview import overview
from echoembed.experiments.reproduce import Result, shown_seconds
from echoembed.experiments.results import Row, read_rows
from echoembed.experiments.scoretable import NO_DATA
from echoembed.files import reason_of
from echoembed.sources.packaged import BUNDLED

_HEAD = """# Results{of}

Made by `{command}`; every number and picture on this page is its output. Scores are × 100; {sizes}. An interval holds
95 of 100 bootstrap draws.

{model}

{overview}

{pictures}

## What was run

{facts}
"""
_TINY = (
    "The model is the bundled one, of a few million parameters: it is there to show that everything works. What holds "
    "for it need not hold for models a thousand times larger, and its scores say nothing about the method's best. The "
    "paper's numbers beside ours belong to other models and to more data; only the order of rows can be compared."
)
_OTHER = (
    "The paper's numbers beside ours belong to models of 1.3 to 7 billion parameters, on MTEB: compare the order of "
    "rows and the sign of differences, not levels."
)


def write_report(path: Path, results: Sequence[Result], setting: Setting, command: str) -> None:
    """Write the page, and copy the pictures (PNG) beside it.

    Args:
        path: The page; pictures go to ``pictures/`` in its folder, in a folder of the page's name.
        results: From ``reproduce``.
        setting: What they were run on.
        command: The command that made them, as the page shows it.

    Raises:
        FileError: If it cannot be written.
    """
    done = [result for result in results if result.summary is not None]
    pictures = Path("pictures", path.stem)
    try:
        (path.parent / pictures).mkdir(parents=True, exist_ok=True)
        parts = [_head(done, setting, command, path.parent, pictures)]
        for result in results:
            parts.append(_section(result, path.parent, pictures, setting))
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        raise errors.output_unwritable(path, reason_of(error)) from error


def _head(done: Sequence[Result], setting: Setting, command: str, folder: Path, pictures: Path) -> str:
    kept = {result.experiment.name: found[0] for result in done if (found := _kept(result, setting))}
    first = [result for name in FIRST for result in done if result.experiment.name == name]
    shown = "\n\n".join(filter(None, (_picture(result, kept, folder, pictures) for result in first)))
    about = next((result.about for result in done if result.about.get("models")), {})
    recipes = {name: print_ for result in done for name, print_ in result.about.get("recipes", {}).items()}
    table1 = next((result.about for result in done if result.experiment.name == "table1"), {})
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    size = "samples" if setting.quick else "whole data sets"
    models = dict.fromkeys(_model(name) for result in done for name in result.about.get("models", []))
    facts = [
        ("models", ", ".join(models) or "-"),
        ("machine", about.get("machine", "-")),
        ("versions", versions or "-"),
        ("seed", str(setting.seed)),
        ("data", f"{size}: {_data(table1)}" if table1 else "-"),
        (
            "fingerprints",
            ", ".join(
                f"{name} `{recipes[name]}`"
                for name in ("echo", "echo-compute-matched", "classical", "classical-bidirectional", "prompteol")
                if name in recipes
            )
            or "-",
        ),
    ]
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in facts)]
    model = _TINY if setting.models[0] == BUNDLED else _OTHER
    tiny = setting.models[0] == BUNDLED
    sizes = "each table says of which samples" if setting.quick else "of whole data sets"
    claims = overview(kept)
    return _HEAD.format(
        of=" of the bundled model" if tiny else "",
        command=command,
        sizes=sizes,
        model=model,
        overview=markdown(claims) if claims.rows else "",
        pictures=shown,
        facts="\n".join(lines),
    )


def _model(identity: str) -> str:
    """A model's identity, its name as pages show it."""
    name, _, rest = identity.partition(" ")
    return f"{called(name)} {rest}".strip()


def _kept(result: Result, setting: Setting) -> tuple[list[Row], dict[str, Any]] | None:
    return read_rows(setting.out / f"{result.experiment.name}.parquet")


def _picture(result: Result, kept: Mapping[str, list[Row]], folder: Path, pictures: Path) -> str:
    """The picture's line, once it is copied; nothing where there is nothing of ours to show."""
    experiment = result.experiment
    picture = next((path for path in result.pictures if path.suffix == ".png"), None)
    if picture is None or _only_the_papers(kept.get(experiment.name, [])):
        return ""
    shutil.copyfile(picture, folder / pictures / picture.name)
    return f"![{experiment.title}]({(pictures / picture.name).as_posix()})"


def _data(about: dict[str, dict[str, list[str]]]) -> str:
    lines = []
    for name, (digest, *options) in about.get("tasks", {}).items():
        most = next((option for option in options if "max_texts" in option), "")
        count = "".join(char for char in most if char.isdigit())
        lines.append(f"{name} `{digest[:8]}`" + (f" (at most {count} texts)" if count else ""))
    return ", ".join(lines)


def _section(result: Result, folder: Path, pictures: Path, setting: Setting) -> str:
    experiment = result.experiment
    lines = [f"## {experiment.name}: {experiment.title}", "", f"{experiment.source}.", ""]
    if result.missing:
        shown = "needs local data" if result.missing == NO_DATA else f"needs {result.missing}"
        return "\n".join([*lines, f"Not run: {shown}.", ""])
    if result.error is not None or result.summary is None:
        return "\n".join([*lines, f"Failed: {type(result.error).__name__}: {result.error}", ""])
    kept = _kept(result, setting)
    if experiment.name == "interval" and kept:
        lines += [f"**{interval_line(kept[0])}**", ""]
    if experiment.name not in FIRST:
        picture = _picture(result, {experiment.name: kept[0]} if kept else {}, folder, pictures)
        lines += [picture, ""] if picture else []
    lines += [markdown(result.summary), ""]
    taken = shown_seconds(result)
    lines += [*(f"- {note}" for note in result.summary.notes), f"- Key `{result.about['key']}`; {taken}.", ""]
    return "\n".join(lines)


def _only_the_papers(rows: Sequence[Row]) -> bool:
    """Whether there is nothing of ours to show."""
    return bool(rows) and all("ours" in row and row["ours"] is None for row in rows)


def markdown(summary: Summary) -> str:
    """The table in Markdown, numbers to the right."""
    numbers = [
        all(row[place].lstrip("+-").replace(".", "").isdigit() or row[place] == "-" for row in summary.rows)
        for place in range(len(summary.columns))
    ]
    rule = ["---:" if number else "---" for number in numbers]
    rows = [summary.columns, rule, *summary.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
