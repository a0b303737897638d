"""The search index: a LanceDB table made from the shards, which can be deleted at any time and is then made again.

Where a corpus has changed, rows that are as they were stay in the table and in its indexes; the others come and go.

Shapes: N rows of a shard, D dimension of their vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from echoembed import errors, versions
from echoembed.corpus import folder as corpus_folder
from echoembed.corpus import shard
from echoembed.corpus.manifest import MANIFEST, SHARDS, Manifest
from echoembed.files import reason_of, system_reason, write_text

if TYPE_CHECKING:
    import pyarrow as pa

EXACT_BELOW = 200_000
TABLE = "texts"
BUILT = "built.json"
ROW = "_row_hash"
"""The column that stands for all of a row: its hash."""
LAYOUT = 2
LEFT_OUT = ("text_hash", "scale", "dropped_tokens")


def open_table(folder: Path, manifest: Manifest, *, exact_below: int = EXACT_BELOW, rebuild: bool = False) -> Any:
    """Open the table of a corpus; build it first if there is none, or if the corpus has changed since.

    Args:
        folder: The corpus's folder.
        manifest: The corpus's manifest.
        exact_below: With this number of rows or more, vectors get an index; with fewer, a search compares with all.
        rebuild: Whether to build the table even if it seems to be there, because it did not answer.

    Raises:
        LibraryError: If LanceDB is not installed.
        CorpusError: If a shard is damaged or missing.
        FileError: If the table cannot be written, such as for lack of room.
    """
    wanted = _stamp(manifest, exact_below)
    if rebuild or _built(folder) != wanted:
        if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise errors.corpus_index_unwritable(folder, "you may not write to it")
        with corpus_folder.locked(folder, ".index.lock", wait=True):
            if rebuild or _built(folder) != wanted:  # another search has built it while this one waited
                _make(folder, manifest, wanted, exact_below, update=not rebuild)
    try:
        return _connect(folder / corpus_folder.INDEX).open_table(TABLE)
    except (ValueError, RuntimeError, OSError):
        if rebuild:
            raise
    return open_table(folder, manifest, exact_below=exact_below, rebuild=True)


def _connect(folder: Path) -> Any:
    with versions.needed("lancedb", extra="corpus", purpose="Searching a corpus"):
        import lancedb
    return lancedb.connect(str(folder))


class _Stamp(NamedTuple):
    """Hashes of what a table must hold: of its rows, and of what all its rows have in common."""

    rows: str
    kind: str


def _stamp(manifest: Manifest, exact_below: int) -> _Stamp:
    names = [entry.name for entry in manifest.shards]
    common = [LAYOUT, manifest.identity.as_dict(), manifest.precision, manifest.dimension, manifest.keep]
    kind = json.dumps([*common, manifest.rows >= exact_below], sort_keys=True)
    return _Stamp(*(hashlib.sha256(about.encode()).hexdigest() for about in (json.dumps(names), kind)))


def _built(folder: Path) -> _Stamp | None:
    try:
        return _Stamp(**json.loads((folder / corpus_folder.INDEX / BUILT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _make(folder: Path, manifest: Manifest, stamp: _Stamp, exact_below: int, *, update: bool) -> None:
    """Bring the table up to date if it is one of this kind, else build it."""
    _check(folder, manifest)
    there = _built(folder)
    if update and there is not None and there.kind == stamp.kind and _update(folder, manifest, stamp):
        return
    _build(folder, manifest, stamp, exact_below)


def _update(folder: Path, manifest: Manifest, stamp: _Stamp) -> bool:
    """Put new rows into the table and take out those that are gone; whether that went well.

    Killed in between, it leaves a table whose stamp does not fit, so that the next search does it again.
    """
    import pyarrow as pa

    schema = _schema(manifest)
    reader = pa.RecordBatchReader.from_batches(schema, _batches(folder, manifest, schema))
    try:
        table = _connect(folder / corpus_folder.INDEX).open_table(TABLE)
        merge = table.merge_insert(ROW).when_not_matched_insert_all().when_not_matched_by_source_delete()
        merge.execute(reader)
        table.optimize()
        write_text(folder / corpus_folder.INDEX / BUILT, json.dumps(stamp._asdict()))
    except (ValueError, RuntimeError, OSError):  # a damaged table: it is built
        return False
    return True


def _build(folder: Path, manifest: Manifest, stamp: _Stamp, exact_below: int) -> None:
    """Build a table beside the old one, and replace the old one when the new one is whole."""
    unfinished = folder / f".{corpus_folder.INDEX}.new"
    target = folder / corpus_folder.INDEX
    shutil.rmtree(unfinished, ignore_errors=True)
    schema = _schema(manifest)
    try:
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(schema, _batches(folder, manifest, schema))
        table = _connect(unfinished).create_table(TABLE, data=reader)
        _index(table, vectors=manifest.rows >= exact_below)
        (unfinished / BUILT).write_text(json.dumps(stamp._asdict()), encoding="utf-8")
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        unfinished.rename(target)
    except errors.EchoembedError:
        raise
    except OSError as error:
        raise errors.output_unwritable(target, reason_of(error)) from error
    except Exception as error:  # LanceDB has no error classes of its own; a full disk raises RuntimeError
        raise errors.output_unwritable(target, system_reason(error) or str(error).splitlines()[0]) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check(folder: Path, manifest: Manifest) -> None:
    """Check that every shard is as it was written, before the table is begun: LanceDB wraps errors raised later.

    Raises:
        CorpusError: If a shard is missing or damaged.
    """
    wanted = shard.schema(manifest.dimension, manifest.precision, manifest.keep)
    for entry in manifest.shards:
        path = folder / SHARDS / entry.name
        try:
            path.open("rb").close()
        except FileNotFoundError as error:
            raise errors.corpus_damaged(path, "it is missing") from error
        except OSError as error:
            raise errors.file_unreadable(str(path), reason_of(error)) from error
        if shard.whole(path) != entry.sha256:
            raise errors.corpus_damaged(path, "its bytes have changed since it was written")
        columns, rows = shard.shape_of(path)
        if rows != entry.rows or not columns.equals(wanted):
            raise errors.corpus_damaged(folder / MANIFEST, f"it does not describe the columns and rows of {entry.name}")


def _schema(manifest: Manifest) -> pa.Schema:
    """Return the table's columns: those of the shards without ``LEFT_OUT``, with vectors in floating point."""
    import pyarrow as pa

    columns = shard.schema(manifest.dimension, manifest.precision, manifest.keep)
    half = manifest.precision == "float16"
    vector = pa.list_(pa.field("item", pa.float16() if half else pa.float32()), manifest.dimension)
    kept = [pa.field(field.name, field.type) for field in columns if field.name not in LEFT_OUT]
    fields = [pa.field("vector", vector) if field.name == "vector" else field for field in kept]
    return pa.schema([*fields, pa.field(ROW, pa.string())])


