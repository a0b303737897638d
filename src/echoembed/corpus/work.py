"""Types that the parts of a build share: a shard to make, the engine that makes it, progress, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from echoembed.corpus import shard
from echoembed.corpus.embed import Known, embed_records
from echoembed.corpus.encoder import Encoder
from echoembed.corpus.groups import Reading
from echoembed.corpus.manifest import Manifest
from echoembed.corpus.records import Record
from echoembed.corpus.shard import Entry, Precision


class ShardTask(NamedTuple):
    """A shard to make."""

    number: int
    key: str
    records: Sequence[Record]
    known: Mapping[bytes, Known]


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """Settings that all shards of a build share.

    Attributes:
        folder: The folder of the shards.
        reading: How the inputs are read.
        precision: How vectors are stored.
        dimension: The vectors' dimension.
        refuse_cut: Whether a text over the budget is rejected rather than cut.
        about: Identity and settings, which every shard stores.
    """

    folder: Path
    reading: Reading
    precision: Precision
    dimension: int
    refuse_cut: bool
    about: Mapping[str, Any]

    def make(self, task: ShardTask, encoder: Encoder, progress: Callable[[int], None] = lambda _: None) -> shard.Packed:
        """Embed the texts of a shard, and pack it."""
        identity = self.about["identity"]
        embedded = embed_records(
            encoder,
            task.records,
            task.known,
            precision=self.precision,
            numerics=identity["numerics"],
            refuse_cut=self.refuse_cut,
            progress=progress,
        )
        table = shard.table_of(embedded, self.dimension, self.precision, self.reading.keep)
        about = {**self.about, "identity": {**identity, "numerics": dict(embedded.numerics)}}
        packed = shard.pack(task.number, task.key, table, embedded.rejected, about)
        return packed._replace(embedded=embedded.embedded)


class Engine(Protocol):
    """Makes shards."""

    def submit(self, task: ShardTask, work: ShardWork, progress: Callable[[int], None]) -> Entry | None:
        """Make a shard now and return its entry, or postpone it to ``finish``."""

    def finish(self, work: ShardWork, progress: Callable[[int], None]) -> list[Entry]:
        """Make the shards that were postponed."""


@dataclass
class Here(Engine):
    """Makes each shard when it is submitted, in this process."""

    encoder: Encoder

    def submit(self, task: ShardTask, work: ShardWork, progress: Callable[[int], None]) -> Entry:
        """Make a shard now."""
        return shard.write(work.folder, work.make(task, self.encoder, progress))

    def finish(self, work: ShardWork, progress: Callable[[int], None]) -> list[Entry]:
        """Return nothing: no shard was postponed."""
        return []


@dataclass
class Report:
    """The result of a build.

    Attributes:
        manifest: The corpus's new manifest.
        embedded: How many texts the model embedded; of equal texts, one.
        reused: How many texts have the vector that the corpus had for them before.
        kept_shards: How many shards existed already.
        made_shards: How many shards were made.
        ignored: How many files of other kinds there are in the inputs' folders.
        remarks: A line for each damage that was repaired, and for each difference in numerics.
        seconds: How long the build took.
    """

    manifest: Manifest
    embedded: int = 0
    reused: int = 0
    kept_shards: int = 0
    made_shards: int = 0
    ignored: int = 0
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def repeated(self) -> int:
        """Return the number of texts that equal one that was embedded, and have its vector."""
        return self.manifest.rows - self.embedded - self.reused


class BuildProgress(NamedTuple):
    """The progress of a build.

    Attributes:
        embedded: How many texts have been embedded so far.
        done: How many texts the shards so far have, embedded now or earlier.
        expected: An estimate of the number of texts in all, from the bytes read so far.
    """

    embedded: int
    done: int
    expected: int
