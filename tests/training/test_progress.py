"""Reading rows is spoken of where somebody looks and it takes a while, and leaves the terminal free after it."""

import io

import pytest
from rich.console import Console

from echoembed.training import progress
from echoembed.training.rows import ReadRows


def terminal(*, is_terminal=True):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=80)


@pytest.mark.parametrize(
    ("console", "patience", "wanted"),
    [(terminal(), 0.0, True), (terminal(), 60.0, False), (terminal(is_terminal=False), 0.0, False)],
    ids=["long", "short", "no terminal"],
)
def test_a_long_reading_is_spoken_of_on_a_terminal(monkeypatch, console, patience, wanted):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
    with progress.reading_rows(console) as report:
        report(ReadRows(name="quora", rows=12_345))
    assert ("reading quora: 12,345 rows" in console.file.getvalue()) == wanted
    with console.status("another"):  # which rich refuses while one is up
        pass


def test_nowhere_is_a_place_too():
    with progress.reading_rows(None) as report:
        report(ReadRows(name="quora", rows=1))
