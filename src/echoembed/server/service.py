"""From texts to vectors for one request: check, render, queue, wait, and count.

The protocols (``protocols/``) say what is asked; HTTP (``app.py``) says who asks. Rendering happens in threads of
its own, a few texts at a time, so that neither the event loop nor another request waits for a long one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from echoembed import errors
from echoembed.prompts.text import check_text
from echoembed.server.encoder import KINDS, ServedModel
from echoembed.server.metrics import Metrics
from echoembed.server.queue import Job, Queue
from echoembed.server.settings import Settings
from echoembed.server.worker import Worker, seconds_until_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from echoembed.prompts.template import Rendered
    from echoembed.recipe import Kind

T = TypeVar("T")
_AT_ONCE = 64  # texts that a thread renders before it looks for other requests
_AROUND = 4  # bytes of a body around each text: quotes, a comma, a blank
_NEWEST = 0.2  # weight of the newest request in what is expected of the next
_UNBOUNDED = 2**21  # tokens of a request where a prompt may be of any length
_STUCK = 60.0  # seconds after which a pack that is not done counts as hanging


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Texts that are all read in the same way.

    Attributes:
        texts: The texts.
        param: The field they came in, for errors.
        kind: Which template; None for the query template, as in the library.
        instruction: What stands in ``{instruction}``; None for the recipe's own.
        truncate: Whether a text over the limit is cut, rather than refused.
        dimensions: How many leading dimensions are wanted; None for all.
        normalize: Whether vectors have length 1.
        many: Whether the field is a list, so that a text's place is worth naming.
    """

    texts: Sequence[str]
    param: str = "input"
    kind: Kind | None = None
    instruction: str | None = None
    truncate: bool = False
    dimensions: int | None = None
    normalize: bool = True
    many: bool = True

    def place(self, index: int) -> str:
        """What errors call a text."""
        return f"{self.param}[{index}]" if self.many else self.param


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The answer to an ``Ask``: vectors (``_ND``, float32), the prompt of each, and how long all took together."""

    vectors: NDArray[np.float32]
    prompts: Sequence[Rendered]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that the model read: whole prompts, both copies of the text among them."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def cuts(self) -> list[int]:
        """Tokens that were cut off, of each text that was cut."""
        return [prompt.dropped for prompt in self.prompts if prompt.dropped]


class Service:
    """A model that answers.

    Args:
        encoder: The model.
        settings: Names and limits.
        on_death: Called, in the model's thread, if that thread ends by a fault.
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
        self._tokens_per_byte = 0.0  # of the bodies so far, the last ones counting most
        self.metrics = Metrics()
        self.queue = Queue(tokens=self.request_tokens, pack=encoder.pack_tokens)
        self.worker = Worker(encoder, self.queue, self.metrics, on_death)
        self.metrics.queue_tokens.set_function(lambda: self.queue.waiting)
        self.metrics.queue_requests.set_function(lambda: len(self.queue))
        self.metrics.up.set_function(lambda: self.state() == "ok")
        self.names = settings.names or (encoder.name.rstrip("/").rpartition("/")[2],)
        self.stopping = False
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="reader")

    def start(self) -> None:
        """Let the model's thread begin."""
        self.worker.start()

    async def close(self) -> None:
        """Finish what was accepted, then stop the threads."""
        self.queue.close()
        await asyncio.to_thread(self.worker.join)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def state(self, now: float | None = None) -> str:
        """``ok``, or why no requests should be sent: ``stopping``, ``model stopped`` or ``model hangs``.

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
        """The template that a model's name asks for, as ``tiny:document`` does.

        Raises:
            RequestError: 404 if it is not the name of this model.
        """
        for known in self.names:
            if name == known:
                return None
            for kind in KINDS:
                if name == f"{known}:{kind}":
                    return kind
        raise errors.request_model_unknown(name, self.listed)

    @property
    def listed(self) -> list[str]:
        """Every name that the model answers to."""
        return [name for known in self.names for name in (known, *(f"{known}:{kind}" for kind in KINDS))]

    async def thread(self, work: Callable[[], T]) -> T:
        """Run work that takes long in a thread other than the model's."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def check_room(self, size: int) -> None:
        """Refuse a body before it is parsed: if it is like the ones before, it has no room beside what waits.

        Args:
            size: Its bytes. Nothing is refused for its size alone: where nothing waits, the body is read.

        Raises:
            RequestError: 429.
        """
        if self.queue.waiting:
            tokens = min(int(size * self._tokens_per_byte), self.queue.limit)
            self.queue.check(tokens, retry_after=seconds_until_room(self.queue, self.worker))

    async def read(self, ask: Ask, lane: str = "", *, queued: bool = False) -> list[Rendered]:
        """The prompts of texts, checked and within the limits.

        Args:
            ask: The texts.
            lane: Under which recipe.
            queued: Whether they are about to be queued, and need not be rendered where the queue is too full.

        Raises:
            RequestError: For a text or an instruction that cannot be embedded, or is too long.
        """
        if not ask.texts:
            raise errors.request_field(ask.param, [], "at least one text")
        if len(ask.texts) > self.limits.texts:
            raise errors.request_too_many_texts(ask.param, len(ask.texts), self.limits.texts)
        if ask.instruction and len(ask.instruction) > self.limits.instruction_characters:
            allowed = f"at most {self.limits.instruction_characters} characters"
            raise errors.request_field("instruction", ask.instruction, allowed)
        prompts: list[Rendered] = []
        tokens = self._shortest * len(ask.texts) if queued else 0
        for start in range(0, len(ask.texts), _AT_ONCE):
            # Stop rendering once it is certain that the full queue will refuse the request.
            if queued:
                self.queue.check(tokens, retry_after=seconds_until_room(self.queue, self.worker))
            part = await self.thread(partial(self._rendered, ask, start, lane))
            tokens += sum(len(prompt.ids) - self._shortest for prompt in part)
            prompts += part
        return prompts

    def _rendered(self, ask: Ask, start: int, lane: str) -> list[Rendered]:
        texts = ask.texts[start : start + _AT_ONCE]
        kind: Kind = ask.kind or "query"
        param = ask.param
        try:
            for place, text in enumerate(texts, start):
                param = ask.place(place)
                check_text(text, param)
            param = ask.param
            if ask.instruction:  # else a text would be blamed for a fault of the instruction
                param = "instruction"
                self.encoder.read(["a"], kind, ask.instruction, lane)
            room = self.encoder.room(kind, ask.instruction, lane)
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
        """Vectors for texts; all asks of a request are done together or not at all.

        Raises:
            RequestError: If they cannot be embedded, or not now.
        """
        for ask in asks:
            if ask.dimensions is not None and not 1 <= ask.dimensions <= self.encoder.dimension:
                allowed = f"a whole number from 1 to {self.encoder.dimension}"
                raise errors.request_field("dimensions", ask.dimensions, allowed)
        if self.stopping and not self.worker.alive:
            raise errors.server_model_stopped()
        read = [await self.read(ask, lane, queued=True) for ask in asks]
        job = Job([prompt for prompts in read for prompt in prompts], lane=lane, raw=not asks[0].normalize)
        size = sum(len(text) + _AROUND for ask in asks for text in ask.texts)
        before = self._tokens_per_byte or job.tokens / size
        self._tokens_per_byte = before + _NEWEST * (job.tokens / size - before)
        vectors_ND = await self._computed(job)
        answers = []
        start = 0
        for ask, prompts in zip(asks, read, strict=True):
            part_ND = vectors_ND[start : start + len(prompts)]
            start += len(prompts)
            if ask.dimensions is not None and ask.dimensions < self.encoder.dimension:
                part_ND = shortened(part_ND, ask.dimensions, normalize=ask.normalize)
            answers.append(Embedded(vectors=part_ND, prompts=prompts, seconds=job.model_seconds))
            self._count(ask.kind or "query", prompts)
        return answers

    async def _computed(self, job: Job) -> NDArray[np.float32]:
        """The vectors of a job; if the client has gone, what is left of the job is not computed."""
        if not self.worker.alive:
            raise errors.server_model_stopped()
        self.queue.put(job, retry_after=seconds_until_room(self.queue, self.worker))
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(job.future)
        except TimeoutError as error:
            raise errors.server_deadline(self.limits.seconds) from error
        finally:
            self.metrics.cancelled_tokens.inc(self.queue.drop(job))

    def _count(self, kind: str, prompts: Sequence[Rendered]) -> None:
        cuts = [prompt.dropped for prompt in prompts if prompt.dropped]
        self.metrics.texts.labels(kind).inc(len(prompts))
        self.metrics.tokens.inc(sum(len(prompt.ids) for prompt in prompts))
        self.metrics.truncated_texts.inc(len(cuts))
        self.metrics.truncated_tokens.inc(sum(cuts))


def shortened(vectors_ND: NDArray[np.float32], dimensions: int, *, normalize: bool) -> NDArray[np.float32]:
    """The leading dimensions, scaled to length 1 again unless that was switched off."""
    cut_ND = np.ascontiguousarray(vectors_ND[:, :dimensions])
    if not normalize:
        return cut_ND
    lengths_N1 = np.linalg.norm(cut_ND, axis=1, keepdims=True)
    return np.asarray(cut_ND / np.maximum(lengths_N1, np.finfo(np.float32).tiny), dtype=np.float32)
