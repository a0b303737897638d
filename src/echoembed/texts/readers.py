"""Reading texts from arguments, files and standard input: in order, one at a time, each checked."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from echoembed import errors
from echoembed.prompts.text import check_text
from echoembed.texts import rows
from echoembed.texts.rows import FORMATS, SUFFIXES, Columns, Item, Row

EXAMPLES = 3
CHECKED_AT_ONCE = 10_000
_TABLES = ("csv", "tsv")
# A single word with a slash or a suffix is more likely a missing file than a text.
_LIKE_A_FILE = re.compile(r"\S*/\S*|\S+\.[A-Za-z]\w{0,7}")


class _Source(NamedTuple):
    """An input that is not yet open: a literal text, a file or, with neither, standard input."""

    name: str
    format: str = "txt"
    literal: str | None = None
    path: Path | None = None

    @property
    def size(self) -> int | None:
        """The number of bytes to read; None if it is not known, as for a pipe."""
        if self.literal is not None:
            return 0
        return self.path.stat().st_size if self.path and self.path.is_file() else None

    @property
    def identity(self) -> tuple[int, int] | None:
        """The identity of a regular file, whatever its names; None for other inputs."""
        if self.literal is not None:
            return None
        try:
            return _identity(self.path or sys.stdin.fileno())
        except (OSError, ValueError, AttributeError):  # standard input is closed, or is no file
            return None


class TextReader:
    """The texts of several inputs, in order; iterate over it once.

    ``-`` is standard input. An input is a file if its name exists, ends in a known suffix, or is a single word with a
    slash or a suffix. Any other input is a text.

    Args:
        inputs: Files, ``-``, and texts.
        texts: Texts, whatever they look like.
        file_format: One of ``FORMATS``, for all inputs; None to choose by the file's suffix, and to read standard input
            as lines of text.
        delimiter: The delimiter of CSV and TSV: a character, or ``tab``; None for comma and tab.
        column: The column (in JSONL the key) of the text.
        id_column: The column of the id; None to number the texts.
        on_bad_text: What to do with a text that cannot be embedded: ``error`` stops, ``skip`` leaves it out.

    Attributes:
        count: The number of texts read so far, including those left out.
        skipped: The number of texts left out so far.
        examples: What was wrong with the first few texts left out.

    Raises:
        FileError: At once, if a file is missing or its format is unknown; while reading, if a file is damaged, lacks a
            column, or has an id twice.
        TextError: While reading, if a text cannot be embedded, or there is no text at all.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        *,
        texts: Sequence[str] = (),
        file_format: str | None = None,
        delimiter: str | None = None,
        column: str = "text",
        id_column: str | None = None,
        on_bad_text: Literal["error", "skip"] = "error",
    ) -> None:
        if file_format not in (None, *FORMATS):
            raise errors.FileError.unknown_name("format", file_format, FORMATS)
        self._columns = Columns(column, id_column)
        self._skips = on_bad_text == "skip"
        self._sources = [_source(input_, number, file_format) for number, input_ in enumerate(inputs, start=1)]
        self._sources += [_Source(f"--text {number}", literal=text) for number, text in enumerate(texts, start=1)]
        self._delimiter = rows.delimiter_of(delimiter)
        if delimiter is not None:
            for source in self._sources:
                if source.literal is None and source.format not in _TABLES:
                    raise errors.delimiter_unused(source.name, source.format)
        plain = [source for source in self._sources if source.literal is not None or source.format == "txt"]
        if column != Columns().text and plain and len(plain) == len(self._sources):
            kind = "a text" if plain[0].literal is not None else "txt"
            raise errors.column_unused(plain[0].name, column, kind)
        self._total: int | None = None
        self._begin()

    def _begin(self) -> None:
        """Reset the reader to the state before anything is read."""
        self._starts: list[int] = []
        self._read = 0
        self._handle: BinaryIO | None = None
        self._seen: dict[bytes, int] = {}  # a digest of each id → the number of its text
        self.count = 0
        self.skipped = 0
        self.examples: list[str] = []

    def check(self, progress: Callable[[int], None] = lambda count: None) -> None:
        """Read all inputs to their end, except standard input and other pipes, so that faults show now.

        Args:
            progress: Called now and then with the number of texts read.

        Raises:
            FileError: As when iterating.
            TextError: As when iterating.
        """
        piped = [source for source in self._sources if source.size is None]
        sources, self._sources = self._sources, [source for source in self._sources if source.size is not None]
        try:
            for _ in self._items() if piped else self:
                if self.count % CHECKED_AT_ONCE == 0:
                    progress(self.count)
            self._total = None if piped else self.count
        finally:
            self._sources = sources
            self._begin()

    def refuse_as_output(self, *files: str | Path | int) -> None:
        """Refuse outputs that are also inputs, by whatever name or link, as the texts would be overwritten.

        Args:
            files: Paths, or descriptors of open files.

        Raises:
            FileError: If an output is an input.
        """
        inputs = {identity: source.name for source in self._sources if (identity := source.identity)}
        for file in files:
            identity = _identity(file)
            if identity is not None and identity in inputs:
                raise errors.output_is_input(file, inputs[identity])

    def expected(self) -> int | None:
        """Return the number of all texts: as counted by ``check``, else estimated from the bytes read so far.

        None if neither is known.
        """
        if self._total is not None:
            return self._total
        sizes = [source.size for source in self._sources]
        total = sum(size for size in sizes if size is not None)
        read = self._read + (self._handle.tell() if self._handle else 0)
        if None in sizes or (total and not read):
            return None
        return round(self.count * total / read) if total else len(sizes)

    def __iter__(self) -> Iterator[Item]:
        yield from self._items()
        if self.count == self.skipped:
            raise errors.no_texts((source.name for source in self._sources), self.skipped)

    def _items(self) -> Iterator[Item]:
        for source in self._sources:
            self._starts.append(self.count)
            for row in self._rows(source):
                self.count += 1
                try:
                    text = _checked(row)
                except errors.TextError as error:
                    self.leave_out(error)
                    continue
                yield Item(self._id(row), text, row.where)

    def leave_out(self, error: errors.TextError) -> None:
        """Count a text that cannot be embedded as left out.

        Raises:
            TextError: The given error, unless such texts are skipped. A text over the budget is never skipped.
        """
        if not self._skips or isinstance(error, errors.OverBudgetError):
            raise error
        self.skipped += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(str(error))

    def _rows(self, source: _Source) -> Iterator[Row]:
        if source.literal is not None:
            yield Row(source.name, source.literal, id=self.count)
            return
        opened = rows.opened(source.path) if source.path else contextlib.nullcontext(_standard_input())
        try:
            with rows.readable(source.name), opened as handle:
                self._handle = handle if source.size else None
                yield from rows.rows_of(source.format, handle, source.name, self._columns, delimiter=self._delimiter)
        finally:
            self._handle = None
            self._read += source.size or 0

    def _id(self, row: Row) -> str:
        number = self.count - 1
        if self._columns.id is None:
            return str(number)
        if isinstance(row.id, bool) or not isinstance(row.id, (str, int)):
            raise errors.id_unusable(row.where, row.id)
        try:
            id_ = check_text(str(row.id), row.where)
        except errors.TextError as error:
            raise errors.id_unusable(row.where, row.id) from error
        before = self._seen.setdefault(hashlib.blake2b(id_.encode(), digest_size=16).digest(), number)
        if before != number:
            at = bisect.bisect_right(self._starts, before) - 1
            place = f"text {before - self._starts[at] + 1} of {self._sources[at].name}"
            raise errors.id_twice(id_, row.where, place)
        return id_


