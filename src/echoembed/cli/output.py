"""The output of the command line: results on standard output, messages on standard error, each on one line."""

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
    """Return a message without line breaks and control characters."""
    return "".join(char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in message)


def fail(message: str) -> None:
    """Print an error."""
    typer.echo(f"error: {one_line(message)}", err=True)


def warn(message: str) -> None:
    """Print a warning."""
    typer.echo(f"warning: {one_line(message)}", err=True)


def note(message: str) -> None:
    """Print a note on what was done."""
    typer.echo(one_line(message), err=True)


@contextlib.contextmanager
def kept(what: str | Callable[[], str]) -> Iterator[None]:
    """Say what was kept if the work in the block is interrupted or terminated."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        error.add_note(one_line(what if isinstance(what, str) else what()))
        raise


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Turn errors of writing standard output, such as a full disk, into our own.

    Raises:
        FileError: If standard output cannot be written.
    """
    if sys.stdout is None:
        raise errors.result_unwritable("it is closed")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe may close it at any time
        raise
    except OSError as error:
        let_go_of_standard_output()
        raise errors.result_unwritable(reason_of(error)) from error


def let_go_of_standard_output() -> None:
    """Discard what could not be written, as the interpreter would try to write it again when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: object) -> None:
    """Print a result as JSON, in UTF-8 whatever the terminal's encoding."""
    with printing():
        typer.echo((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), nl=False)


def print_line(line: str) -> None:
    """Print a line of a result."""
    with printing():
        typer.echo(line)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 text`` or ``2,000 texts``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def cut(texts: int, tokens: int) -> str:
    """Say how many texts were cut, and how many of their tokens were not read."""
    are = ["was" if count == 1 else "were" for count in (texts, tokens)]
    return f"{counted(texts, 'text')} {are[0]} over the budget: {counted(tokens, 'token')} {are[1]} not read."


def short(text: str, limit: int = 60) -> str:
    """Shorten a text to a label on one line."""
    line = " ".join(one_line(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def console() -> Console:
    """Return a console for plain text on standard output, with unlimited width for a file or a pipe."""
    from rich.console import Console

    return Console(
        markup=False, highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else NO_WIDTH
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table; the columns named in ``right`` hold numbers."""
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
    """Print names and values, a line each; blanks and line breaks in values are made visible."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print_line(f"{name.replace('_', ' '):<{width}}  {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value if value and value == one_line(value).strip() else repr(value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
