"""Tidy rows, one measurement each, stored as Parquet with all that decided them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from echoembed.files import whole_file

Row = dict[str, Any]
_KEY = b"echoembed"


def write_rows(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write rows, whole or not at all.

    Raises:
        FileError: If the file cannot be written.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    table = table.replace_schema_metadata({_KEY: json.dumps(about).encode()})
    with whole_file(path, overwrite=True) as handle:
        pq.write_table(table, handle)


def read_rows(path: Path) -> tuple[list[Row], dict[str, Any]] | None:
    """Read rows, and all that decided them; None if the file is missing or damaged."""
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_KEY])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    return table.to_pylist(), about


def values(rows: Sequence[Row], **equal: object) -> list[Row]:
    """Return the rows in which these columns have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in equal.items())]


def distinct(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the values of a column, each once, in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))
