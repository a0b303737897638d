"""Reading and checking rows of JSON lines and TSV files; errors name file and line."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.checks import Check, is_number
from echoembed.prompts.text import clean_text
from echoembed.texts.lines import decoded_lines
from echoembed.texts.rows import json_object, opened, unpacked

_SURROGATE = re.compile("[\ud800-\udfff]")


TEXT = Check(lambda value: isinstance(value, str), "a string")
GOOD_TEXT = Check(
    lambda value: isinstance(value, str) and clean_text(value) == value and value.strip() != "",
    "a string with a visible character, and without control characters",
)
NUMBER = Check(is_number, "a finite number")
LABEL = Check(lambda value: isinstance(value, (str, int)), "a string or a whole number")
ID = Check(lambda value: isinstance(value, str) and value != "", "a string that is not empty")
BINARY = Check(lambda value: value in (0, 1) and isinstance(value, (int, float)), "0 or 1")
TEXTS = Check(
    lambda value: isinstance(value, list) and value != [] and all(isinstance(text, str) for text in value),
    "a list of at least one string",
)


def split_file(folder: Path, *stems: str) -> Path | None:
    """Return the first file that exists, of each stem with ``.jsonl`` or ``.jsonl.gz``."""
    candidates = (folder / f"{stem}{suffix}" for stem in stems for suffix in (".jsonl", ".jsonl.gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_rows(path: str | Path, fields: Mapping[str, Check], optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read a file of JSON lines.

    Args:
        path: The file; gzip if its name ends in ``.gz``.
        fields: The fields to keep, with their checks. Other fields are left out.
        optional: Fields that a row may lack.

    Returns:
        A dictionary per line, in order; blank lines are skipped.

    Raises:
        FileError: If the file cannot be read, or a line is no JSON object.
        DataError: If a field is missing or fails its check, or there is no row.
    """
    rows = []
    for number, line in lines(path):
        where = f"line {number} of {path}"
        row = json_object(where, line)
        for name in fields:
            if name not in row and name not in optional:
                raise errors.data_field_missing(where, name, row)
        values = {name: row[name] for name in fields if name in row}
        for name, value in values.items():
            if not fields[name].passes(value):
                raise errors.data_bad_field(where, name, value, fields[name].allowed)
        rows.append({name: _storable(value) for name, value in values.items()})
    if not rows:
        raise errors.data_empty(path)
    return rows


def read_qrels(path: Path, known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Read a file of relevance judgements.

    Args:
        path: The file; a header is skipped.
        known: The allowed ids of the first and of the second column, by the column's name.

    Returns:
        Query → document → grade.

    Raises:
        DataError: If a row is not valid, or no document is relevant.
    """
    judged: dict[str, dict[str, int]] = {}
    for number, line in lines(path):
        cells = line.split("\t")
        where = f"line {number} of {path}"
        if len(cells) != 3:
            raise errors.data_bad_field(where, "row", line, "query-id, corpus-id and score, with tabs between")
        if number == 1 and not cells[2].lstrip("-").isdigit():
            continue
        for column, cell in zip(known, cells, strict=False):
            if cell not in known[column]:
                raise errors.data_bad_field(
                    where, column, cell, f"the _id of one of the {len(known[column])} rows there"
                )
        if not cells[2].lstrip("-").isdigit():
            raise errors.data_bad_field(where, "score", cells[2], "a whole number")
        judged.setdefault(cells[0], {})[cells[1]] = int(cells[2])
    if not any(grade > 0 for grades in judged.values() for grade in grades.values()):
        raise errors.data_says_nothing(path, "no document is judged relevant")
    return judged


def _storable(value: Any) -> Any:
    """Replace half surrogate pairs, which Arrow cannot hold, by NUL, so that the encoder cleans and counts the text."""
    if isinstance(value, str):
        return _SURROGATE.sub("\0", value)
    return [_SURROGATE.sub("\0", text) for text in value] if isinstance(value, list) else value


def lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1.

    Raises:
        FileError: If the file cannot be read.
        TextError: If a line is not UTF-8.
    """
    with opened(path) as handle:
        for number, (_, line) in enumerate(decoded_lines(unpacked(handle, str(path)), str(path)), start=1):
            if isinstance(line, errors.TextError):
                raise line
            if line.strip():
                yield number, line.strip()


def content(path: str | Path) -> bytes:
    """Read the bytes of a file, decompressed.

    Raises:
        FileError: If the file cannot be read.
    """
    try:
        raw = Path(path).read_bytes()
        return gzip.decompress(raw) if str(path).endswith(".gz") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise errors.file_unreadable(str(path), str(error)) from error


def digest(paths: Sequence[Path]) -> tuple[str, int]:
    """Return a hash over the decompressed contents of files, in order, and their number of bytes."""
    hashed, size = hashlib.sha256(), 0
    for path in paths:
        data = content(path)
        hashed.update(f"{len(data)}\n".encode())
        hashed.update(data)
        size += len(data)
    return hashed.hexdigest()[:16], size