def _batches(folder: Path, manifest: Manifest, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all shards; only one shard is in memory at a time."""
    import pyarrow as pa

    for entry in manifest.shards:
        table = shard.read(folder / SHARDS / entry.name)
        if not table.num_rows:
            continue
        vectors_ND = shard.stored_of(table).unit()
        values = pa.array(
            np.ascontiguousarray(vectors_ND.reshape(-1), schema.field("vector").type.value_type.to_pandas_dtype())
        )
        vector = pa.FixedSizeListArray.from_arrays(values, type=schema.field("vector").type)
        replaced = {"vector": vector, ROW: pa.array(_row_hashes(table, manifest))}
        columns = [replaced[name] if name in replaced else table.column(name).combine_chunks() for name in schema.names]
        yield pa.record_batch(columns, schema=schema)


def _row_hashes(table: pa.Table, manifest: Manifest) -> list[str]:
    """What stands for each row: where its text is from, the text, and the kept columns."""
    names = ["id", "chunk", "start", "end", *(kept.name for kept in manifest.keep)]
    hashes = table.column("text_hash").to_pylist()
    return [
        hashlib.blake2b(json.dumps(row, sort_keys=True).encode() + hash_, digest_size=16).hexdigest()
        for row, hash_ in zip(table.select(names).to_pylist(), hashes, strict=True)
    ]


def _index(table: Any, *, vectors: bool) -> None:
    from lancedb.index import FTS, IvfPq

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Texts may be in any language; LanceDB's stemming and stop words are for English.
        table.create_index("text", config=FTS(stem=False, remove_stop_words=False))
        if vectors:
            table.create_index("vector", config=IvfPq(distance_type="cosine"))
