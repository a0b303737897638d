"""Rows of one input at a time: lines, JSONL, CSV and Parquet, each a generator in flat memory."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, cast

from echoembed import errors

FORMATS = ("txt", "jsonl", "csv", "parquet")
SUFFIXES = (".txt", ".jsonl", ".csv", ".txt.gz", ".jsonl.gz", ".csv.gz", ".parquet")
LINE_LIMIT = 64 * 2**20
BATCH_ROWS = 256


class Columns(NamedTuple):
    """The columns to read; ``id`` None means that texts are numbered."""

    text: str = "text"
    id: str | None = None

    def check(self, known: Sequence[str], where: str) -> None:
        """Refuse columns that are not there, or there twice."""
        for column in filter(None, self):
            if column not in known:
                raise errors.column_missing(where, column, known)
            if known.count(column) > 1:
                raise errors.column_twice(where, column)


class Row(NamedTuple):
    """One record as found: ``text`` may be anything, even the TextError that says why it is none."""

    where: str
    text: object
    id: object = None


def format_of(name: str) -> str | None:
    """The format that a file's name tells, or None."""
    found = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)
    return found.split(".")[1] if found else None


def rows_of(kind: str, handle: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    """The rows of an open input of the format ``kind``."""
    if kind == "parquet":
        return _parquet(handle, name, columns)
    if name.lower().endswith(".gz"):
        handle = cast(BinaryIO, gzip.GzipFile(fileobj=handle))
    rows = {"txt": _txt, "jsonl": _jsonl, "csv": _csv}[kind]
    return rows(handle, name, columns)


def _lines(handle: BinaryIO, name: str) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := handle.readline(LINE_LIMIT + 1):
        number += 1
        where = f"line {number} of {name}"
        if len(line) > LINE_LIMIT:
            raise errors.line_too_long(where, LINE_LIMIT)
        yield where, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _decoded(where: str, line: bytes) -> str | errors.TextError:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return errors.text_not_utf8(where, error.start + 1, line[error.start])


def _txt(handle: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    if columns.id is not None:
        raise errors.column_missing(f"{name}, read as lines of text,", columns.id, ())
    for where, line in _lines(handle, name):
        yield Row(where, _decoded(where, line.removesuffix(b"\n").removesuffix(b"\r")))


def _jsonl(handle: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    for where, line in _lines(handle, name):
        text = _decoded(where, line)
        if not isinstance(text, str) or text.isspace():
            yield Row(where, "" if isinstance(text, str) else text)
            continue
        try:
            record = json.loads(text.rstrip("\r\n"))
        except RecursionError as error:
            raise errors.json_malformed(where, "it is nested too deeply") from error
        except ValueError as error:
            raise errors.json_malformed(where, str(error).replace("line 1 column", "column")) from error
        if not isinstance(record, dict):
            raise errors.json_malformed(where, f"it holds {errors.quoted(record)}")
        columns.check(list(record), where)
        yield Row(where, record[columns.text], record[columns.id] if columns.id else None)


def _csv(handle: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    def decoded() -> Iterator[str]:
        for where, line in _lines(handle, name):
            text = _decoded(where, line)
            if isinstance(text, errors.TextError):  # a quoted cell may be open: no way to go on after it
                raise text
            yield text

    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))  # the default refuses cells over 128 KiB
    reader = csv.reader(decoded(), strict=True)
    header: list[str] | None = None
    number = 1
    while True:
        where = f"line {number} of {name}"
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise errors.csv_malformed(where, str(error)) from error
        number = reader.line_num + 1
        if record is None:
            return
        if header is None:
            header = record
            columns.check(header, name)
            text_at, id_at = header.index(columns.text), header.index(columns.id) if columns.id else None
        elif record and len(record) != len(header):
            raise errors.csv_malformed(where, f"{len(record)} cells under {len(header)} columns")
        elif not record:
            yield Row(where, "")
        else:
            yield Row(where, record[text_at], None if id_at is None else record[id_at])


def _parquet(handle: BinaryIO, name: str, columns: Columns) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(handle, pre_buffer=False, buffer_size=2**16)
        columns.check(file.schema_arrow.names, name)
        number = 0
        wanted = list(filter(None, columns))
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            ids = batch.column(columns.id) if columns.id else [None] * batch.num_rows
            for text, id_ in zip(batch.column(columns.text), ids, strict=True):
                number += 1
                where = f"row {number} of {name}"
                try:
                    value = None if text is None else text.as_py()
                except UnicodeDecodeError as error:
                    value = errors.text_not_utf8(where, error.start + 1, error.object[error.start])
                yield Row(where, value, None if id_ is None else id_.as_py())
    except pyarrow.ArrowException as error:
        raise errors.file_unreadable(name, str(error).splitlines()[0].rstrip(". ")) from error
