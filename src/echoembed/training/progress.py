"""The progress of a run: a bar on a terminal, a line now and then elsewhere."""

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
"""The number of steps over which rates are averaged."""
LINES = 20
"""The most lines of progress without a terminal."""
PATIENCE_SECONDS = 2.0
"""Reading rows shows no progress before this time."""


@contextmanager
def reading_rows(console: Console | None) -> Iterator[Callable[[ReadRows], None]]:
    """Show, on a terminal and after a while, how many rows have been read.

    Args:
        console: The console; None to show nothing.

    Yields:
        The argument ``progress`` of ``rows.read_all`` and ``plan.make``.
    """
    started = time.monotonic()
    status = console.status("reading rows") if console is not None and console.is_terminal else None

    def report(read: ReadRows) -> None:
        if status is not None and time.monotonic() - started > PATIENCE_SECONDS:
            status.start()
            status.update(f"reading {read.name}: {read.rows:,} rows")

    try:
        yield report
    finally:
        if status is not None:
            status.stop()


class TrainingProgress(TrainerCallback):
    """Shows step, loss, rows and tokens per second, and the time left, on the first process only.

    Args:
        console: The console; None for standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=RECENT)
        self._bar: Bar | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the bar, if there is a terminal."""
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
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar, also after a run that was interrupted."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
