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
_GRADE = re.compile("-?[0-9]{1,9}")
PLACEHOLDER = "(no text)"
"""What is embedded for a text that is blank without its control characters, so that no row is left out."""


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
    return list(_checked_rows(path, fields, optional).values())


def read_by_id(
    path: str | Path, fields: Mapping[str, Check], optional: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Read a file of JSON lines whose rows have an ``_id``, as ``read_rows`` does.

    Returns:
        Id → row, in order.

    Raises:
        FileError: As ``read_rows``.
        DataError: As ``read_rows``, or if two rows have the same id: one of them would be lost.
    """
    numbers: dict[str, int] = {}
    by_id: dict[str, dict[str, Any]] = {}
    for number, row in _checked_rows(path, fields, optional).items():
        first = numbers.setdefault(row["_id"], number)
        if first != number:
            allowed = f"an id of this row alone, and line {first} has it too"
            raise errors.data_bad_field(f"line {number} of {path}", "_id", row["_id"], allowed)
        by_id[row["_id"]] = row
    return by_id


def _checked_rows(path: str | Path, fields: Mapping[str, Check], optional: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return the rows by the numbers of their lines."""
    rows: dict[int, dict[str, Any]] = {}
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
        rows[number] = {name: _storable(value) for name, value in values.items()}
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
        DataError: If a row is not valid, a document has two grades for a query, or no document is relevant.
    """
    judged: dict[str, dict[str, int]] = {}
    numbers: dict[tuple[str, str], int] = {}
    for number, line in lines(path):
        cells = line.split("\t")
        where = f"line {number} of {path}"
        if len(cells) != 3:
            raise errors.data_bad_field(where, "row", line, "query-id, corpus-id and score, with tabs between")
        if number == 1 and not _GRADE.fullmatch(cells[2]):
            continue
        for column, cell in zip(known, cells, strict=False):
            if cell not in known[column]:
                raise errors.data_bad_field(
                    where, column, cell, f"the _id of one of the {len(known[column])} rows there"
                )
        if not _GRADE.fullmatch(cells[2]):
            raise errors.data_bad_field(where, "score", cells[2], "a whole number of at most nine digits")
        grade, first = int(cells[2]), numbers.setdefault((cells[0], cells[1]), number)
        if grade != judged.setdefault(cells[0], {}).setdefault(cells[1], grade):
            known_grade = judged[cells[0]][cells[1]]
            raise errors.data_bad_field(where, "score", grade, f"{known_grade}, which line {first} gives the same pair")
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


def readable(text: str) -> str:
    """Return a text as every system embeds it: without control characters, and the placeholder for a blank one."""
    cleaned = clean_text(text)
    return cleaned if cleaned.strip() else PLACEHOLDER


def digest(paths: Sequence[Path]) -> tuple[str, int]:
    """Return a hash over the decompressed contents of files, in order, and their number of bytes."""
    hashed, size = hashlib.sha256(), 0
    for path in paths:
        data = content(path)
        hashed.update(f"{len(data)}\n".encode())
        hashed.update(data)
        size += len(data)
    return hashed.hexdigest()[:16], size
