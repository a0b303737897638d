"""How far the work is, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 5.0


class Progress:
    """Says now and then what is done and what is left.

    Args:
        say: Takes a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._total = 0.0
        self._done = 0.0
        self._started = time.monotonic()
        self._said = 0.0

    def expect(self, work: float) -> None:
        """So much work is still to come, in any unit."""
        self._total += work

    def done(self, work: float, what: str) -> None:
        """So much of it is done by now."""
        self._done += work
        now = time.monotonic()
        if now - self._said < EVERY_SECONDS:
            return
        self._said = now
        share = min(self._done / self._total, 1.0) if self._total else 0.0
        passed = now - self._started
        left = f", about {shown_time(passed / share - passed)} left" if share > 0.02 else ""
        self._say(f"{100 * share:3.0f} %  {what}{left}")


def shown_time(seconds: float) -> str:
    """Seconds as one reads them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
