"""How far a run is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskProgressColumn, TextColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from echoembed.progress import bar
from echoembed.training.rows import ReadRows

RECENT = 20
"""Steps over which rates are averaged."""
LINES = 20
"""Most lines where there is no terminal."""
PATIENCE_SECONDS = 2.0
"""Reading that takes no longer is not spoken of."""


@contextmanager
def reading_rows(console: Console | None) -> Iterator[Callable[[ReadRows], None]]:
    """Says, on a terminal and once it has taken a while, how many rows have been read.

    Args:
        console: Where; None for nowhere.

    Yields:
        What ``rows.read_all`` and ``plan.make`` take as ``progress``.
    """
    started = time.monotonic()
    status = console.status("reading rows") if console is not None and console.is_terminal else None

    def report(reading: ReadRows) -> None:
        if status is not None and time.monotonic() - started > PATIENCE_SECONDS:
            status.start()
            status.update(f"reading {reading.name}: {reading.rows:,} rows")

    try:
        yield report
    finally:
        if status is not None:
            status.stop()


class TrainingProgress(TrainerCallback):
    """Shows step, loss, rows and tokens a second, and the time left; on the first process alone.

    Args:
        console: Where it is shown; standard error unless given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=RECENT)
        self._bar: Bar | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put up the bar, if there is a terminal."""
        self._recent.clear()
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        self._bar = bar(TaskProgressColumn(), TextColumn("{task.fields[words]}"), console=self.console)
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, words="")
        self._bar.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show a step."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        self._recent.append((logs.get("rows", 0), logs.get("tokens", 0), logs.get("seconds", 0.0)))
        words = self._words(state, float(logs["loss"]))
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, words=words, refresh=True)
        elif state.global_step % max(1, state.max_steps // LINES) == 0 or state.global_step == state.max_steps:
            self.console.print(words, highlight=False, soft_wrap=True)

    def _words(self, state: TrainerState, loss: float) -> str:
        rows, tokens, seconds = map(sum, zip(*self._recent, strict=True))
        words = [f"step {state.global_step:,} of {state.max_steps:,}", f"loss {loss:.4f}"]
        if seconds > 0:
            left = (state.max_steps - state.global_step) * seconds / len(self._recent)
            words += [f"{rows / seconds:,.1f} rows/s", f"{tokens / seconds:,.0f} tokens/s"]
            words.append(f"{timedelta(seconds=round(left))} left")
        return ", ".join(words)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar down."""
        self.close()

    def close(self) -> None:
        """Take the bar down, also when the run was cut short."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
