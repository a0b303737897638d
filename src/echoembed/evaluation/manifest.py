"""The data sets of our results, file by file: checked against their hashes, and built from their originals.

``manifest.toml`` names the origin and the licence of each data set, and other data sets with the same texts. A file
whose original has one of the forms in ``originals.py`` can be built from it. The other files came out of larger
conversions; for them only the origin is named.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from echoembed import errors
from echoembed.evaluation.originals import READERS, Original, written
from echoembed.evaluation.rows import content
from echoembed.files import whole_file

State = Literal["there", "differs", "missing", "unreadable"]
Fetch = Callable[[str, str, str], bytes]
"""Repository, revision and path → the file's content; raises as ``fetched`` does."""
_ADDRESS = "https://raw.githubusercontent.com/{repository}/{revision}/{path}"
_SECONDS = 20
NOT_REACHED = "its original was not reached: no network?"
_CHANGED = "its original is not what it was"
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a data set."""

    path: str
    rows: int
    bytes: int
    """The file's size, compressed if its name ends in .gz."""
    sha256: str
    """The hash of the file's content, decompressed."""
    form: str = ""
    """The form of its originals (a key of ``originals.READERS``); empty if it cannot be built."""
    originals: tuple[str, ...] = ()
    """Paths in the data set's repository."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set; ``name`` is its folder, such as ``sts/sts13``."""

    name: str
    what: str
    mteb: str
    """The task of MTEB that it equals or resembles."""
    origin: str
    revision: str
    licence: str
    overlaps: tuple[str, ...]
    """Data sets with the same texts; do not train on one of them and score on another."""
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """The rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def built(self) -> bool:
        """Whether all files can be built from their originals."""
        return all(file.form for file in self.files)


@cache
def manifest() -> dict[str, DataSet]:
    """Return every data set, by name."""
    raw = tomllib.loads(Path(__file__).with_name("manifest.toml").read_text(encoding="utf-8"))
    known = {"path", "rows", "bytes", "sha256", "form"}
    sets = {}
    for name, entry in raw.items():
        files = tuple(
            DataFile(
                originals=tuple(file.pop("originals", ())),
                options={key: file.pop(key) for key in [*file] if key not in known},
                **file,
            )
            for file in entry.pop("files")
        )
        sets[name] = DataSet(name=name, files=files, overlaps=tuple(entry.pop("overlaps")), **entry)
    return sets


def chosen(names: Iterable[str]) -> list[DataSet]:
    """Return the data sets of these names or kinds; all data sets if no name is given.

    Raises:
        DataError: If a name is no data set and no kind.
    """
    sets = manifest()
    names = list(names)
    selected: dict[str, DataSet] = {}
    for name in (name.rstrip("/") for name in names):
        matches = {key: value for key, value in sets.items() if name in (key, *key.split("/")[:2])}
        if not matches:
            raise errors.data_set_unknown(name, sets)
        selected |= matches
    return list(selected.values()) if names else list(sets.values())


def state(folder: Path, data_set: DataSet, file: DataFile) -> State:
    """Compare a file with the manifest; ``unreadable`` stands for a damaged one, and for what is no file."""
    path = folder / data_set.name / file.path
    if not path.is_file():
        return "unreadable" if os.path.lexists(path) else "missing"
    try:
        return "there" if hashlib.sha256(content(path)).hexdigest() == file.sha256 else "differs"
    except errors.FileError:
        return "unreadable"


def build(folder: Path, data_set: DataSet, file: DataFile, fetch: Fetch) -> str:
    """Build a missing file from its originals. It is written only if it has the manifest's hash.

    Args:
        folder: The folder of all data sets.
        data_set: The file's data set.
        file: The missing file, which has a form.
        fetch: Fetches an original.

    Returns:
        Why the file was not built; empty if it was.

    Raises:
        FileError: If the file cannot be written.
    """
    try:
        originals: list[Original] = [(path, fetch(data_set.origin, data_set.revision, path)) for path in file.originals]
    except HTTPError as error:
        return f"its original was refused ({error.code})"
    except (OSError, HTTPException):
        return NOT_REACHED
    except ValueError:
        return _CHANGED
    try:
        built = written(file.path, READERS[file.form](originals, file.options))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error):  # of whatever it is now
        return _CHANGED
    if hashlib.sha256(built).hexdigest() != file.sha256:
        return "its original gave other rows than the manifest's"
    target = folder / data_set.name / file.path
    with whole_file(target) as handle:
        handle.write(gzip.compress(built, mtime=0) if file.path.endswith(".gz") else built)
    return ""


def fetched(repository: str, revision: str, path: str) -> bytes:
    """Fetch a file of a public repository at one revision.

    Raises:
        OSError: If it cannot be reached; or ``HTTPException`` if the answer breaks off.
        ValueError: If it is larger than all of our files.
    """
    address = _ADDRESS.format(repository=repository, revision=revision, path=path)
    with urlopen(address, timeout=_SECONDS) as answer:  # noqa: S310 (the address begins with https)
        body: bytes = answer.read(_MOST_BYTES + 1)
    if len(body) > _MOST_BYTES:
        raise ValueError("too large")
    return body
