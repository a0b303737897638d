"""The queue of requests for the model: limited in tokens, and fair.

Every pack takes prompts in this order, until it is full:

1. one prompt of the request that has waited longest, so that no request waits for ever;
2. the first prompt of every new request, so that a short request is in the next pack, however long the others are;
3. one prompt of each request in turn.

A request with one text therefore waits only for the pack that is running. This file uses one lock, and does not depend
on threads or the model otherwise.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from threading import Condition
from typing import TYPE_CHECKING

import numpy as np

from echoembed import errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from echoembed.prompts.template import Rendered


class Job:
    """The prompts of one request.

    Args:
        prompts: N prompts.
        lane: The lane of the prompts; all prompts of a pack have the same lane.
        raw: Whether to return the vectors before they are scaled to length 1.

    Attributes:
        future: Receives the vectors, ``_ND`` and float32 in the order of the prompts, or the error.
        queued: When the job was queued, on the monotonic clock.
        started: When its first pack began, on the monotonic clock; None before.
        model_seconds: The job's share of the time of its packs, in proportion to its tokens.
    """

    def __init__(self, prompts: Sequence[Rendered], *, lane: str = "", raw: bool = False) -> None:
        self.prompts = prompts
        self.lane = lane
        self.raw = raw
        # Prompts of equal length come one after the other, so that a pack computes their attention together.
        self.order = deque(sorted(range(len(prompts)), key=lambda index: prompts[index].tokens))
        self.tokens = sum(prompt.tokens for prompt in prompts)
        self.future: Future[NDArray[np.float32]] = Future()
        self.queued = time.monotonic()
        self.started: float | None = None
        self.model_seconds = 0.0
        self._vectors_ND: NDArray[np.float32] | None = None
        self._missing = len(prompts)

    def deliver(self, index: int, vector_D: NDArray[np.float32]) -> None:
        """Store the vector of a prompt; the last vector completes the job."""
        if self._vectors_ND is None:
            self._vectors_ND = np.empty((len(self.prompts), len(vector_D)), dtype=np.float32)
        self._vectors_ND[index] = vector_D
        self._missing -= 1
        if not self._missing:
            with suppress(InvalidStateError):  # the client has disconnected
                self.future.set_result(self._vectors_ND)

    def fail(self, error: BaseException) -> None:
        """End the job with an error."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


Pack = list[tuple[Job, int]]
"""The prompts that the model computes together: for each, its job and its index in the job."""


class Queue:
    """The jobs that wait.

    Args:
        tokens: The largest number of tokens that may wait. A job with more is always refused.
        pack: The largest number of tokens in a pack; a longer prompt becomes a pack of its own.
    """

    def __init__(self, *, tokens: int, pack: int) -> None:
        self.limit = tokens
        self.pack = pack
        self.waiting = 0
        """How many tokens wait."""
        self._new: deque[Job] = deque()
        self._begun: deque[Job] = deque()
        self._closed = False
        self._changed = Condition()

    def __len__(self) -> int:
        return len(self._new) + len(self._begun)

    def check(self, tokens: int, *, retry_after: int = 1) -> None:
        """Refuse a job with at least this many tokens, before all its texts are rendered.

        Raises:
            RequestError: As for ``put``.
        """
        if tokens > self.limit:
            raise errors.request_too_many_tokens(tokens, self.limit)
        if self._closed:
            raise errors.server_stopping()
        if self.waiting + tokens > self.limit:
            raise errors.server_busy(self.waiting, self.limit, retry_after)

    def put(self, job: Job, *, retry_after: int = 1) -> None:
        """Queue a job, or refuse all of it.

        Raises:
            RequestError: 413 if the job is too large, 429 if there is no room for it now, 503 if the queue is closed.
        """
        with self._changed:
            self.check(job.tokens, retry_after=retry_after)
            self.waiting += job.tokens
            self._new.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> int:
        """Drop the rest of a job; returns how many tokens need not be computed."""
        with self._changed:
            saved = sum(job.prompts[index].tokens for index in job.order)
            job.order.clear()
            self.waiting -= saved
            for jobs in (self._new, self._begun):
                with suppress(ValueError):
                    jobs.remove(job)
            return saved

    def take(self) -> Pack | None:
        """Wait for the next pack, and return it; None if the queue is closed and empty."""
        with self._changed:
            while not (self._new or self._begun):
                if self._closed:
                    return None
                self._changed.wait()
            return self._filled()

    def close(self) -> None:
        """Refuse new jobs; ``take`` still returns the prompts of those that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Job]:
        """Close the queue, and remove and return all jobs that wait."""
        self.close()
        with self._changed:
            jobs = [*self._new, *self._begun]
        for job in jobs:
            self.drop(job)
        return jobs

    def _filled(self) -> Pack:
        pack: Pack = []
        longest = (self._begun or self._new)[0]
        lane, left = longest.lane, self.pack
        # First the job that has waited longest, then all new jobs, then the others; then all in turn, again and again.
        turn = [longest, *(job for job in self._new if job is not longest)]
        fresh = len(turn)
        turn += [job for job in self._begun if job is not longest]
        while turn:
            again = []
            for place, job in enumerate(turn):
                if job.lane != lane:
                    continue
                size = job.prompts[job.order[-1]].tokens
                if size > left and pack:
                    # If a new job's prompt does not fit, the pack is full; for other jobs, smaller prompts may follow.
                    if place < fresh:
                        return self._settled(pack, lane)
                    continue
                left -= size
                pack.append((job, job.order.pop()))
                if job.order:
                    again.append(job)
            turn, fresh = again, 0
        return self._settled(pack, lane)

    def _settled(self, pack: Pack, lane: str) -> Pack:
        """Update the queue after a pack: jobs that were served go to its end, new jobs of other lanes to its front."""
        served = dict.fromkeys(job for job, _ in pack)
        self.waiting -= sum(job.prompts[index].tokens for job, index in pack)
        passed = [job for job in self._new if job.lane != lane]
        unserved = [job for job in self._begun if job not in served]
        self._new = deque(job for job in self._new if job.lane == lane and job not in served)
        self._begun = deque([*passed, *unserved, *(job for job in served if job.order)])
        return pack
