"""Writing vectors in order and in flat memory: ``.npy``, ``.jsonl`` and ``.parquet``, whole or not at all.

Shapes: N vectors of a chunk, D their dimension.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.texts.files import WholeFile
from echoembed.texts.items import Item

Vectors = NDArray[np.float32]
GROUP_BYTES = 8 * 2**20


class Stamp(NamedTuple):
    """Where vectors come from; vectors with different fingerprints must not be compared."""

    model: str
    revision: str
    recipe: str
    fingerprint: str


class Writer:
    """Base of the writers: checks vectors, and leaves no file behind unless the block ended well.

    Args:
        path: The file; None where ``handle`` is given.
        stamp: Where the vectors come from.
        overwrite: Whether a file that exists is replaced.
        handle: An open stream to write to as it is, such as standard output.

    Attributes:
        count: Vectors written so far.
        dimension: Of the vectors; 0 until the first are written.

    Raises:
        FileError: If the file exists or cannot be written; nothing of it is left.
        ModelError: If a vector is not finite or is zero.
    """

    def __init__(
        self, path: str | Path | None, stamp: Stamp, *, overwrite: bool = False, handle: BinaryIO | None = None
    ) -> None:
        self.stamp = stamp
        self.count = 0
        self.dimension = 0
        self._stack = contextlib.ExitStack()
        self._files: list[WholeFile] = []
        self._name: str | Path = "standard output" if path is None else path
        self._handle = handle or self._file(Path(str(path)), overwrite).handle

    def _file(self, path: Path, overwrite: bool) -> WholeFile:
        file = self._stack.enter_context(WholeFile(path, overwrite=overwrite))
        self._files.append(file)
        return file

    def write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        """Write the vectors of a chunk of texts."""
        wanted = f"({len(items)}, {self.dimension or 'D'})"
        if vectors_ND.ndim != 2 or len(vectors_ND) != len(items) or self.dimension not in (0, vectors_ND.shape[1]):
            raise errors.vectors_misshapen(wanted, vectors_ND.shape)
        vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
        finite_N = np.isfinite(vectors_ND).all(axis=1)
        for bad_N, reason in ((~finite_N, "is not finite"), (~vectors_ND.any(axis=1), "is zero")):
            if bad_N.any():
                raise errors.vector_unusable(items[int(bad_N.argmax())].where, reason)
        try:
            if not self.dimension:
                self.dimension = vectors_ND.shape[1]
                self._begin()
            self._write(items, vectors_ND)
        except OSError as error:
            raise self._unwritable(error) from error
        self.count += len(items)

    def _unwritable(self, error: OSError) -> OSError:
        if isinstance(error, (errors.FileError, BrokenPipeError)):  # the reader of a pipe may go whenever it likes
            return error
        return errors.output_unwritable(self._name, error.strerror or str(error))

    def _begin(self) -> None:
        """What comes before the first vector; the dimension is known."""

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """What comes after the last vector."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                return
            try:
                self._end()
                self._handle.flush()
                for file in reversed(self._files):  # the vectors themselves come last
                    file.commit()
            except OSError as problem:
                raise self._unwritable(problem) from problem


class NpyWriter(Writer):
    """A float32 array of shape (N, D), and beside it a ``.json`` that says where it comes from.

    The array's shape is put into the header at the end: numpy's header leaves room for it to grow.
    """

    def __init__(self, path: str | Path, stamp: Stamp, *, overwrite: bool = False) -> None:
        super().__init__(path, stamp, overwrite=overwrite)
        self._beside = Path(path).with_suffix(".json")
        with self._stack.pop_all() as undo:  # kept open only if the second file can be written too
            self._stack.enter_context(undo)
        self._notes = self._file(self._beside, overwrite)

    def _begin(self) -> None:
        self._header(0)

    def _header(self, count: int) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, self.dimension)}
        np.lib.format.write_array_header_1_0(self._handle, header)  # type: ignore[no-untyped-call]

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        self._handle.write(vectors_ND.astype("<f4", copy=False).data)

    def _end(self) -> None:
        self._handle.seek(0)
        self._header(self.count)
        notes = {**self.stamp._asdict(), "count": self.count, "dimension": self.dimension}
        self._notes.handle.write((json.dumps(notes, indent=2, ensure_ascii=False) + "\n").encode())


class JsonlWriter(Writer):
    """An object a line: ``id``, ``text``, ``vector``, ``fingerprint``."""

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        # The shortest digits that give the same float32 back: half the size of what json makes of them.
        for item, digits_D in zip(items, vectors_ND.astype("S16").tolist(), strict=True):
            head = json.dumps({"id": item.id, "text": item.text}, ensure_ascii=False)[:-1].encode()
            end = json.dumps(self.stamp.fingerprint).encode()
            self._handle.write(b'%b, "vector": [%b], "fingerprint": %b}\n' % (head, b", ".join(digits_D), end))
        self._handle.flush()


class ParquetWriter(Writer):
    """Columns ``id``, ``text``, ``vector`` (a list of fixed size) and ``fingerprint``; the stamp in the metadata."""

    def __init__(self, path: str | Path, stamp: Stamp, *, overwrite: bool = False) -> None:
        import pyarrow.parquet  # noqa: F401

        super().__init__(path, stamp, overwrite=overwrite)
        self._held: list[Any] = []

    def _begin(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.field("item", pa.float32(), nullable=False), self.dimension)),
            pa.field("fingerprint", pa.dictionary(pa.int32(), pa.string())),
        ]
        notes = {f"echoembed.{key}": value for key, value in self.stamp._asdict().items()}
        self._schema = pa.schema(fields, metadata=notes)
        self._parquet = pq.ParquetWriter(
            self._handle, self._schema, compression="zstd", use_dictionary=["fingerprint"], write_statistics=["id"]
        )

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        import pyarrow as pa

        names = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(items), np.int32)), pa.array([self.stamp.fingerprint])
        )
        columns = [
            pa.array([item.id for item in items]),
            pa.array([item.text for item in items]),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), type=self._schema.field("vector").type),
            names,
        ]
        self._held.append(pa.record_batch(columns, schema=self._schema))
        if sum(batch.nbytes for batch in self._held) >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._held:
            self._parquet.write_table(pa.Table.from_batches(self._held))
            self._held.clear()

    def _end(self) -> None:
        self._flush()
        self._parquet.close()


WRITERS = {".jsonl": JsonlWriter, ".npy": NpyWriter, ".parquet": ParquetWriter}


def open_writer(path: str | Path, stamp: Stamp, *, overwrite: bool = False) -> Writer:
    """The writer for a file, by its suffix."""
    check_output(path, overwrite=overwrite)
    return WRITERS[Path(path).suffix.lower()](path, stamp, overwrite=overwrite)
