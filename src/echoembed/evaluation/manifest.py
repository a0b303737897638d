"""The data sets that our results use, file by file: checked against their hashes, and built from their originals.

``manifest.toml`` says of each where it comes from, under which licence, and what it shares with others. A file whose
original has one of the forms of ``originals.py`` is built from it; the others came out of larger conversions, and only
their origin is told.
"""

from __future__ import annotations

import gzip
import hashlib
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from echoembed import errors
from echoembed.evaluation.originals import READERS, Original, written
from echoembed.evaluation.rows import content
from echoembed.files import whole_file

State = Literal["there", "differs", "missing"]
Fetch = Callable[[str, str, str], bytes]
"""Repository, revision and path → the file's content; raises OSError where it cannot be had."""
_ADDRESS = "https://raw.githubusercontent.com/{repository}/{revision}/{path}"
_SECONDS = 20
NOT_REACHED = "its original was not reached: no network?"
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a data set."""

    path: str
    rows: int
    bytes: int
    """As it is kept, compressed where its name ends in .gz."""
    sha256: str
    """Of what it holds, unpacked."""
    form: str = ""
    """What reads its originals; empty where nothing does."""
    originals: tuple[str, ...] = ()
    """Paths in the data set's repository."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set; ``name`` is its folder, ``sts/sts13``."""

    name: str
    what: str
    mteb: str
    """The task of MTEB that it equals or resembles."""
    origin: str
    revision: str
    licence: str
    overlaps: tuple[str, ...]
    """Data sets that share texts with it: do not train on one and score on the other."""
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(file.rows for file in self.files)

    @property
    def built(self) -> bool:
        """Whether all files can be built from their originals."""
        return all(file.form for file in self.files)


@cache
def manifest() -> dict[str, DataSet]:
    """Every data set, by name."""
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
    """The data sets of these names, or of these kinds; all where none is named.

    Raises:
        DataError: If a name is neither.
    """
    sets = manifest()
    wanted = list(names)
    picked: dict[str, DataSet] = {}
    for name in wanted:
        own = {key: value for key, value in sets.items() if name in (key, key.split("/")[0], key.split("/")[1])}
        if not own:
            raise errors.data_set_unknown(name, sets)
        picked |= own
    return list(picked.values()) if wanted else list(sets.values())


def state(folder: Path, data_set: DataSet, file: DataFile) -> State:
    """Whether a file is there as the manifest has it.

    Raises:
        FileError: If it is there and cannot be read.
    """
    path = folder / data_set.name / file.path
    if not path.is_file():
        return "missing"
    return "there" if hashlib.sha256(content(path)).hexdigest() == file.sha256 else "differs"


def build(folder: Path, data_set: DataSet, file: DataFile, fetch: Fetch) -> str:
    """Make a missing file from its originals.

    Args:
        folder: Of all data sets.
        data_set: The file's.
        file: What is missing; it has a form.
        fetch: Gets the originals.

    Returns:
        Why it was not made; empty where it was. What was made has the manifest's hash, or nothing is written.

    Raises:
        FileError: If it cannot be written.
    """
    try:
        originals: list[Original] = [(path, fetch(data_set.origin, data_set.revision, path)) for path in file.originals]
    except HTTPError as error:
        return f"its original was refused ({error.code})"
    except OSError:
        return NOT_REACHED
    try:
        made = written(file.path, READERS[file.form](originals, file.options))
    except (ValueError, KeyError, IndexError):
        return "its original is not what it was"
    if hashlib.sha256(made).hexdigest() != file.sha256:
        return "its original gave other rows than the manifest's"
    target = folder / data_set.name / file.path
    with whole_file(target) as handle:
        handle.write(gzip.compress(made, mtime=0) if file.path.endswith(".gz") else made)
    return ""


def fetched(repository: str, revision: str, path: str) -> bytes:
    """A file of a public repository, at one revision.

    Raises:
        OSError: If it cannot be reached, or is larger than any of ours.
    """
    address = _ADDRESS.format(repository=repository, revision=revision, path=path)
    with urlopen(address, timeout=_SECONDS) as answer:  # noqa: S310 (the address begins with https)
        found: bytes = answer.read(_MOST_BYTES + 1)
    if len(found) > _MOST_BYTES:
        raise OSError("too large")
    return found
