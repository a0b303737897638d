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
    """A file written beside its target, which takes the target's name only by ``commit``.

    As a context manager it removes what was written if the block fails or never commits.

    Args:
        path: The target.
        overwrite: Whether a target that exists is replaced.

    Attributes:
        handle: Where to write, until sealed.

    Raises:
        FileError: If the target exists, or nothing can be written beside it.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        check_free(self.path, overwrite=overwrite)
        self._target = self.path.resolve()  # a link stays a link: what it names is replaced
        self._part = self._target.with_name(f".{self._target.name[:100]}.{secrets.token_hex(4)}.part")
        self._before = self._part.with_suffix(".before")
        self._fresh = self._committed = False
        try:
            self.handle: BinaryIO = self._part.open("xb")
        except OSError as error:
            raise errors.output_unwritable(self.path, reason_of(error)) from error

    def seal(self) -> None:
        """Bring everything to the disk; nothing can be written after it.

        Raises:
            FileError: If the disk is full, or the target has appeared meanwhile.
        """
        try:
            self.handle.flush()
            os.fsync(self.handle.fileno())
            self.handle.close()
        except OSError as error:
            raise errors.output_unwritable(self.path, reason_of(error)) from error
        check_free(self.path, overwrite=self._overwrite)

    def commit(self) -> None:
        """Give the sealed file its name.

        Raises:
            FileError: If the system refuses.
        """
        self._fresh = not self._target.exists()
        with contextlib.suppress(OSError):  # what is replaced, until the block ends; not every disk has links
            self._before.hardlink_to(self._target)
        try:
            self._part.replace(self._target)
            self._committed = True
        except OSError as error:
            raise errors.output_unwritable(self.path, reason_of(error)) from error

    def take_back(self) -> None:
        """Undo ``commit``, for a file that belongs to others that could not be committed."""
        with contextlib.suppress(OSError):
            if self._before.exists():
                self._before.replace(self._target)
            elif self._committed and self._fresh:
                self._target.unlink()

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses once more
            self.handle.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._before.unlink(missing_ok=True)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be, or must not be, replaced.

    Raises:
        FileError: If it is a folder, or exists and must not be overwritten, or its folder is missing.
    """
    if path.is_dir():
        raise errors.output_unwritable(path, "it is a folder")
    if path.exists() and not overwrite:
        raise errors.output_exists(path)
    if not path.resolve().parent.is_dir():
        raise errors.output_unwritable(path, "its folder does not exist")


def reason_of(error: OSError) -> str:
    """What the operating system says, as messages hold it."""
    return error.strerror or str(error)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: after a crash of the machine a renamed file has its new name.

    Raises:
        OSError: If the system refuses.
    """
    if os.name != "posix":  # elsewhere a folder cannot be opened, and need not be
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
