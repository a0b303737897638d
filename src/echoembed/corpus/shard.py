"""One shard: a Parquet file whose name contains the key of its rows and the hash of its bytes.

A folder of shards therefore needs no journal: a file's name tells which rows it holds and whether it is undamaged.

Shapes: N rows of a shard, D dimension of their vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.corpus.records import HASH_BYTES, Keep, Record
from echoembed.files import WholeFile, reason_of, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

Precision = Literal["float32", "float16", "int8"]
PRECISIONS = ("float32", "float16", "int8")
NAME = re.compile(r"(\d{6,})-([0-9a-f]{16})-([0-9a-f]{16})\.parquet")
META = b"echoembed"
LAYOUT = 2  # of what a shard says of itself
INT8_TOP = 127


class Entry(NamedTuple):
    """A shard as the manifest names it.

    Attributes:
        name: The file's name: number, key of the rows, start of the file's hash.
        rows: How many texts have a vector.
        rejected: How many texts the model could not embed.
        dropped_texts: How many texts were cut.
        dropped_tokens: How many tokens were cut off.
        bytes: The file's size.
        sha256: The file's hash.
    """

    name: str
    rows: int
    rejected: int
    dropped_texts: int
    dropped_tokens: int
    bytes: int
    sha256: str

    def checked(self) -> Entry:
        """The entry itself, if it is one that ``pack`` makes.

        Raises:
            ValueError: If it is not.
        """
        numbers = (self.rows, self.rejected, self.dropped_texts, self.dropped_tokens, self.bytes)
        if not isinstance(self.name, str) or NAME.fullmatch(self.name) is None:
            raise ValueError(f"a shard of the name {self.name!r}")
        if any(type(number) is not int or number < 0 for number in numbers) or not isinstance(self.sha256, str):
            raise ValueError(f"the numbers of {self.name}")
        return self

    @property
    def number(self) -> int:
        """Return the shard's number in the corpus, from 0."""
        return int(self.name.split("-")[0])

    @property
    def key(self) -> str:
        """Return the key of the shard's rows."""
        return self.name.split("-")[1]


class Stored(NamedTuple):
    """Vectors as a shard stores them: integers times ``scale_N`` for int8; otherwise, ``scale_N`` is 1."""

    values_ND: NDArray[Any]
    scale_N: NDArray[np.float32]

    @classmethod
    def of(cls, vectors_ND: NDArray[np.float32], precision: Precision) -> Stored:
        """Convert unit vectors to a precision; for int8, each vector is scaled so that its largest value is 127."""
        if precision != "int8":
            return cls(vectors_ND.astype(precision), np.ones(len(vectors_ND), np.float32))
        scale_N = (np.abs(vectors_ND).max(axis=1) / INT8_TOP).astype(np.float32)
        return cls(np.rint(vectors_ND / scale_N[:, None]).astype(np.int8), scale_N)

    def unit(self) -> NDArray[np.float32]:
        """Return the vectors in float32, scaled to length 1."""
        vectors_ND = self.values_ND.astype(np.float32) * self.scale_N[:, None]
        if self.values_ND.dtype == np.float32:
            return vectors_ND
        return np.asarray(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), np.float32)


Rejection = tuple[int, str]
"""The number of a rejected record among the records of its shard, and the reason, with ``PLACE`` for its place."""


class EmbeddedRecords(NamedTuple):
    """The records of a shard that have a vector, with the vectors, and the rejections of the others.

    Attributes:
        records: The records with a vector.
        stored: Their vectors.
        dropped: How many tokens of each were cut off.
        rejected: The other records.
        numerics: How the vectors were computed.
        embedded: How many texts the model embedded; the vectors of the others were copied.
    """

    records: Sequence[Record]
    stored: Stored
    dropped: Sequence[int]
    rejected: Sequence[Rejection]
    numerics: Mapping[str, object]
    embedded: int


