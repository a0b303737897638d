"""What all writers do: check the vectors, and leave a whole file or none.

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
    """Where vectors come from; vectors with different fingerprints must not be compared.

    Attributes:
        model: Name or folder.
        revision: 40 hexadecimal digits.
        recipe: Its name.
        fingerprint: The fingerprint of model and recipe, with both templates.
        kind: The template that the texts were read with, ``query`` or ``document``.
        instruction: What stood in its ``{instruction}``; empty where it has none.
        numerics: What moves no more than the last digits, such as the dtype.
    """

    model: str
    revision: str
    recipe: str
    fingerprint: str
    kind: str
    instruction: str
    numerics: str = ""


class Writer:
    """Base of the writers: a context manager that puts the file under its name when the block ends well.

    Args:
        target: The file, or an open stream that is written to as it is, such as standard output.
        stamp: Where the vectors come from.
        overwrite: Whether a file that exists is replaced.

    Attributes:
        count: Vectors written so far.
        dimension: The vectors' dimension; 0 until the first are written.

    Raises:
        FileError: If the file exists or cannot be written; nothing of it is left.
        ModelError: If a vector is not finite, or zero, or one is missing.
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
        """The files that are written for a target, the target first."""
        return [path]

    def __enter__(self) -> Self:
        if isinstance(self._target, Path):
            with contextlib.ExitStack() as stack:  # closes the first if the second cannot be opened
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
        if isinstance(error, (errors.FileError, BrokenPipeError)):  # who reads a pipe may leave when they like
            return error
        if isinstance(self._target, Path):
            return errors.output_unwritable(self._target, reason_of(error))
        return errors.stream_unwritable(reason_of(error))

    def _begin(self) -> None:
        """What comes before the first vector; the dimension is known."""

    def _write(self, items: Sequence[Item], vectors_ND: Vectors) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """What comes after the last vector."""

    def _abandon(self) -> None:
        """What is to be let go of when the block failed."""

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
                commit(list(reversed(self._files)))  # the vectors last: where they are, all is
        except OSError as error:
            raise self._unwritable(error) from error
