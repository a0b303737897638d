"""The only thread that runs the model.

It takes packs until the queue is closed and empty. A pack that fails is run again, request by request, so that one
text cannot spoil the answers of other requests. After an unexpected error, a text whose vector is known is embedded
again: if its vector has changed, the model is broken and the thread ends. Whenever the thread ends too early, every
waiting request gets an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from echoembed import errors
from echoembed.server.queue import Job, Pack, Queue

if TYPE_CHECKING:
    from echoembed.server.encoder import ServedModel, Vectors
    from echoembed.server.metrics import Metrics

_KNOWN_TEXT = "The same text has the same vector."
_LEAST_COSINE = 0.999  # vectors that differ by rounding in any dtype are above, vectors of other texts below


class BrokenModelError(RuntimeError):
    """The model no longer gives the known text the same vector."""


class Worker:
    """Runs packs, one after the other.

    Args:
        encoder: The model.
        queue: The queue that gives the packs.
        metrics: The server's counters.
        on_death: Called once, in the thread, if the thread ends before the queue is closed and empty.
        hand_over: Takes a call that ends jobs, once a pack, and makes it in the thread where they are waited for.

    Attributes:
        busy_since: When the current pack began, on the monotonic clock; None between packs.
        dead: The error that ended the thread too early; None otherwise.
        tokens_per_second: The speed of the last pack.
    """

    def __init__(
        self,
        encoder: ServedModel,
        queue: Queue,
        metrics: Metrics,
        on_death: Callable[[BaseException], None],
        hand_over: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self._encoder = encoder
        self._queue = queue
        self._metrics = metrics
        self._on_death = on_death
        self._hand_over = hand_over
        self._thread = Thread(target=self._run, name="model", daemon=True)
        self._known = encoder.read([_KNOWN_TEXT], "query")
        self._known_vectors = encoder.vectors(self._known).vectors
        self.busy_since: float | None = None
        self.dead: BaseException | None = None
        self.tokens_per_second = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Return whether the thread still runs the model."""
        return self._thread.is_alive() and self.dead is None

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        pack: Pack = []
        try:
            while True:
                next_pack = self._queue.take()
                if next_pack is None:
                    return
                pack = next_pack
                self._answer(pack)
        except BaseException as error:
            self.dead = error
            waiting = dict.fromkeys([*(job for job, _ in pack), *self._queue.clear()])
            self._hand_over(partial(_fail, list(waiting), errors.server_model_stopped()))
            self._on_death(error)

    def _answer(self, pack: Pack) -> None:
        """Run a pack and deliver its vectors; if the pack fails, run it again, each request alone."""
        try:
            self._compute(pack)
        except Exception as error:
            jobs = dict.fromkeys(job for job, _ in pack)
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([(other, index) for other, index in pack if other is job])
                return
            [job] = jobs
            fault = errors.request_not_finite(str(error)) if isinstance(error, errors.ModelError) else error
            self._hand_over(partial(_fail, [job], fault))
            self._queue.drop(job)
            if not isinstance(error, errors.ModelError):
                self._prove()

    def _compute(self, pack: Pack) -> None:
        prompts = [job.prompts[index] for job, index in pack]
        tokens = sum(prompt.tokens for prompt in prompts)
        self.busy_since = begun = time.monotonic()
        for job, _ in pack:
            if job.started is None:
                job.started = begun
                self._metrics.waited.observe(begun - job.queued)
        try:
            vectors = self._encoder.vectors(prompts, pack[0][0].lane)
        finally:
            seconds = time.monotonic() - begun
            self.busy_since = None
            self._metrics.pack(tokens, seconds, self._queue.pack)
        self.tokens_per_second = tokens / seconds if seconds else self.tokens_per_second
        for prompt, (job, _) in zip(prompts, pack, strict=True):
            job.model_seconds += seconds * prompt.tokens / tokens
        self._hand_over(partial(_deliver, pack, vectors))

    def _prove(self) -> None:
        """Check that the model still gives the known text the same vector.

        Raises:
            BrokenModelError: If the vector is another, or cannot be computed.
        """
        try:
            again = self._encoder.vectors(self._known).vectors
        except Exception as error:
            raise BrokenModelError(f"{type(error).__name__} where none was before") from error
        lengths = np.linalg.norm(again) * np.linalg.norm(self._known_vectors)
        if not float((again * self._known_vectors).sum()) >= _LEAST_COSINE * lengths:
            raise BrokenModelError("the known text has another vector")


def _deliver(pack: Pack, vectors: Vectors) -> None:
    for place, (job, index) in enumerate(pack):
        job.deliver(index, vectors.raw[place] if job.raw else vectors.vectors[place])


def _fail(jobs: Sequence[Job], error: BaseException) -> None:
    for job in jobs:
        job.fail(error)


def seconds_until_room(queue: Queue, worker: Worker) -> int:
    """Estimate how long half of the queue takes at the present speed, in whole seconds from 1 to 60."""
    if not worker.tokens_per_second:
        return 1
    return int(min(60, max(1, queue.waiting / 2 / worker.tokens_per_second)))