def schema(dimension: int, precision: Precision, keep: Sequence[Keep]) -> pa.Schema:
    """Return the columns of all shards."""
    import pyarrow as pa

    value = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[precision]
    types = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    vector = pa.list_(pa.field("item", value, nullable=False), dimension)
    fields = [
        ("id", pa.string()),
        ("chunk", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("text_hash", pa.binary(HASH_BYTES)),
        ("vector", vector),
        *([("scale", pa.float32())] if precision == "int8" else []),
        ("dropped_tokens", pa.int32()),
    ]
    required = [pa.field(name, type_, nullable=False) for name, type_ in fields]
    return pa.schema([*required, *(pa.field(kept.name, types[kept.type]) for kept in keep)])


def table_of(embedded: EmbeddedRecords, dimension: int, precision: Precision, keep: Sequence[Keep]) -> pa.Table:
    """Make the table of a shard."""
    import pyarrow as pa

    columns_schema = schema(dimension, precision, keep)
    records, stored = embedded.records, embedded.stored
    columns: dict[str, Any] = {
        "id": [record.id for record in records],
        "chunk": [record.chunk for record in records],
        "start": [record.start for record in records],
        "end": [record.end for record in records],
        "text": [record.text for record in records],
        "text_hash": [record.hash for record in records],
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(stored.values_ND).reshape(-1)), type=columns_schema.field("vector").type
        ),
        "scale": pa.array(stored.scale_N),
        "dropped_tokens": list(embedded.dropped),
    }
    columns |= {kept.name: [record.kept[place] for record in records] for place, kept in enumerate(keep)}
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field in columns_schema
        for column in [columns[field.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=columns_schema)


class Packed(NamedTuple):
    """A shard in memory, not written yet, and the number of its texts that the model embedded for it."""

    entry: Entry
    data: bytes | memoryview
    embedded: int = 0


def pack(number: int, key: str, table: pa.Table, rejected: Sequence[Rejection], about: Mapping[str, object]) -> Packed:
    """Make the bytes of a shard, and its name.

    Args:
        number: The shard's number in the corpus.
        key: The key of its rows.
        table: The rows.
        rejected: Texts that the model could not embed; stored in the shard, so that the next build does not try again.
        about: Identity and settings, stored in the shard, so that it can be used without the manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = {**about, "key": key, "rejected": [list(rejection) for rejection in rejected]}
    table = table.replace_schema_metadata({META: json.dumps(meta, sort_keys=True)})
    sink = pa.BufferOutputStream()
    packing = {name: "none" if name in ("vector", "scale") else "zstd" for name in table.schema.names}
    packing["vector.list.element"] = "none"  # vectors hardly shrink
    # Parquet has no integers under 32 bits; a dictionary of their 255 values stores each in one byte.
    in_bytes = ["vector.list.element"] if "scale" in table.schema.names else False
    pq.write_table(table, sink, compression=packing, use_dictionary=in_bytes, write_statistics=["id"])
    data = memoryview(sink.getvalue())
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{number:06d}-{key}-{sha256[:16]}.parquet"
    return Packed(_entry(name, table, len(rejected), len(data), sha256), data)


def write(folder: Path, packed: Packed) -> Entry:
    """Write a shard, synced and then renamed, so that the file is complete or not there.

    Raises:
        FileError: If the disk is full or cannot be written to.
    """
    path = folder / packed.entry.name
    try:
        with WholeFile(path, overwrite=True) as file:
            file.handle.write(packed.data)
            file.seal()
            file.commit()
        sync_folder(folder)
    except errors.FileError:
        raise
    except OSError as error:
        raise errors.output_unwritable(path, reason_of(error)) from error
    return packed.entry


def _entry(name: str, table: pa.Table, rejected: int, size: int, sha256: str) -> Entry:
    dropped_N = table.column("dropped_tokens").to_numpy()
    return Entry(name, table.num_rows, rejected, int((dropped_N > 0).sum()), int(dropped_N.sum()), size, sha256)


def whole(path: Path) -> str | None:
    """Return the hash of a shard's bytes, or None if the shard is damaged."""
    match = NAME.fullmatch(path.name)
    try:
        with path.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return None
    return sha256 if match and sha256.startswith(match[3]) else None


def entry_of(path: Path) -> Entry | None:
    """Return the entry of a shard on disk, or None if the shard is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sha256 = whole(path)
    if sha256 is None:
        return None
    with contextlib.suppress(pa.ArrowException, OSError, ValueError, KeyError):
        table = pq.read_table(path, columns=["dropped_tokens"], use_threads=False)
        return _entry(path.name, table, len(meta_of(path)["rejected"]), path.stat().st_size, sha256)
    return None


def meta_of(path: Path) -> dict[str, Any]:
    """Read a shard's metadata: identity, settings, key, and rejections.

    Raises:
        CorpusError: If the shard cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta: dict[str, Any] = json.loads(pq.read_schema(path).metadata[META])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.corpus_damaged(path, str(error).splitlines()[0] if str(error) else "it has no notes") from error
    return meta


def rejections_of(path: Path) -> list[Rejection]:
    """Read the rejections of a shard.

    Raises:
        CorpusError: If the shard cannot be read.
    """
    return [(row, reason) for row, reason in meta_of(path)["rejected"]]


def numerics_of(path: Path) -> Mapping[str, object]:
    """Read how the vectors of a shard were computed.

    Raises:
        CorpusError: If the shard cannot be read.
    """
    numerics: Mapping[str, object] = meta_of(path)["identity"]["numerics"]
    return numerics


def shape_of(path: Path) -> tuple[pa.Schema, int]:
    """Return the columns of a shard, without what it says of itself, and the number of its rows.

    Raises:
        CorpusError: If it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        return metadata.schema.to_arrow_schema().remove_metadata(), metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise errors.corpus_damaged(path, str(error).splitlines()[0]) from error


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of a shard.

    Raises:
        CorpusError: If the shard cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise errors.corpus_damaged(path, str(error).splitlines()[0]) from error


def stored_of(table: pa.Table) -> Stored:
    """Return the vectors of a shard's rows."""
    column = table.column("vector").combine_chunks()
    values_ND = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    if "scale" in table.schema.names:
        return Stored(values_ND, table.column("scale").to_numpy())
    return Stored(values_ND, np.ones(len(values_ND), np.float32))
