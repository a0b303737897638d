"""From the texts of one request to their vectors: check, render, queue, wait, and count.

The protocols (``protocols/``) read requests and write answers; ``app.py`` handles HTTP. Prompts are rendered in threads
of their own, a few texts at a time, so that neither the event loop nor another request waits for a long request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from echoembed import errors
from echoembed.prompts.reader import TASK_MARKS
from echoembed.prompts.text import check_text
from echoembed.server.encoder import KINDS, ServedModel
from echoembed.server.metrics import Metrics
from echoembed.server.queue import Job, Queue
from echoembed.server.readers import Readers
from echoembed.server.settings import Settings
from echoembed.server.worker import Worker, seconds_until_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from echoembed.prompts.template import Rendered
    from echoembed.recipe import Kind

T = TypeVar("T")
_AT_ONCE = 64  # texts that a thread renders before it turns to other requests
_SHORT = 1024  # characters of texts up to which a thread renders those of several requests
_NEWEST = 0.2  # weight of the newest request in the average of tokens per byte
_UNBOUNDED = 2**21  # the limit of a request's tokens if prompts may have any length
_STUCK = 60.0  # seconds after which the model hangs if a pack is not done


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Texts of a request with the same settings.

    Attributes:
        texts: The texts.
        param: The request's field with the texts, for errors.
        kind: The template that reads the texts.
        instruction: The text in place of ``{instruction}``; None for the recipe's own.
        truncate: Whether a text over the limit is cut rather than refused.
        dimensions: How many leading dimensions to return; None for all.
        normalize: Whether vectors are scaled to length 1.
        most: A field that cuts texts at so many tokens, and its value; refused if the model reads more.
        many: Whether the field is a list, so that errors state a text's place in it.
    """

    texts: Sequence[str]
    param: str = "input"
    kind: Kind = "query"
    instruction: str | None = None
    truncate: bool = False
    dimensions: int | None = None
    normalize: bool = True
    most: tuple[str, int] | None = None
    many: bool = True

    def place(self, index: int) -> str:
        """Return the place of a text in the request, for errors."""
        return f"{self.param}[{index}]" if self.many else self.param


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The answer to an ``Ask``: vectors (``_ND``, float32), the prompt of each, and how long all took together."""

    vectors: NDArray[np.float32]
    prompts: Sequence[Rendered]
    seconds: float

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the prompts, which include both copies of each text."""
        return sum(prompt.tokens for prompt in self.prompts)

    @property
    def cuts(self) -> list[int]:
        """Return, for each text that was cut, the number of tokens that were cut off."""
        return [prompt.dropped for prompt in self.prompts if prompt.dropped]


