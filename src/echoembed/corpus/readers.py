"""Readers of the rows of one file: generators that need little memory. A faulty row is rejected; the rest is read.

Shapes: N rows that are read at once.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from echoembed import errors
from echoembed.corpus.inputs import InputFile
from echoembed.corpus.records import Rejected
from echoembed.corpus.unpack import unpacked
from echoembed.texts.lines import LINE_LIMIT, as_utf8, without_end
from echoembed.texts.rows import BATCH_ROWS, DELIMITERS, Columns, cell_value, check_delimiter, json_object, readable

_BOM = b"\xef\xbb\xbf"


class Raw(NamedTuple):
    """A row as it stands in the file, unchecked."""

    where: str
    number: int
    text: object
    id: object = None
    kept: Sequence[object] = ()


Read = Iterator[Raw | Rejected]


def rows_of(file: InputFile, columns: Columns, *, at: Callable[[int], None] = lambda _: None) -> Read:
    """Yield the rows of a file, and a rejection for each faulty row, or for the file if it cannot be read.

    Args:
        file: The file.
        columns: The columns to read, if its format has columns.
        at: Called now and then with the number of bytes read so far, for estimates.
    """
    try:
        if file.path.exists() and not file.path.is_file():  # to open a pipe would wait for a writer
            raise errors.file_unreadable(file.name, "it is neither a file nor a folder")
        with readable(file.name), file.path.open("rb") as raw:
            before = _state(raw)
            reader = {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv, "tsv": _csv}.get(file.format, _plain)
            handle = raw if file.format == "parquet" else unpacked(raw, file.packed)
            for number, row in enumerate(reader(handle, file, columns)):
                if number % BATCH_ROWS == 0:
                    at(raw.tell())
                yield row
            if _state(raw) != before:
                yield Rejected(file.name, str(errors.corpus_file_changed(file.name)))
    except errors.EchoembedError as error:
        yield Rejected(file.name, str(error))


def _state(handle: BinaryIO) -> tuple[int, int]:
    import os

    status = os.fstat(handle.fileno())
    return status.st_size, status.st_mtime_ns


def _lines(handle: BinaryIO, name: str) -> Iterator[tuple[int, str, bytes | Rejected]]:
    """Yield lines with their number and place; skip and reject a line over the limit."""
    number = 0
    line = handle.readline(LINE_LIMIT + 1)
    if (recoded := as_utf8(line, handle, name)) is not None:
        handle = recoded
        line = handle.readline(LINE_LIMIT + 1)
    while line:
        number += 1
        where = f"line {number} of {name}"
        if len(line) > LINE_LIMIT:
            while line and not line.endswith(b"\n"):
                line = handle.readline(LINE_LIMIT)
            yield number, where, Rejected(where, str(errors.line_too_long(where, LINE_LIMIT)))
        else:
            yield number, where, line.removeprefix(_BOM) if number == 1 else line
        line = handle.readline(LINE_LIMIT + 1)


def _plain(handle: BinaryIO, file: InputFile, columns: Columns) -> Read:
    """Yield each line as a text, or the whole file as one text."""
    if file.format == "lines":
        for number, where, line in _lines(handle, file.name):
            if isinstance(line, Rejected):
                yield line
            elif line.strip():
                text = _decoded(where, line)
                try:
                    text = without_end(where, text) if isinstance(text, str) else text
                except errors.FileError as error:
                    yield Rejected(where, str(error))
                    continue
                yield Raw(where, number, text, None, _none(columns))
        return
    data = handle.read(LINE_LIMIT + 1)
    if (recoded := as_utf8(data, handle, file.name)) is not None:
        data = recoded.read(LINE_LIMIT + 1)
    if len(data) > LINE_LIMIT:
        raise errors.line_too_long(file.name, LINE_LIMIT)
    yield Raw(file.name, 0, _decoded(file.name, data.removeprefix(_BOM)), None, _none(columns))


def _none(columns: Columns) -> list[object]:
    return [None] * len(columns.kept)


def _decoded(where: str, line: bytes) -> str | errors.TextError:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return errors.text_not_utf8(where, error.start + 1, line[error.start])


def _jsonl(handle: BinaryIO, file: InputFile, columns: Columns) -> Read:
    for number, where, line in _lines(handle, file.name):
        if isinstance(line, Rejected):
            yield line
            continue
        if not line.strip():
            continue
        text = _decoded(where, line)
        try:
            if isinstance(text, errors.TextError):
                raise text
            record = json_object(where, text)
        except errors.EchoembedError as error:
            yield Rejected(where, str(error))
            continue
        needed = [columns.text, *([columns.id] if columns.id else [])]
        missing = next((column for column in needed if column not in record), None)
        if missing is not None:
            yield Rejected(where, str(errors.column_missing(where, missing, record)))
            continue
        kept_cells = [record.get(column) for column in columns.kept]  # a missing key means no value
        yield Raw(where, number, record[columns.text], record[columns.id] if columns.id else None, kept_cells)


def _csv(handle: BinaryIO, file: InputFile, columns: Columns) -> Read:
    """Yield the records of a CSV or TSV file.

    A quote that is never closed takes in all lines after it. These lines are put back and read again, so that only the
    line with the quote is lost.
    """
    waiting: deque[tuple[int, str]] = deque()
    record_lines: list[tuple[int, str]] = []  # lines of the current record
    too_long: list[Rejected] = []
    source = _lines(handle, file.name)

    def text_lines() -> Iterator[str]:
        while True:
            if waiting:
                record_lines.append(waiting.popleft())
            else:
                number, _, line = next(source, (0, "", None))
                if line is None:
                    return
                if isinstance(line, Rejected):
                    too_long.append(line)
                    continue
                # Bytes that are not UTF-8 become lone surrogates; cells with one are rejected later.
                record_lines.append((number, line.decode("utf-8", "surrogateescape")))
            yield record_lines[-1][1]

    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))  # the default refuses cells over 128 KiB
    delimiter = columns.delimiter or DELIMITERS[file.format]
    reader = csv.reader(text_lines(), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    places: list[int] = []
    while True:
        record_lines.clear()
        try:
            record = next(reader, None)
        except csv.Error as error:
            number = record_lines[0][0]
            where = f"line {number} of {file.name}"
            if header is None:
                raise errors.csv_malformed(where, str(error)) from error
            waiting.extendleft(reversed(record_lines[1:]))
            reader = csv.reader(text_lines(), strict=True, delimiter=delimiter)
            yield Rejected(where, str(errors.csv_malformed(where, str(error))))
            continue
        yield from too_long
        too_long.clear()
        if record is None:
            return
        where = f"line {record_lines[0][0]} of {file.name}"
        if header is None:
            if not record:  # blank lines in front
                continue
            header = record
            _check_header(header, columns, file, delimiter, where)
            places = [header.index(column) for column in columns.wanted()]
        elif record and len(record) != len(header):
            reason = f"{len(record)} cells under {len(header)} columns"
            yield Rejected(where, str(errors.csv_malformed(where, reason)))
        elif record:
            cells = [_cell(record[place], where) for place in places]
            id_ = cells[1] if columns.id else None
            yield Raw(where, record_lines[0][0], cells[0], id_, cells[len(cells) - len(columns.kept) :])


def _check_header(header: list[str], columns: Columns, file: InputFile, delimiter: str, where: str) -> None:
    """Refuse a header without the wanted columns, and say so if its encoding or another delimiter is why."""
    check_delimiter(file.name, header, columns.wanted(), delimiter, explicit=columns.delimiter is not None)
    try:
        columns.check(header, file.name)
    except errors.FileError:
        undecoded = [text for text in (_cell(name, where) for name in header) if isinstance(text, errors.TextError)]
        if undecoded:
            raise undecoded[0] from None
        raise


def _cell(cell: str, where: str) -> str | errors.TextError:
    try:
        cell.encode()
        return cell
    except UnicodeEncodeError as error:
        return errors.text_not_utf8(where, error.start + 1, ord(cell[error.start]) & 0xFF)


def _parquet(handle: BinaryIO, file: InputFile, columns: Columns) -> Read:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        parquet = pyarrow.parquet.ParquetFile(handle, pre_buffer=False, buffer_size=2**16)
        columns.check(parquet.schema_arrow.names, file.name)
        names = columns.wanted()
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(names)), use_threads=False):
            columns_N = [batch.column(name) for name in names]
            first_kept = len(names) - len(columns.kept)
            columns_N[first_kept:] = map(_dates_as_text, columns_N[first_kept:])
            for row in range(batch.num_rows):
                number += 1
                where = f"row {number} of {file.name}"
                cells = [cell_value(cells_N[row], where) for cells_N in columns_N]
                id_ = cells[1] if columns.id else None
                yield Raw(where, number, cells[0], id_, cells[len(cells) - len(columns.kept) :])
    except pyarrow.ArrowException as error:
        raise errors.file_unreadable(file.name, str(error).splitlines()[0].rstrip(". ")) from error


def _dates_as_text(cells_N: Any) -> Any:
    """Write dates and times as text, ``2026-05-31 12:00:00``: Python's own are coarser and end with the year 9999."""
    import pyarrow
    import pyarrow.compute

    if not pyarrow.types.is_temporal(cells_N.type):
        return cells_N
    texts_N = cells_N.cast(pyarrow.string())
    beyond = pyarrow.compute.any(pyarrow.compute.starts_with(texts_N, "<value out of range")).as_py()
    return cells_N if beyond else texts_N  # then each cell is read by itself, and those beyond are rejected
