"""Reading texts from arguments, files and standard input: one at a time, each checked, in order."""

from __future__ import annotations

import bisect
import contextlib
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from echoembed import errors
from echoembed.prompts.text import check_text
from echoembed.texts import rows
from echoembed.texts.items import Item, SeenIds
from echoembed.texts.rows import FORMATS, SUFFIXES, Columns, Row

EXAMPLES = 3
# One word with a slash in it or a suffix at its end: rather a file that is missing than a text.
_LIKE_A_FILE = re.compile(r"\S*/\S*|\S+\.[A-Za-z]\w{0,7}")


class _Source(NamedTuple):
    """One input, not yet open: a text itself, a file or, with neither, standard input."""

    name: str
    format: str = "txt"
    literal: str | None = None
    path: Path | None = None

    @property
    def size(self) -> int | None:
        """Bytes to read; None where that cannot be known, as of a pipe."""
        if self.literal is not None:
            return 0
        return self.path.stat().st_size if self.path and self.path.is_file() else None


class TextReader:
    """The texts of several inputs, in order; iterate it once.

    What an input is, its looks tell: ``-`` is standard input; a name that exists, ends in a known
    suffix, or is one word with a slash or a suffix in it, is a file; anything else is a text.

    Args:
        inputs: Files, ``-``, and texts.
        texts: Texts, whatever they look like.
        format: One of ``FORMATS``, for every input whatever its name says; None to go by the suffix
            and to read standard input as lines of text.
        column: The column (in JSONL the key) that holds the text.
        id_column: The column that holds the id; None to number the texts.
        on_bad_text: What a text that cannot be embedded does: ``error`` stops, ``skip`` leaves it out.

    Attributes:
        count: Texts read so far, those left out among them.
        skipped: Texts left out so far.
        examples: What was wrong with the first few of these.

    Raises:
        FileError: At once, for a file that is missing or of an unknown format; while reading, for one
            that is broken, lacks a column or has an id twice.
        TextError: While reading, for a text that cannot be embedded, or where there is no text at all.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        *,
        texts: Sequence[str] = (),
        format: str | None = None,
        column: str = "text",
        id_column: str | None = None,
        on_bad_text: Literal["error", "skip"] = "error",
    ) -> None:
        if format not in (None, *FORMATS):
            raise errors.format_unknown(format, FORMATS)
        self._columns = Columns(column, id_column)
        self._skips = on_bad_text == "skip"
        self._sources = [_source(given, number, format) for number, given in enumerate(inputs, start=1)]
        self._sources += [_Source(f"--text {number}", literal=text) for number, text in enumerate(texts, start=1)]
        self._starts: list[int] = []
        self._read = 0
        self._handle: BinaryIO | None = None
        self._seen = SeenIds()
        self.count = 0
        self.skipped = 0
        self.examples: list[str] = []

    def expected(self) -> int | None:
        """How many texts there are in all, judged by the bytes read so far; None where nothing tells."""
        sizes = [source.size for source in self._sources]
        total = sum(size for size in sizes if size is not None)
        read = self._read + (self._handle.tell() if self._handle else 0)
        if None in sizes or (total and not read):
            return None
        return round(self.count * total / read) if total else len(sizes)

    def __iter__(self) -> Iterator[Item]:
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
        if self.count == self.skipped:
            raise errors.no_texts((source.name for source in self._sources), self.skipped)

    def leave_out(self, error: errors.TextError) -> None:
        """Count a text that cannot be embedded as left out.

        Raises:
            TextError: The error itself, unless such texts are skipped. One over the budget never is.
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
        piped = contextlib.nullcontext(sys.stdin.buffer)
        try:
            with piped if source.path is None else source.path.open("rb") as handle:
                self._handle = handle if source.size else None
                yield from rows.rows_of(source.format, handle, source.name, self._columns)
        except errors.EchoembedError:
            raise
        except (OSError, EOFError, zlib.error) as error:  # the last two from compressed files
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise errors.file_unreadable(source.name, reason.rstrip(".")) from error
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
        first = self._seen.add(id_, number)
        if first is not None:
            at = bisect.bisect_right(self._starts, first) - 1
            place = f"text {first - self._starts[at] + 1} of {self._sources[at].name}"
            raise errors.id_twice(id_, row.where, place)
        return id_


def _checked(row: Row) -> str:
    if isinstance(row.text, errors.TextError):
        raise row.text
    return check_text(row.text, row.where)


def _source(given: str | Path, number: int, format_: str | None) -> _Source:
    if given == "-":
        if format_ == "parquet":
            raise errors.format_needs_file(format_)
        return _Source("standard input", format_ or "txt")
    path, name = Path(given), str(given)
    try:
        exists = bool(name.strip()) and path.exists()
    except (OSError, ValueError):  # too long for a name, or not to be looked at
        exists = False
    told = format_ or rows.format_of(name)
    if not exists and (isinstance(given, Path) or rows.format_of(name) or _LIKE_A_FILE.fullmatch(name)):
        raise errors.file_missing(name)
    if not exists:
        return _Source(f"argument {number}", literal=name)
    if path.is_dir():
        raise errors.file_unreadable(name, "it is a folder (a word to embed is given as --text)")
    if told is None:
        raise errors.file_format_unknown(name, SUFFIXES)
    return _Source(name, told, path=path)
