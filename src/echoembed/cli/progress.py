"""A progress bar for long work on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PATIENCE_SECONDS = 1.0


class Progress:
    """Counts texts, and shows a bar on standard error once the work has taken a while.

    Args:
        expected: How many texts there will be in all, asked again at each step; None if unknown.
        shown: Whether a bar may be shown at all.

    Attributes:
        seconds: How long the block took.
    """

    def __init__(self, expected: Callable[[], int | None], *, shown: bool) -> None:
        self._expected = expected
        self._shown = shown and sys.stderr.isatty()
        self._bar: RichProgress | None = None
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __call__(self, done: int) -> None:
        """Take note that so many texts are done."""
        elapsed = time.perf_counter() - self._start
        if not self._shown or elapsed < PATIENCE_SECONDS:
            return
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("embedding", total=None, pace="")
        expected = self._expected()
        total = None if expected is None else max(expected, done)
        # Rich's own estimate waits for a third step, and a step may be a minute.
        left = "" if total is None else f", {timedelta(seconds=round(elapsed * (total - done) / done))} left"
        pace = f"{done / elapsed:,.0f} texts/s{left}"
        self._bar.update(self._task, completed=done, total=total, pace=pace, refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        if self._bar is not None:
            self._bar.stop()


def _bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        console=Console(stderr=True),
        transient=True,
    )
