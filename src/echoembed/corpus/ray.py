"""The same job on Ray: a pool of actors, a model in each, on one machine or a cluster.

The driver reads the inputs and writes the shards, so the machines need no shared disk. Actors embed a shard at a time
and send its bytes back. A shard's bytes depend on its texts alone, so the shards are those that one process would make.
A killed actor, node or driver costs the shards that were being made.
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
    """Loads the model where it runs.

    Attributes:
        load: Arguments of ``echoembed.load``.
        encode: Arguments of ``ModelEncoder``.
    """

    load: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Encoder:
        """The model."""
        import echoembed

        return ModelEncoder(echoembed.load(**self.load), **self.encode)


@dataclass
class OnRay(Engine):
    """Makes shards on Ray Data.

    Args:
        make_encoder: Makes the model; called once in each actor, and must be picklable.
        workers: Number of actors.
        address: The cluster's address, as ``ray.init`` takes it; None for that of ``RAY_ADDRESS``, else this machine.
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
        """Hand the texts of a shard to Ray's store, which moves to disk what memory does not hold."""
        with versions.needed("ray", extra="ray", purpose="A job on Ray"):
            import ray
        if not ray.is_initialized():
            ray.init(address=self.address, include_dashboard=False, log_to_driver=False)
        self._tasks.append(ray.put(task))

    def finish(self, work: ShardWork, progress: Callable[[int], None]) -> list[Entry]:
        """Embed everything that was handed over.

        Raises:
            EchoembedError: What an actor raises.
        """
        if not self._tasks:
            return []
        import ray

        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = [{"id": number} for number in range(len(self._tasks))]
        # From items: to read a range, Ray would start tasks, which wait for ever where the actors hold all CPUs.
        made = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            _Actor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_gpus=self.gpus,
            fn_constructor_kwargs={"make_encoder": self.make_encoder, "work": work, "tasks": self._tasks},
            max_restarts=-1,
            max_task_retries=-1,
        )
        entries = []
        for row in made.iter_rows():
            if row["kind"]:
                raise getattr(errors, row["kind"])(row["message"])
            packed = shard.Packed(Entry(*_values(row)), row["data"])
            entries.append(shard.write(work.folder, packed))
            progress(packed.entry.rows + packed.entry.rejected)
        self._tasks = []
        return entries


class _Actor:
    """A model that makes shards."""

    def __init__(self, make_encoder: Callable[[], Encoder], work: ShardWork, tasks: Sequence[Any]) -> None:
        self._encoder = make_encoder()
        self._work = work
        self._tasks = tasks

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A shard as a row that Ray can carry, or what keeps it from being made."""
        import ray

        [number] = batch["id"]
        try:
            packed = self._work.make(ray.get(self._tasks[int(number)]), self._encoder)
        except errors.EchoembedError as error:  # as itself: Ray would wrap it, and try again
            return _row(Entry("", 0, 0, 0, 0, 0, ""), b"", type(error).__name__, str(error))
        return _row(packed.entry, bytes(packed.data), "", "")


def _row(entry: Entry, data: bytes, kind: str, message: str) -> dict[str, Any]:
    columns = {**entry._asdict(), "data": data, "kind": kind, "message": message}
    return {
        name: np.array([value], dtype=None if isinstance(value, int) else object) for name, value in columns.items()
    }


def _values(row: Mapping[str, Any]) -> list[Any]:
    return [row[name] if isinstance(row[name], str) else int(row[name]) for name in Entry._fields]
