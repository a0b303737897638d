"""Writing files and folders so that each is complete under its name, or not there at all.

A file is written beside its target as ``.NAME.xxxxxxxx.part``, and is renamed to the target when all of it is on the
disk. Its writer holds a lock on it, which ends with the process. So a part without a lock was left by a killed run, and
the next run with the same target removes it. Two runs with one target never touch each other's files.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from echoembed import errors

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, so nothing that others left is removed
    fcntl = None  # type: ignore[assignment]

_MODEL = ("modules.json", "adapter_config.json", "vector.json")  # a saved model, an adapter, notes for llama.cpp
_NAME_LENGTH = 100
_PATIENCE = 1000


class WholeFile:
    """A file written beside its target, which gets the target's name only by ``commit``.

    As a context manager, it removes the unfinished file if the block fails or never commits.

    Args:
        path: The target.
        overwrite: Whether a target that exists is replaced.

    Attributes:
        handle: The open file, to write to until ``seal``.

    Raises:
        FileError: If the target exists, or nothing can be written beside it.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        check_free(self.path, overwrite=overwrite)
        self._target = self.path.resolve()  # a link stays a link: its target is replaced
        self._fresh = self._committed = False
        try:
            with _folder_lock(self._target.parent):
                _clear_leftovers(self._target)
                self._part = _beside(self._target)
                self.handle: BinaryIO = self._part.open("xb")
                self._locks = [_lock(os.dup(self.handle.fileno()))]
        except OSError as error:
            raise errors.output_unwritable(self.path, reason_of(error)) from error
        self._before = self._part.with_suffix(".before")

    def seal(self) -> None:
        """Write everything to the disk and close the file.

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
            FileError: If the system refuses, or the target has appeared meanwhile.
        """
        commit([self])

    def _commit(self) -> None:
        check_free(self.path, overwrite=self._overwrite)
        self._fresh = not self._target.exists()
        with contextlib.suppress(OSError):  # keeps the old file until the block ends; not every file system has links
            self._before.hardlink_to(self._target)
            self._locks.append(_lock(os.open(self._before, os.O_RDONLY)))
        try:
            self._part.replace(self._target)
            self._committed = True
            sync_folder(self._target.parent)
        except OSError as error:
            raise errors.output_unwritable(self.path, reason_of(error)) from error

    def _take_back(self) -> None:
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
        with contextlib.suppress(OSError):  # closing flushes, which fails again on a full disk
            self.handle.close()
        for path in (self._part, self._before):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        for lock in self._locks:
            with contextlib.suppress(OSError):
                os.close(lock)


def commit(files: Sequence[WholeFile]) -> None:
    """Give several sealed files of one folder their names: all of them, or none.

    Args:
        files: In the order in which they should appear; the file that the others belong to comes last.

    Raises:
        FileError: If the system refuses, or a target has appeared meanwhile. All targets are then as they were.
    """
    with _folder_lock(files[0].path.resolve().parent), contextlib.ExitStack() as undo:
        for file in files:
            undo.callback(file._take_back)
            file._commit()
        undo.pop_all()


