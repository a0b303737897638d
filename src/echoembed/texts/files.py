"""A file that is whole under its name, or not there at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from echoembed import errors


class WholeFile:
    """A file written beside its target, which takes its name only when ``commit`` is called.

    As a context manager it removes what was written if the block fails or never commits.

    Args:
        path: The target.
        overwrite: Whether a target that exists is replaced.

    Attributes:
        handle: Where to write, until committed.

    Raises:
        FileError: If the target exists, or nothing can be written beside it.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        self._check_free()
        target = self.path.resolve()  # a link stays a link: what it names is replaced
        self._target = target
        self._part = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
        try:
            self.handle: BinaryIO = self._part.open("xb")
        except OSError as error:
            raise self.unwritable(error) from error

    def _check_free(self) -> None:
        if self.path.is_dir():
            raise errors.output_unwritable(self.path, "it is a folder")
        if self.path.exists() and not self._overwrite:
            raise errors.output_exists(self.path)

    def unwritable(self, error: OSError) -> errors.FileError:
        """What an error of the operating system means for this file."""
        return errors.output_unwritable(self.path, error.strerror or str(error))

    def commit(self) -> None:
        """Put the file under its name.

        Raises:
            FileError: If the disk is full, or the target has appeared meanwhile.
        """
        try:
            self.handle.flush()
            os.fsync(self.handle.fileno())
            self.handle.close()
            self._check_free()
            self._part.replace(self._target)
        except errors.FileError:
            raise
        except OSError as error:
            raise self.unwritable(error) from error

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses once more
            self.handle.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
