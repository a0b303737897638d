"""What the parts of a build hand to each other: a shard to make, its maker, progress, and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

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
    """What every shard of a build has in common.

    Attributes:
        folder: The folder of the shards.
        reading: How the inputs are read.
        precision: How vectors are stored.
        dimension: The vectors' dimension.
        refuse_cut: Whether a text over the budget is set aside rather than cut.
        about: Identity and settings, which every shard carries.
    """

    folder: Path
    reading: Reading
    precision: Precision
    dimension: int
    refuse_cut: bool
    about: Mapping[str, object]

    def make(self, task: ShardTask, encoder: Encoder, progress: Callable[[int], None] = lambda _: None) -> shard.Packed:
        """Embed the texts of a shard."""
        embedded = embed_records(
            encoder,
            task.records,
            task.known,
            precision=self.precision,
            refuse_cut=self.refuse_cut,
            progress=progress,
        )
        table = shard.table_of(embedded, self.dimension, self.precision, self.reading.keep)
        return shard.pack(task.number, task.key, table, embedded.rejected, self.about)


class Engine(Protocol):
    """A maker of shards."""

    def submit(self, task: ShardTask, work: ShardWork, progress: Callable[[int], None]) -> Entry | None:
        """Make a shard now, or put it off until ``finish``."""

    def finish(self, work: ShardWork, progress: Callable[[int], None]) -> list[Entry]:
        """Make the shards that were put off."""


@dataclass
class Here(Engine):
    """Makes every shard at once, in this process."""

    encoder: Encoder

    def submit(self, task: ShardTask, work: ShardWork, progress: Callable[[int], None]) -> Entry:
        """Make a shard now."""
        return shard.write(work.folder, work.make(task, self.encoder, progress))

    def finish(self, work: ShardWork, progress: Callable[[int], None]) -> list[Entry]:
        """Nothing is left to make."""
        return []


@dataclass
class Report:
    """What a build did.

    Attributes:
        manifest: The corpus's manifest as it is now.
        embedded: Texts that the model embedded.
        kept_shards: Shards that were there already.
        made_shards: Shards that were made.
        ignored: Files of other kinds in the folders of the inputs.
        remarks: What was damaged and has been repaired, and other numerics, a line each.
        seconds: How long it took.
    """

    manifest: Manifest
    embedded: int = 0
    kept_shards: int = 0
    made_shards: int = 0
    ignored: int = 0
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def reused(self) -> int:
        """Texts whose vectors were there already."""
        return self.manifest.rows - self.embedded


class BuildProgress(NamedTuple):
    """How far a build is.

    Attributes:
        embedded: Texts embedded so far.
        done: Texts in the shards so far, embedded or found.
        expected: How many there will be in all, judged by the bytes read.
    """

    embedded: int
    done: int
    expected: int
