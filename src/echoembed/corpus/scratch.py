"""Large tables on disk, in SQLite, to save memory: ids seen so far, places of texts' vectors, places of rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

from echoembed import errors
from echoembed.files import reason_of

_QUICK = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536; PRAGMA temp_store=MEMORY;"
ASKED_AT_ONCE = 500


class Scratch:
    """A temporary file, useless once the build has ended or was killed."""

    def __init__(self, path: Path, table: str) -> None:
        self._path = path
        try:
            path.unlink(missing_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.executescript(f"{_QUICK} {table}")
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            raise errors.output_unwritable(path, str(error)) from error
        except OSError as error:
            raise errors.output_unwritable(path, reason_of(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._path.unlink(missing_ok=True)

    def _run(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:  # a full disk
            raise errors.output_unwritable(self._path, str(error)) from error


class Seen(Scratch):
    """Ids seen so far, as hashes of 16 bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID;")

    def add(self, id_: str) -> bool:
        """Remember an id, and say whether it is new."""
        key = blake2b(id_.encode(), digest_size=16).digest()
        return self._run("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1


class Places(Scratch):
    """Hash of a text → the shard and the row of its vector."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "CREATE TABLE places (hash BLOB PRIMARY KEY, shard INTEGER, row INTEGER) WITHOUT ROWID;")

    def add(self, shard: int, hashes: Iterable[bytes]) -> None:
        """Remember the places of a shard's texts; of several places of a text, the first counts."""
        rows = [(hash_, shard, row) for row, hash_ in enumerate(hashes)]
        try:
            self._db.executemany("INSERT OR IGNORE INTO places VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise errors.output_unwritable(self._path, str(error)) from error

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return the shard and the row of each text that has a place."""
        places: dict[bytes, tuple[int, int]] = {}
        for start in range(0, len(hashes), ASKED_AT_ONCE):
            part = hashes[start : start + ASKED_AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = self._run(f"SELECT hash, shard, row FROM places WHERE hash IN ({marks})", part)  # noqa: S608 (marks)
            places.update({hash_: (shard, row) for hash_, shard, row in rows})
        return places


class Wheres(Scratch):
    """Shard and number of a record in it → the record's place in the inputs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "CREATE TABLE wheres (shard INTEGER, row INTEGER, name TEXT, PRIMARY KEY (shard, row));")

    def add(self, shard: int, wheres: Mapping[int, str]) -> None:
        """Remember the places of records of a shard."""
        try:
            self._db.executemany("INSERT INTO wheres VALUES (?, ?, ?)", [(shard, *item) for item in wheres.items()])
        except sqlite3.Error as error:
            raise errors.output_unwritable(self._path, str(error)) from error

    def of(self, shard: int, row: int) -> str:
        """Return the place of a record."""
        [where] = self._run("SELECT name FROM wheres WHERE shard = ? AND row = ?", (shard, row)).fetchone()
        return str(where)