@contextlib.contextmanager
def whole_file(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block has written it; if the block fails, nothing is left.

    Args:
        path: The target; folders above it are made.
        overwrite: Whether a target that exists is replaced.

    Yields:
        The open file.

    Raises:
        FileError: If the target exists, or cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with WholeFile(path, overwrite=overwrite) as file:
            yield file.handle
            file.seal()
            file.commit()
    except errors.FileError:
        raise
    except OSError as error:
        raise errors.output_unwritable(path, reason_of(error)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a complete file, or leave the old one as it was.

    Raises:
        FileError: If it cannot be written.
    """
    with whole_file(path, overwrite=True) as handle:
        handle.write(text.encode())


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder that gets its name when the block has filled it; if the block fails, nothing is left.

    Args:
        folder: The target; folders above it are made.
        overwrite: Whether a folder that exists is replaced.

    Yields:
        The folder to fill.

    Raises:
        FileError: If the folder exists and must not be replaced, or no folder can have its name.
        OSError: If the system refuses.
    """
    target = Path(folder).expanduser().absolute()
    _check_name(target)
    if target.exists() and not overwrite:
        raise errors.output_exists(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _folder_lock(target.parent):
        _clear_leftovers(target)
        part = _beside(target)
        part.mkdir()
        locks = [_lock(os.open(part, os.O_RDONLY))] if os.name == "posix" else []
    try:
        yield part
        for path in part.rglob("*"):
            _sync(path)
        sync_folder(part)
        with _folder_lock(target.parent):
            if target.exists() and not overwrite:
                raise errors.output_exists(folder)
            _put_in_place(part, target, locks)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for lock in locks:
            os.close(lock)


def _put_in_place(part: Path, target: Path, locks: list[int]) -> None:
    """Rename a folder; a folder that it replaces is removed only afterwards."""
    if not target.exists():
        part.rename(target)
        return
    before = part.with_suffix(".before")
    if os.name == "posix":
        locks.append(_lock(os.open(target, os.O_RDONLY)))
    target.rename(before)
    try:
        part.rename(target)
    except OSError:
        before.rename(target)
        raise
    shutil.rmtree(before, ignore_errors=True)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be, or must not be, replaced.

    Raises:
        FileError: If it is a folder, or exists and must not be overwritten, or its folder is missing, or no file can
            have its name.
    """
    _check_name(path)
    if path.is_dir():
        raise errors.output_unwritable(path, "it is a folder")
    if path.exists() and not overwrite:
        raise errors.output_exists(path)
    if not path.resolve().parent.is_dir():
        raise errors.output_unwritable(path, "its folder does not exist")


def check_replaceable(folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse to replace what is not a model's folder: nobody who names their home by mistake must lose it.

    Raises:
        FileError: If the folder exists and must not be replaced.
        OSError: If it cannot be looked into.
    """
    target = Path(folder).expanduser()
    if target.exists() and not overwrite:
        raise errors.output_exists(folder)
    if target.exists() and not target.is_dir():
        raise errors.output_not_ours(folder, "a file")
    if target.exists() and any(target.iterdir()) and not any((target / name).is_file() for name in _MODEL):
        raise errors.output_not_ours(folder, "a folder of other things")


def _check_name(path: Path) -> None:
    """Refuse a path that the system cannot look up: too long, with NUL, or in a folder that may not be read.

    Raises:
        FileError: If the path cannot be looked up.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise errors.output_unwritable(path, reason_of(error)) from error


def folder_of(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of this name; None if there is none, or no folder can have the name."""
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError):  # too long a name, or the home of an unknown user
        return None


def lookup(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` expanded.

    Raises:
        FileError: If the system cannot look it up: it is too long, or names the home of an unknown user.
    """
    try:
        found = Path(path).expanduser()
        found.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise errors.file_unreadable(
            os.fspath(path), str(getattr(error, "strerror", None) or error).rstrip(".")
        ) from error
    return found


def reason_of(error: OSError | ValueError) -> str:
    """Return the operating system's reason, for messages."""
    return getattr(error, "strerror", None) or str(error)


def system_reason(error: BaseException) -> str | None:
    """Return the system's reason in an error of a library in Rust, which raises no OSError; None if it has none."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(found[1])) if found else None


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a renamed file keeps its new name if the machine crashes.

    Raises:
        OSError: If the system refuses.
    """
    if os.name == "posix":  # other systems cannot open a folder, and need not do so
        _sync(folder)


def _clear_leftovers(target: Path) -> None:
    """Remove the files that killed runs left beside a target; files still being written are locked, and stay."""
    ours = re.compile(rf"\.{re.escape(target.name[:_NAME_LENGTH])}\.[0-9a-f]{{8}}\.(part|before)")
    if fcntl is None:
        return
    for left in target.parent.iterdir():
        if not ours.fullmatch(left.name):
            continue
        with contextlib.suppress(OSError):  # another run was quicker, or the file is locked
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not left.is_dir():
                    left.unlink()
                elif left.suffix == ".before" and not target.exists():  # killed between two renames
                    left.rename(target)
                else:
                    shutil.rmtree(left)
            finally:
                os.close(lock)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:_NAME_LENGTH]}.{secrets.token_hex(4)}.part")


def lock(descriptor: int) -> bool:
    """Lock an open file until its descriptor is closed; returns whether no other process has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every file system has locks
        return True
    return True


def _lock(descriptor: int) -> int:
    """Lock an open file or folder until its descriptor is closed, at the latest by the end of the process."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # not every file system has locks: leftovers stay there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Make runs with targets in one folder create and rename their files one after the other."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(_PATIENCE):  # our runs hold the lock for a moment; a longer holder is another program
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # not every file system has locks
                break
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
