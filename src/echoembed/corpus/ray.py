"""Builds on Ray: a pool of actors, each with a model, on one machine or a cluster.

The driver reads the inputs and writes the shards, so the machines need no shared disk. An actor embeds one shard at a
time and sends its bytes back. A shard's bytes depend only on its texts, so the shards are the same as those that one
process would make. If an actor, a node or the driver is killed, only the shards that were being made are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from echoembed import errors, versions
from echoembed.corpus import shard
from echoembed.corpus.encoder import Encoder, ModelEncoder
from echoembed.corpus.shard import Entry
from echoembed.corpus.work import Engine, ShardTask, ShardWork


@dataclass(frozen=True, kw_only=True)
class Load:
    """Loads the model on the machine of an actor.

    Attributes:
        load: Arguments of ``echoembed.load``.
        encode: Arguments of ``ModelEncoder``.
    """

    load: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Encoder:
        """Load the model."""
        import echoembed

        return ModelEncoder(echoembed.load(**self.load), **self.encode)


@dataclass
class OnRay(Engine):
    """Makes shards on Ray Data.

    Args:
        make_encoder: Makes the model; called once in each actor; must be picklable.
        workers: Number of actors.
        address: The cluster's address, as for ``ray.init``; None for that in ``RAY_ADDRESS``, or else this machine.
        gpus: Number of GPUs of each actor.

    Raises:
        LibraryError: If Ray is not installed.
    """

    make_encoder: Callable[[], Encoder]
    workers: int = 2
    address: str | None = None
    gpus: float = 0
    _tasks: list[Any] = field(default_factory=list, repr=False)

    def submit(self, task: ShardTask, work: ShardWork, progress: Callable[[int], None]) -> None:
        """Put the texts of a shard into Ray's object store, which moves objects to disk when memory is full."""
        with versions.needed("ray", extra="ray", purpose="A job on Ray"):
            import ray
        if not ray.is_initialized():
            ray.init(address=self.address, include_dashboard=False, log_to_driver=False)
        self._tasks.append(ray.put(task))

    def finish(self, work: ShardWork, progress: Callable[[int], None]) -> list[Entry]:
        """Make all shards that were submitted.

        Raises:
            EchoembedError: The first error of an actor.
        """
        if not self._tasks:
            return []
        import ray

        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = [{"id": number} for number in range(len(self._tasks))]
        # From items, not a range: for a range, Ray starts tasks, which never get a CPU if the actors hold all of them.
        results = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            _Actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_gpus=self.gpus,
            fn_constructor_kwargs={"make_encoder": self.make_encoder, "work": work, "tasks": self._tasks},
            max_restarts=-1,
            max_task_retries=-1,
        )
        entries = []
        for row in results.iter_rows():
            if row["kind"]:
                raise getattr(errors, row["kind"])(row["message"])
            packed = shard.Packed(Entry(*_values(row)), row["data"], int(row["embedded"]))
            entries.append(shard.write(work.folder, packed))
            progress(packed.embedded)
        self._tasks = []
        return entries


class _Actor:
    """A model that makes shards."""

    def __init__(self, make_encoder: Callable[[], Encoder], work: ShardWork, tasks: Sequence[Any]) -> None:
        self._encoder = make_encoder()
        self._work = work
        self._tasks = tasks

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make a shard, and return its bytes, or else the error, as a row for Ray."""
        import ray

        [number] = batch["id"]
        try:
            packed = self._work.make(ray.get(self._tasks[int(number)]), self._encoder)
        except errors.EchoembedError as error:  # returned, because Ray would wrap a raised error, and try again
            return _row(shard.Packed(Entry("", 0, 0, 0, 0, 0, ""), b""), type(error).__name__, str(error))
        return _row(packed, "", "")


def _row(packed: shard.Packed, kind: str, message: str) -> dict[str, Any]:
    made = {"data": bytes(packed.data), "embedded": packed.embedded}
    columns = {**packed.entry._asdict(), **made, "kind": kind, "message": message}
    return {
        name: np.array([value], dtype=None if isinstance(value, int) else object) for name, value in columns.items()
    }


def _values(row: Mapping[str, Any]) -> list[Any]:
    return [row[name] if isinstance(row[name], str) else int(row[name]) for name in Entry._fields]
