"""How the command line speaks: results on standard output, all else on standard error, a line each."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from echoembed import errors
from echoembed.files import reason_of

if TYPE_CHECKING:
    from rich.console import Console

NO_WIDTH = 10_000


def one_line(message: str) -> str:
    """The message without line breaks or control characters."""
    return "".join(char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in message)


def fail(message: str) -> None:
    """Say what is wrong."""
    typer.echo(f"error: {one_line(message)}", err=True)


def warn(message: str) -> None:
    """Say what may be wrong."""
    typer.echo(f"warning: {one_line(message)}", err=True)


def note(message: str) -> None:
    """Say what was done."""
    typer.echo(one_line(message), err=True)


@contextlib.contextmanager
def kept(what: str | Callable[[], str]) -> Iterator[None]:
    """If the work in the block is interrupted, or asked to end, say what was kept of it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        error.add_note(what if isinstance(what, str) else what())
        raise


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Name what keeps standard output from being written, such as a full disk.

    Raises:
        FileError: If it cannot be written.
    """
    if sys.stdout is None:
        raise errors.stream_unwritable("it is closed")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the pipe may stop at any time
        raise
    except OSError as error:
        let_go_of_standard_output()
        raise errors.stream_unwritable(reason_of(error)) from error


def let_go_of_standard_output() -> None:
    """Drop what could not be written: the interpreter would try once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: object) -> None:
    """The machine-readable form of a result: UTF-8 whatever the terminal's encoding."""
    with printing():
        typer.echo((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), nl=False)


def print_line(line: str) -> None:
    """A line of a result, as it is."""
    with printing():
        typer.echo(line)


def short(text: str, limit: int = 60) -> str:
    """A text as a label: on one line, cut."""
    line = " ".join(one_line(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def console() -> Console:
    """Standard output for plain text, without markup; of unlimited width where it is a file or a pipe."""
    from rich.console import Console

    return Console(
        markup=False, highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else NO_WIDTH
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table; the columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    with printing():
        console().print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, a line each; blanks and line breaks in values are made visible."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print_line(f"{name.replace('_', ' '):<{width}}  {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value if value and value == one_line(value).strip() else repr(value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
