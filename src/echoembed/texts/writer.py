"""The base of all writers, which checks the vectors, and leaves a complete file or none.

Shapes: N vectors of a chunk, D their dimension.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from echoembed import errors
from echoembed.files import WholeFile, commit, reason_of
from echoembed.texts.rows import Item

Vectors = NDArray[np.float32]


class Stamp(NamedTuple):
    """The origin of vectors, stored with them; vectors with different fingerprints must not be compared.

    Attributes:
        model: The model's name or folder.
        revision: The model's revision, 40 hexadecimal digits.
        recipe: The recipe's name.
        fingerprint: The fingerprint of model and recipe, with both templates.
        kind: The template with which the texts were read, ``query`` or ``document``.
        instruction: The text in place of its ``{instruction}``; empty if it has none.
        numerics: Settings that change only the last digits, such as the dtype.
    """

    model: str
    revision: str
    recipe: str
    fingerprint: str
    kind: str
    instruction: str
    numerics: str = ""


class Writer:
    """The base of writers: a context manager whose file appears under its name when the block ends without an error.

    Args:
        target: The file, or an open stream, such as standard output, that is written directly.
        stamp: The origin of the vectors.
        overwrite: Whether an existing file is replaced.

    Attributes:
        count: The number of vectors written so far.
        dimension: The vectors' dimension; 0 until the first vectors are written.

    Raises:
        FileError: If the file exists or cannot be written; nothing of it is left.
        ModelError: If a vector is not finite, is zero, or is missing.
    """

    def __init__(self, target: Path | BinaryIO, stamp: Stamp, *, overwrite: bool = False) -> None:
        self.stamp = stamp
        self.count = 0
        self.dimension = 0
        self._target = target
        self._overwrite = overwrite
        self._stack = contextlib.ExitStack()
        self._files: list[WholeFile] = []

    @classmethod
    def paths(cls, path: Path) -> list[Path]:
        """Return the files that are written for a target, the target first."""
        return [path]

    def __enter__(self) -> Self:
        if isinstance(self._target, Path):
            with contextlib.ExitStack() as stack:  # closes the first file if the second cannot be opened
                for path in self.paths(self._target):
                    self._files.append(stack.enter_context(WholeFile(path, overwrite=self._overwrite)))
                self._stack = stack.pop_all()
            self._handle = self._files[0].handle
        else:
            self._handle = self._target
        return self

    def write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        """Write the vectors of a chunk of texts."""
        if vectors_ND.ndim != 2 or len(vectors_ND) != len(items) or self.dimension not in (0, vectors_ND.shape[1]):
            raise errors.vectors_misshapen(f"({len(items)}, {self.dimension or 'any'})", vectors_ND.shape)
        vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
        not_finite_N = ~np.isfinite(vectors_ND).all(axis=1)
        zero_N = ~vectors_ND.any(axis=1)
        for bad_N, reason in ((not_finite_N, "is not finite"), (zero_N, "is zero")):
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
        if isinstance(error, (errors.FileError, BrokenPipeError)):  # the reader of a pipe may close it at any time
            return error
        if isinstance(self._target, Path):
            return errors.output_unwritable(self._target, reason_of(error))
        return errors.stream_unwritable(reason_of(error))

    def _begin(self) -> None:
        """Write what comes before the first vector; the dimension is known."""

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """Write what comes after the last vector."""

    def _abandon(self) -> None:
        """Release resources; called whether the block failed or not."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            try:
                if error is None:
                    self._commit()
            finally:
                self._abandon()

    def _commit(self) -> None:
        try:
            self._end()
            self._handle.flush()
            for file in self._files:
                file.seal()
            if self._files:
                commit(list(reversed(self._files)))  # the vectors last: if they are there, all files are
        except OSError as error:
            raise self._unwritable(error) from error
