"""The progress of an evaluation: a bar with the time left on a terminal, and a line for each finished task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from echoembed.cli.output import note
from echoembed.progress import bar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from echoembed.evaluation.store import Score
    from echoembed.evaluation.task import Task


class EvalProgress:
    """Shows the progress of ``evaluate``; the time left is estimated from the text that is still to be embedded.

    Args:
        tasks: The tasks of every recipe.
        recipes: The number of recipes.
        shown: Whether to show anything.

    Attributes:
        recipe: The recipe that is being scored.
    """

    def __init__(self, tasks: Sequence[Task], *, recipes: int, shown: bool) -> None:
        self.recipe = ""
        self._shown = shown
        self._total = recipes * sum(map(_work, tasks))
        self._count = recipes * len(tasks)
        self._begun = 0
        self._done = 0
        self._now = 0
        self._bar: Bar | None = _bar() if shown and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._row = self._bar.add_task("loading", total=self._total)
        return self

    def start(self, task: Task) -> None:
        """Show that a task starts."""
        self._begun += 1
        self._now = _work(task)
        if self._bar is not None:
            self._bar.update(self._row, description=f"{self._begun}/{self._count} {self.recipe}: {task.name}")

    def advance(self, characters: int) -> None:
        """Show how many characters of the task are embedded."""
        if self._bar is not None:
            self._bar.update(self._row, completed=self._done + min(characters, self._now))

    def finish(self, task: Task, score: Score | None) -> None:
        """Show that a task is done or has failed; a stored score took no time, and is not counted."""
        if score is not None and score.reused:
            self._total -= self._now
        else:
            self._done += self._now
        if self._bar is not None:
            self._bar.update(self._row, completed=self._done, total=self._total)
        if not self._shown:
            return
        place = f"{self._begun}/{self._count} {self.recipe}: {task.name}"
        if score is None:
            self._say(f"{place} failed")
        else:
            took = "kept" if score.reused else f"{score.details['seconds']:.1f} s"
            self._say(f"{place} {score.metric} {100 * score.score:.2f} ({took})")

    def _say(self, line: str) -> None:
        if self._bar is None:
            note(line)
        else:
            self._bar.console.print(line, markup=False, highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _work(task: Task) -> int:
    return max(task.characters, 10_000)


def _bar() -> Bar:
    from rich.progress import TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    return bar(TaskProgressColumn(), *times, speed_estimate_period=600)