def _identity(file: str | Path | int) -> tuple[int, int] | None:
    """Return device and inode of a regular file; None if there is no such file."""
    try:
        status = os.stat(file)  # noqa: PTH116 (also of an open file)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise errors.file_unreadable("standard input", "it is closed")
    return sys.stdin.buffer


def _checked(row: Row) -> str:
    if isinstance(row.text, errors.TextError):
        raise row.text
    return check_text(row.text, row.where)


def _source(input_: str | Path, number: int, format_: str | None) -> _Source:
    if input_ == "-":
        if format_ == "parquet":
            raise errors.format_needs_file(format_)
        return _Source("standard input", format_ or "txt")
    path, name = Path(input_), str(input_)
    try:
        exists = bool(name.strip()) and path.exists()
    except (OSError, ValueError):  # the name is too long, or its folder cannot be read
        exists = False
    known_format = format_ or rows.format_of(name)
    if not exists and (isinstance(input_, Path) or rows.format_of(name) or _LIKE_A_FILE.fullmatch(name)):
        raise errors.file_missing(name)
    if not exists:
        return _Source(f"argument {number}", literal=name)
    if path.is_dir():
        raise errors.file_unreadable(name, "it is a folder (a word to embed is given as --text)")
    if known_format is None:
        raise errors.format_untold(name, SUFFIXES, "Say --format, or if these are words to embed, give them as --text")
    return _Source(name, known_format, path=path)
