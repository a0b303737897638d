"""Writing vectors in order and in constant memory: ``.npy``, ``.jsonl`` and ``.parquet``.

Shapes: N vectors of a chunk, D their dimension.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echoembed import errors
from echoembed.files import check_free
from echoembed.texts.rows import Item
from echoembed.texts.writer import Stamp, Vectors, Writer

GROUP_BYTES = 8 * 2**20


class NpyWriter(Writer):
    """Writes a float32 array of shape (N, D), and two files beside it.

    ``NAME.npy.json`` holds the stamp, ``NAME.npy.jsonl`` the ``id`` and ``text`` of each row.

    The number of rows is written into the header at the end, for which numpy leaves room.
    """

    @classmethod
    def paths(cls, path: Path) -> list[Path]:
        """Return the files of the array, its stamp and its texts."""
        return [path, path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.jsonl")]

    def _begin(self) -> None:
        self._header(0)

    def _header(self, count: int) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, self.dimension)}
        np.lib.format.write_array_header_1_0(self._handle, header)

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        self._handle.write(vectors_ND.astype("<f4", copy=False).tobytes())
        rows = (json.dumps({"id": item.id, "text": item.text}, ensure_ascii=False) for item in items)
        self._files[2].handle.writelines(f"{row}\n".encode() for row in rows)

    def _end(self) -> None:
        self._handle.seek(0)
        self._header(self.count)
        notes = {**self.stamp._asdict(), "count": self.count, "dimension": self.dimension}
        self._files[1].handle.write((json.dumps(notes, indent=2, ensure_ascii=False) + "\n").encode())


class JsonlWriter(Writer):
    """Writes an object per line: ``id``, ``text``, ``vector``, ``fingerprint``."""

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        end = json.dumps(self.stamp.fingerprint).encode()
        # The fewest digits that give the same float32, half as many as json writes.
        for item, digits_D in zip(items, vectors_ND.astype("S24").tolist(), strict=True):
            head = json.dumps({"id": item.id, "text": item.text}, ensure_ascii=False)[:-1].encode()
            self._handle.write(b'%b, "vector": [%b], "fingerprint": %b}\n' % (head, b", ".join(digits_D), end))
        self._handle.flush()


class ParquetWriter(Writer):
    """Writes columns ``id``, ``text``, ``vector`` (lists of fixed size) and ``fingerprint``; the stamp as metadata."""

    _parquet: Any = None

    def _begin(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._vector = pa.list_(pa.field("item", pa.float32(), nullable=False), self.dimension)
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("vector", self._vector, nullable=False),
            pa.field("fingerprint", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        ]
        notes = {f"echoembed.{key}": value for key, value in self.stamp._asdict().items()}
        self._schema = pa.schema(fields, metadata=notes)
        self._parquet = pq.ParquetWriter(
            self._handle,
            self._schema,
            compression={"id": "zstd", "text": "zstd"},  # vectors hardly shrink
            use_dictionary=["fingerprint"],
            write_statistics=["id"],
        )
        self._group: list[Any] = []
        self._group_bytes = 0

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        import pyarrow as pa

        zeros_N = pa.array(np.zeros(len(items), np.int32))
        columns = [
            pa.array([item.id for item in items]),
            pa.array([item.text for item in items]),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), type=self._vector),
            pa.DictionaryArray.from_arrays(zeros_N, pa.array([self.stamp.fingerprint])),
        ]
        batch = pa.record_batch(columns, schema=self._schema)
        self._group.append(batch)
        self._group_bytes += batch.nbytes
        if self._group_bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_batches(self._group))
        self._group, self._group_bytes = [], 0

    def _end(self) -> None:
        if self._group:
            self._write_group()
        self._parquet.close()

    def _abandon(self) -> None:
        if self._parquet is not None:
            with contextlib.suppress(Exception):  # a full disk refuses the footer too
                self._parquet.close()
            self._parquet.is_open = False  # otherwise it writes the footer again when it is garbage-collected


WRITERS: dict[str, type[Writer]] = {".jsonl": JsonlWriter, ".npy": NpyWriter, ".parquet": ParquetWriter}


def output_files(path: str | Path) -> list[Path]:
    """Return the files that are written for an output, by its suffix.

    Raises:
        FileError: If its suffix is unknown.
    """
    kind = WRITERS.get(Path(path).suffix.lower())
    if kind is None:
        raise errors.output_unknown(path, WRITERS)
    return kind.paths(Path(path))


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse an output that could not be written, before any work is done.

    Raises:
        FileError: If its suffix is unknown, it exists and must not be overwritten, or its folder does not exist.
    """
    for file in output_files(path):
        check_free(file, overwrite=overwrite)


def open_writer(path: str | Path, stamp: Stamp, *, overwrite: bool = False) -> Writer:
    """Return the writer for a file, by its suffix; use it in a ``with`` block.

    Raises:
        FileError: As for ``check_output``.
    """
    check_output(path, overwrite=overwrite)
    return WRITERS[Path(path).suffix.lower()](Path(path), stamp, overwrite=overwrite)
