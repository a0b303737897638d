"""The folder of a corpus during a build: lock it, list its shards, and remove files that no manifest names."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from echoembed import errors
from echoembed.corpus import shard
from echoembed.corpus.manifest import BACKUP, MANIFEST, SHARDS
from echoembed.files import reason_of

REJECTED = "rejected.jsonl"
INDEX = "index"
WORK = "work"
_PARTS = {MANIFEST, BACKUP, SHARDS, REJECTED, INDEX, WORK}


@contextmanager
def locked(folder: Path, name: str = ".lock", *, wait: bool = False) -> Iterator[None]:
    """Lock the folder for this process; the lock ends with the process, however the process ends.

    Args:
        folder: The corpus's folder.
        name: The name of the lock's file.
        wait: Whether to wait while another process holds the lock.

    Raises:
        CorpusError: If another process holds the lock.
        FileError: If the folder cannot be written to.
    """
    lock = FileLock(folder / name, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise errors.corpus_busy(folder) from error
    except OSError as error:
        raise errors.output_unwritable(folder, reason_of(error)) from error
    try:
        yield
    finally:
        lock.release()


def prepare(folder: Path) -> None:
    """Make the folder, and check that it holds nothing but a corpus.

    Raises:
        CorpusError: If the folder holds something else.
        FileError: If the folder cannot be made.
    """
    try:
        for path in (folder, folder / SHARDS):
            if (path.is_symlink() or path.exists()) and not path.is_dir():
                raise errors.output_unwritable(path, "it exists, and is no folder")
        folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(path.name for path in folder.iterdir() if path.name not in _PARTS and path.name[0] != ".")
        if strange and not (folder / SHARDS).is_dir():
            raise errors.corpus_foreign_folder(folder, strange[0])
        (folder / SHARDS).mkdir(exist_ok=True)
    except errors.EchoembedError:
        raise
    except OSError as error:
        raise errors.output_unwritable(folder, reason_of(error)) from error
    except ValueError as error:  # a NUL in the path
        raise errors.output_unwritable(folder, str(error)) from error


def shards_in(folder: Path) -> dict[tuple[int, str], list[Path]]:
    """List the shards in the folder, damaged or not, by number and key.

    Raises:
        FileError: If the folder cannot be listed.
    """
    shards: dict[tuple[int, str], list[Path]] = {}
    try:
        paths = sorted((folder / SHARDS).iterdir())
    except OSError as error:
        raise errors.file_unreadable(str(folder / SHARDS), reason_of(error)) from error
    for path in paths:
        if match := shard.NAME.fullmatch(path.name):
            shards.setdefault((int(match[1]), match[2]), []).append(path)
    return shards


def clear(folder: Path, keep: Iterable[str] | None) -> None:
    """Remove the unfinished files of a killed build and, with ``keep``, every shard that is not in ``keep``."""
    names = None if keep is None else set(keep)
    with contextlib.suppress(OSError):  # files that cannot be removed do no harm
        for path in [*folder.glob(".*.part"), *folder.glob(".*.before"), *(folder / SHARDS).iterdir()]:
            dead = path.suffix in (".part", ".before")
            if dead or (names is not None and shard.NAME.fullmatch(path.name) and path.name not in names):
                path.unlink(missing_ok=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)


def undo(folder: Path) -> None:
    """Remove a folder in which a first build found no text to embed."""
    for name in (MANIFEST, BACKUP, ".lock"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / SHARDS).rmdir()
        folder.rmdir()
