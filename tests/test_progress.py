"""How far long work is, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from echoembed import progress
from echoembed.progress import Progress, shown_rate


class Stream(io.StringIO):
    """Standard error, of a terminal or of a file."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def now(monkeypatch):
    """A clock that goes only when it is told to."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def shown(monkeypatch, now, *, terminal: bool, steps, **options) -> str:
    stream = Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(lambda: 100, **options) as told:
        for seconds, done in steps:
            now[0] = seconds
            told(done)
    assert told.seconds == steps[-1][0]
    return stream.getvalue()


def test_elsewhere_there_is_a_line_now_and_then_with_the_time_left(monkeypatch, now):
    steps = [(second, second) for second in range(1, 51)]
    lines = shown(monkeypatch, now, terminal=False, steps=steps, what="embedding").splitlines()
    assert lines == [
        "embedding: 10 of 100 texts, 1 texts/s, 0:01:30 left",
        "embedding: 40 of 100 texts, 1 texts/s, 0:01:00 left",
    ]


@pytest.mark.parametrize(
    ("count", "seconds", "rate"),
    [(93, 358.2, "0.26"), (1, 2000, "0.0005"), (3, 1, "3"), (99, 10, "9.9"), (9960, 1, "9,960")],
)
def test_a_slow_rate_is_not_said_to_be_nothing(count, seconds, rate):
    assert shown_rate(count, seconds) == rate


def test_a_terminal_has_a_bar_once_the_work_has_taken_a_while(monkeypatch, now):
    assert shown(monkeypatch, now, terminal=True, steps=[(0.5, 50)]) == ""
    now[0] = 0.0
    drawn = shown(monkeypatch, now, terminal=True, steps=[(0.5, 10), (20.0, 50)])
    assert "50/100" in drawn
    assert "0:00:20 left" in drawn


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_work_says_nothing(monkeypatch, now, terminal):
    assert shown(monkeypatch, now, terminal=terminal, steps=[(5, 10), (500, 50)], shown=False) == ""
