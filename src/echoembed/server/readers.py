"""Threads in which texts become prompts and long JSON is read, so that the event loop stays quick.

Waking a thread takes longer than a short text does. The short ones of one turn of the event loop therefore go to
a thread together, and come back together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
Outcome = tuple[Any, Exception | None]


class Readers:
    """Two threads, and the short works that the next turn of the event loop hands to one of them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="reader")
        self._short: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def run(self, work: Callable[[], T], *, short: bool = False) -> T:
        """Return the result of work.

        Args:
            work: What to do.
            short: Whether it takes less than about a millisecond, so that others' works may wait for it.
        """
        loop = asyncio.get_running_loop()
        if not short:
            return await loop.run_in_executor(self._pool, work)
        future: asyncio.Future[T] = loop.create_future()
        self._short.append((work, future))
        if len(self._short) == 1:
            loop.call_soon(self._begin, loop)
        return await future

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        works, futures = zip(*self._short, strict=True)
        self._short = []
        done = loop.run_in_executor(self._pool, lambda: [_outcome(work) for work in works])
        done.add_done_callback(partial(_hand_out, futures))


def _outcome(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _hand_out(futures: Sequence[asyncio.Future[Any]], done: asyncio.Future[list[Outcome]]) -> None:
    for at, future in enumerate(futures):
        if done.cancelled():
            future.cancel()
        elif not future.done():  # else its client has gone
            result, error = done.result()[at]
            future.set_result(result) if error is None else future.set_exception(error)