class Service:
    """Embeds the texts of requests.

    Args:
        encoder: The model.
        settings: Names and limits.
        on_death: Called in the model's thread if an error ends that thread.
    """

    def __init__(
        self, encoder: ServedModel, settings: Settings, on_death: Callable[[BaseException], None] = lambda _: None
    ) -> None:
        self.encoder = encoder
        self.settings = settings
        self.limits = settings.limits
        longest = encoder.longest_prompt()
        self.request_tokens = self.limits.request_tokens or (longest * self.limits.texts if longest else _UNBOUNDED)
        self._shortest = encoder.shortest_prompt()
        self._tokens_per_byte = 0.0  # an average over the bodies so far, with most weight on the latest
        self.metrics = Metrics()
        self.queue = Queue(tokens=self.request_tokens, pack=encoder.pack_tokens)
        self.worker = Worker(encoder, self.queue, self.metrics, on_death, self._on_loop)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.metrics.queue_tokens.set_function(lambda: self.queue.waiting)
        self.metrics.queue_requests.set_function(lambda: len(self.queue))
        self.metrics.up.set_function(lambda: self.state() == "ok")
        self.names = settings.names or (encoder.name.rstrip("/").rpartition("/")[2],)
        self.stopping = False
        self._readers = Readers()

    def start(self) -> None:
        """Start the model's thread; called in the event loop that answers requests."""
        self._loop = asyncio.get_running_loop()
        self.worker.start()

    async def close(self) -> None:
        """Wait until all accepted requests are done, then stop the threads."""
        self.queue.close()
        await asyncio.to_thread(self.worker.join)
        self._readers.close()

    def state(self, now: float | None = None) -> str:
        """Return ``ok``, or why no requests should be sent: ``stopping``, ``model stopped`` or ``model hangs``.

        Args:
            now: A time of the monotonic clock; None for the present.
        """
        if not self.worker.alive:
            return "model stopped"
        busy_since = self.worker.busy_since
        if busy_since is not None and (time.monotonic() if now is None else now) > busy_since + _STUCK:
            return "model hangs"
        return "stopping" if self.stopping else "ok"

    def kind_of_model(self, name: str) -> Kind | None:
        """Return the template that a model's name chooses, as ``tiny:document`` does; None if it chooses none.

        Raises:
            RequestError: 404 if the model has no such name.
        """
        for model_name in self.names:
            if name == model_name:
                return None
            for kind in KINDS:
                if name == f"{model_name}:{kind}":
                    return kind
        raise errors.request_model_unknown(name, self.listed)

    @property
    def listed(self) -> list[str]:
        """Return all names of the model, with and without a template."""
        return [name for model_name in self.names for name in (model_name, *(f"{model_name}:{kind}" for kind in KINDS))]

    async def thread(self, work: Callable[[], T], *, short: bool = False) -> T:
        """Run work in a thread other than the model's (see ``Readers.run``)."""
        return await self._readers.run(work, short=short)

    def _on_loop(self, work: Callable[[], None]) -> None:
        """Let the event loop do what the model's thread hands over."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(work)

    def check_room(self, size: int) -> None:
        """Refuse a body before it is parsed, if its tokens, estimated from earlier bodies, do not fit into the queue.

        Args:
            size: The body's size in bytes. If the queue is empty, no body is refused.

        Raises:
            RequestError: 429 if the body is refused.
        """
        if self.queue.waiting:
            tokens = min(int(size * self._tokens_per_byte), self.queue.limit)
            self.queue.check(tokens, retry_after=seconds_until_room(self.queue, self.worker))

    def learn(self, size: int, tokens: int) -> None:
        """Take note of how many tokens a body of ``size`` bytes held, for ``check_room``."""
        before = self._tokens_per_byte or tokens / size
        self._tokens_per_byte = before + _NEWEST * (tokens / size - before)

    async def read(self, ask: Ask, lane: str = "", *, queued: bool = False) -> list[Rendered]:
        """Check texts against the limits, and return their prompts.

        Args:
            ask: The texts.
            lane: The lane whose recipe renders the prompts.
            queued: Whether the prompts will be queued, so that rendering may stop if the queue has no room for them.

        Raises:
            RequestError: If a text or the instruction cannot be embedded or is too long.
        """
        if not ask.texts:
            raise errors.request_field(ask.param, [], "at least one text")
        if len(ask.texts) > self.limits.texts:
            raise errors.request_too_many_texts(ask.param, len(ask.texts), self.limits.texts)
        if ask.instruction and len(ask.instruction) > self.limits.instruction_characters:
            allowed = f"at most {self.limits.instruction_characters} characters"
            raise errors.request_field("instruction", ask.instruction, allowed)
        if ask.instruction in TASK_MARKS.values():  # it would choose a template, or nothing, and stand nowhere
            marks = " and ".join(dict.fromkeys(TASK_MARKS.values()))
            allowed = f"any text but {marks}; choose a template with the field task"
            raise errors.request_field("instruction", ask.instruction, allowed)
        prompts: list[Rendered] = []
        tokens = self._shortest * len(ask.texts) if queued else 0
        for start in range(0, len(ask.texts), _AT_ONCE):
            # Stop rendering once it is certain that the full queue will refuse the request.
            if queued:
                self.queue.check(tokens, retry_after=seconds_until_room(self.queue, self.worker))
            short = sum(map(len, ask.texts[start : start + _AT_ONCE])) <= _SHORT
            part = await self.thread(partial(self._rendered, ask, start, lane), short=short)
            tokens += sum(prompt.tokens - self._shortest for prompt in part)
            prompts += part
        return prompts

    def _rendered(self, ask: Ask, start: int, lane: str) -> list[Rendered]:
        texts = ask.texts[start : start + _AT_ONCE]
        kind, param = ask.kind, ask.param
        try:
            for place, text in enumerate(texts, start):
                param = ask.place(place)
                check_text(text, param)
            param = ask.param
            if ask.instruction:  # otherwise, the error would name a text for a fault of the instruction
                param = "instruction"
                self.encoder.read(["a"], kind, ask.instruction, lane)
            room = self.encoder.room(kind, ask.instruction, lane)
            if ask.most and (room is None or ask.most[1] < room):
                least = "null" if room is None else f"{room} or more, as the model reads so many tokens of a text"
                raise errors.request_field(*ask.most, f"{least}: leave it out")
            try:
                prompts = self.encoder.read(texts, kind, ask.instruction, lane)
            except errors.TextError:  # find the text at fault
                for place, text in enumerate(texts, start):
                    param = ask.place(place)
                    self.encoder.read([text], kind, ask.instruction, lane)
                raise
        except errors.TextError as error:
            raise errors.RequestError(str(error), code="invalid_text", param=param) from error
        for place, prompt in enumerate(prompts, start):
            if prompt.dropped and not ask.truncate:
                raise errors.request_text_too_long(ask.place(place), prompt.dropped, room or 0)
        return prompts

    async def embed(self, *asks: Ask, lane: str = "") -> list[Embedded]:
        """Embed texts; all asks of a request are embedded, or none.

        Raises:
            RequestError: If the texts cannot be embedded, or not now.
        """
        for ask in asks:
            if ask.dimensions is not None and not 1 <= ask.dimensions <= self.encoder.dimension:
                allowed = f"a whole number from 1 to {self.encoder.dimension}"
                raise errors.request_field("dimensions", ask.dimensions, allowed)
        if self.stopping and not self.worker.alive:
            raise errors.server_model_stopped()
        read = [await self.read(ask, lane, queued=True) for ask in asks]
        job = Job([prompt for prompts in read for prompt in prompts], lane=lane, raw=not asks[0].normalize)
        vectors_ND = await self._computed(job)
        answers = []
        start = 0
        for ask, prompts in zip(asks, read, strict=True):
            part_ND = vectors_ND[start : start + len(prompts)]
            start += len(prompts)
            if ask.dimensions is not None and ask.dimensions < self.encoder.dimension:
                part_ND = shortened(part_ND, ask.dimensions, normalize=ask.normalize)
            answers.append(Embedded(vectors=part_ND, prompts=prompts, seconds=job.model_seconds))
            self._count(ask.kind, prompts)
        return answers

    async def _computed(self, job: Job) -> NDArray[np.float32]:
        """Return the vectors of a job; if the client disconnects, the rest of the job is not computed."""
        if not self.worker.alive:
            raise errors.server_model_stopped()
        # The future ends in this loop, by way of ``_on_loop``: one call for all requests of a pack.
        done = asyncio.Event()
        job.future.add_done_callback(lambda _: done.set())
        self.queue.put(job, retry_after=seconds_until_room(self.queue, self.worker))
        try:
            async with asyncio.timeout(self.limits.seconds):
                await done.wait()
            return job.future.result()
        except TimeoutError as error:
            raise errors.server_deadline(self.limits.seconds) from error
        finally:
            job.future.cancel()
            self.metrics.cancelled_tokens.inc(self.queue.drop(job))

    def _count(self, kind: str, prompts: Sequence[Rendered]) -> None:
        cuts = [prompt.dropped for prompt in prompts if prompt.dropped]
        self.metrics.texts.labels(kind).inc(len(prompts))
        self.metrics.tokens.inc(sum(prompt.tokens for prompt in prompts))
        self.metrics.truncated_texts.inc(len(cuts))
        self.metrics.truncated_tokens.inc(sum(cuts))


def of_length_one(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors, scaled to length 1."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(lengths_N1, np.finfo(np.float32).tiny), dtype=np.float32)


def cosines(vectors_ND: NDArray[np.float32], others_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each vector with each other one, ``_NM``; not every model gives vectors of length 1."""
    return of_length_one(vectors_ND) @ of_length_one(others_MD).T


def shortened(vectors_ND: NDArray[np.float32], dimensions: int, *, normalize: bool) -> NDArray[np.float32]:
    """Return the leading dimensions, scaled to length 1 again with ``normalize``."""
    cut_ND = np.ascontiguousarray(vectors_ND[:, :dimensions])
    return of_length_one(cut_ND) if normalize else cut_ND
