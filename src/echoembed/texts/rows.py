"""The rows of one file, with their places: lines, JSONL, CSV, TSV and Parquet, in constant memory.

``records`` yields all requested columns, for training and evaluation; ``rows_of`` yields text and id, for embedding.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from echoembed import errors
from echoembed.texts.lines import LINE_LIMIT, decoded_lines, without_end

FORMATS = ("txt", "jsonl", "csv", "tsv", "parquet")
SUFFIXES = (*(f".{kind}{packed}" for packed in ("", ".gz") for kind in FORMATS[:-1]), ".parquet")
BATCH_ROWS = 256
DELIMITERS = {"csv": ",", "tsv": "\t"}

Record = tuple[str, Mapping[str, object] | errors.TextError | None]
"""A row's place, and its columns by name; None for a blank line, and an error for a line that cannot be decoded."""


class Columns(NamedTuple):
    """The columns to read; without an ``id`` column, rows are numbered or named by their place.

    ``delimiter`` separates the columns of CSV and TSV files of a corpus; None for the usual one.
    """

    text: str = "text"
    id: str | None = None
    kept: tuple[str, ...] = ()
    delimiter: str | None = None

    def wanted(self) -> list[str]:
        """Return all columns that must exist."""
        return [self.text, *([self.id] if self.id else []), *self.kept]

    def check(self, known: Sequence[str], where: str) -> None:
        """Refuse columns that do not exist, or exist twice."""
        for column in self.wanted():
            if column not in known:
                raise errors.column_missing(where, column, known)
            if known.count(column) > 1:
                raise errors.column_twice(where, column)


class Row(NamedTuple):
    """One row, not yet checked: ``text`` may be any object, or the TextError that says why there is no text."""

    where: str
    text: object
    id: object = None


class Item(NamedTuple):
    """One text to embed.

    Attributes:
        id: The id in the file, else the number of the text, from 0, over all inputs.
        text: A text that has been checked (see ``echoembed.check_text``).
        where: Its place, for messages: ``line 7 of notes.txt``.
    """

    id: str
    text: str
    where: str


def format_of(name: str) -> str | None:
    """Return the format of a file by its name; None if unknown."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)
    return suffix.split(".")[1] if suffix else None


def delimiter_of(written: str | None) -> str | None:
    """Return the delimiter that an option names: a character, or ``tab``; None for the usual one.

    Raises:
        FileError: If it cannot separate columns.
    """
    character = {"tab": "\t", "\\t": "\t"}.get(written or "", written)
    if character is not None and (len(character) != 1 or character in '"\r\n\0'):
        raise errors.delimiter_bad(written)
    return character


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading; errors of the system or the compression become our own, with the file's name.

    Raises:
        FileError: If the file cannot be read, now or later.
    """
    with readable(str(path)), Path(path).open("rb") as handle:
        yield handle


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn errors of reading into our own, with the file's name.

    Raises:
        FileError: If something in the block cannot be read.
    """
    try:
        yield
    except errors.EchoembedError:
        raise
    except (OSError, EOFError, zlib.error) as error:  # the last two from compressed files
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise errors.file_unreadable(name, reason.rstrip(".")) from error


def unpacked(handle: BinaryIO, name: str) -> BinaryIO:
    """Return the file; if its name ends in ``.gz``, it is decompressed while it is read."""
    return cast(BinaryIO, gzip.GzipFile(fileobj=handle)) if name.lower().endswith(".gz") else handle


def rows_of(kind: str, handle: BinaryIO, name: str, columns: Columns, *, delimiter: str | None = None) -> Iterator[Row]:
    """Yield the texts of an open file, each with its id.

    Args:
        kind: One of ``FORMATS``.
        handle: A file open for reading, at its beginning.
        name: What messages call the file; a file whose name ends in ``.gz`` is decompressed.
        columns: The columns of text and id.
        delimiter: The delimiter of CSV and TSV; None for the usual one.

    Raises:
        FileError: If the file is damaged or lacks a column.
    """
    if kind == "txt" and columns.id is not None:
        raise errors.column_missing(f"{name}, read as lines of text,", columns.id, ())
    wanted = Columns() if kind == "txt" else columns

    def check(known: Sequence[str], where: str) -> None:
        wanted.check(known, where)

    for where, record in records(kind, handle, name, wanted.wanted(), check, delimiter=delimiter):
        if isinstance(record, errors.TextError):
            yield Row(where, record)
        elif record is None:
            yield Row(where, "")
        else:
            yield Row(where, record[wanted.text], record[wanted.id] if wanted.id else None)


def records(
    kind: str,
    handle: BinaryIO,
    name: str,
    wanted: Sequence[str],
    check: Callable[[Sequence[str], str], None] = lambda known, where: None,
    *,
    delimiter: str | None = None,
) -> Iterator[Record]:
    """Yield the rows of an open file.

    Args:
        kind: One of ``FORMATS``.
        handle: A file open for reading, at its beginning.
        name: What messages call the file; a file whose name ends in ``.gz`` is decompressed.
        wanted: The columns to read from Parquet, if they exist; from other formats all columns are read.
        check: Called with the columns' names and their place, and raises if they are wrong; in JSONL once per row.
        delimiter: The delimiter of CSV and TSV; None for the usual one.

    Yields:
        The place and the columns of each row. A line of text is the column ``text``.

    Raises:
        FileError: If the file is damaged.
    """
    if kind == "parquet":
        yield from _parquet(handle, name, wanted, check)
        return
    lines = decoded_lines(unpacked(handle, name), name)
    if kind in DELIMITERS:
        yield from _csv(lines, name, wanted, check, delimiter or DELIMITERS[kind], explicit=delimiter is not None)
        return
    for where, line in lines:
        if isinstance(line, errors.TextError):
            yield where, line
        elif kind == "txt":
            yield where, {"text": without_end(where, line)}
        elif not line.strip():
            yield where, None
        else:
            record = json_object(where, line)
            check(list(record), where)
            yield where, record


def json_object(where: str, line: str) -> dict[str, object]:
    """Parse the object on a line of JSONL.

    Raises:
        FileError: If the line is no JSON object.
    """
    try:
        record = json.loads(line.rstrip("\r\n"), object_pairs_hook=_each_once)
    except RecursionError as error:
        raise errors.json_malformed(where, "it is nested too deeply") from error
    except ValueError as error:
        raise errors.json_malformed(where, str(error).replace("line 1 column", "column")) from error
    if not isinstance(record, dict):
        raise errors.json_malformed(where, f"it holds {errors.quoted(record)}")
    return record


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object that has a key twice: of two texts, one would be lost without a word."""
    record: dict[str, object] = {}
    for name, value in pairs:
        if name in record:
            raise ValueError(f"it has the key {errors.quoted(name)} twice")
        record[name] = value
    return record


