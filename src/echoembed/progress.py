"""Progress of long work, with the time left: a bar on a terminal, or a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

PATIENCE_SECONDS = 1.0
"""Work that takes no longer than this shows no bar."""
FIRST_LINE_SECONDS = 10.0
"""Work that takes no longer than this prints no line where there is no terminal."""
LINE_SECONDS = 30.0
EVERY_SECONDS = 5.0


def bar(*columns: ProgressColumn, console: Console | None = None, **options: Any) -> Bar:
    """Return a bar on standard error that disappears when the work ends; further columns follow it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    target = console or Console(stderr=True)
    description = TextColumn("{task.description}", markup=False)
    return Progress(description, BarColumn(), *columns, console=target, transient=True, **options)


class Progress:
    """Counts units of work, such as texts, and shows the count once the work has taken a while.

    Args:
        expected: Returns how many units there will be in all, or None if unknown; called at each step.
        what: Name of the work.
        unit: Name of the units, in the plural.
        shown: Whether anything is shown.

    Attributes:
        seconds: How long the block took.
    """

    def __init__(
        self,
        expected: Callable[[], int | None] = lambda: None,
        *,
        what: str = "embedding",
        unit: str = "texts",
        shown: bool = True,
    ) -> None:
        self._expected = expected
        self._what, self._unit = what, unit
        self._shown = shown
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar: Bar | None = None
        self._next_line = FIRST_LINE_SECONDS
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    def __call__(self, done: int) -> None:
        """Report how many units are done so far."""
        elapsed = time.monotonic() - self._start
        if not self._shown or not done:
            return
        expected = self._expected()
        total = None if expected is None else max(expected, done)
        left = "" if total is None else f", {timedelta(seconds=round(elapsed * (total - done) / done))} left"
        pace = f"{shown_rate(done, elapsed)} {self._unit}/s{left}"
        if self._terminal and elapsed >= PATIENCE_SECONDS:
            self._draw(done, total, pace)
        elif not self._terminal and elapsed >= self._next_line:
            self._next_line = elapsed + LINE_SECONDS
            of = "" if total is None else f" of {total:,}"
            sys.stderr.write(f"{self._what}: {done:,}{of} {self._unit}, {pace}\n")
            sys.stderr.flush()

    def _draw(self, done: int, total: int | None, pace: str) -> None:
        if self._bar is None:
            from rich.progress import MofNCompleteColumn, TextColumn

            self._bar = bar(MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=None, pace="")
        # We estimate the time left: Rich's own estimate waits for a third step, and a step may take a minute.
        self._bar.update(self._task, completed=done, total=total, pace=pace, refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._start
        if self._bar is not None:
            self._bar.stop()


class Work:
    """Progress of work of several kinds, measured in any one unit: now and then a line with the share and time left.

    Args:
        say: Called with each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._total = 0.0
        self._done = 0.0
        self._started = time.monotonic()
        self._said = 0.0

    def expect(self, work: float) -> None:
        """Add work that is still to come."""
        self._total += work

    def done(self, work: float, what: str) -> None:
        """Report that a part of the work is done, and say so if some seconds have passed since the last line."""
        self._done += work
        now = time.monotonic()
        if now - self._said < EVERY_SECONDS:
            return
        self._said = now
        share = min(self._done / self._total, 1.0) if self._total else 0.0
        passed = now - self._started
        left = f", about {shown_time(passed / share - passed)} left" if share > 0.02 else ""
        self._say(f"{100 * share:3.0f} %  {what}{left}" if self._total else what)


def shown_rate(count: int, seconds: float) -> str:
    """Return how many a second, for a person to read: whole, or two digits where it is less than ten."""
    rate = count / max(seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.2g}"


def shown_time(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds for a person to read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