def _csv(
    lines: Iterator[tuple[str, str | errors.TextError]],
    name: str,
    wanted: Sequence[str],
    check: Callable[[Sequence[str], str], None],
    delimiter: str,
    *,
    explicit: bool,
) -> Iterator[Record]:
    def decoded() -> Iterator[str]:
        for _, line in lines:
            if isinstance(line, errors.TextError):  # a quoted cell may be open, so that the rest cannot be read
                raise line
            yield line

    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))  # the default refuses cells over 128 KiB
    reader = csv.reader(decoded(), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    number = 1
    while True:
        where = f"line {number} of {name}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise errors.csv_malformed(where, str(error)) from error
        number = reader.line_num + 1
        if cells is None:
            return
        if header is None:
            header = cells
            check_delimiter(name, header, wanted, delimiter, explicit=explicit)
            check(header, name)
        elif cells and len(cells) != len(header):
            raise errors.csv_malformed(where, f"{len(cells)} cells under {len(header)} columns")
        else:
            yield where, dict(zip(header, cells, strict=True)) if cells else None


def check_delimiter(name: str, header: list[str], wanted: Sequence[str], delimiter: str, *, explicit: bool) -> None:
    """Refuse a header that another delimiter splits better: ids and delimiters would be embedded with the texts."""
    missing = [column for column in wanted if column not in header]
    if not missing and (len(header) > 1 or explicit):
        return
    for other in (",", ";", "\t", "|"):
        cells = [cell for column in header for cell in column.split(other)]
        alone = len(header) == 1 and len(cells) > 1
        if other != delimiter and (alone or (missing and set(missing) <= set(cells))):
            raise errors.csv_other_delimiter(name, other, delimiter)


def _parquet(
    handle: BinaryIO, name: str, wanted: Sequence[str], check: Callable[[Sequence[str], str], None]
) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(handle, pre_buffer=False, buffer_size=2**16)
        names = file.schema_arrow.names
        check(names, name)
        columns = [column for column in names if column in wanted]
        for column in columns:
            if names.count(column) > 1:  # as Arrow cannot say which of the two is meant
                raise errors.column_twice(name, column)
        number = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            for row in range(batch.num_rows):
                number += 1
                where = f"row {number} of {name}"
                yield where, {column: cell_value(batch.column(column)[row], where) for column in columns}
    except pyarrow.ArrowException as error:
        raise errors.file_unreadable(name, str(error).splitlines()[0].rstrip(". ")) from error


def cell_value(cell: object, where: str) -> object:
    """Return the value of a cell of a Parquet file, or the error that says why it is no text."""
    try:
        return cell.as_py()  # type: ignore[attr-defined]
    except UnicodeDecodeError as error:
        return errors.text_not_utf8(where, error.start + 1, error.object[error.start])
    except (ValueError, OverflowError) as error:  # such as a date after the year 9999
        return errors.cell_unreadable(where, str(error).splitlines()[0])
