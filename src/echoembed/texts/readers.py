"""Reading texts from arguments, files and standard input, one at a time and each checked."""

from __future__ import annotations

import bisect
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import echoembed
from echoembed import errors
from echoembed.texts import formats
from echoembed.texts.formats import FORMATS, SUFFIXES, Columns, Row
from echoembed.texts.items import Item, SeenIds

STDIN = "standard input"
EXAMPLES = 3


class _Source(NamedTuple):
    """One input, not yet open: a text itself, standard input or a file."""

    name: str
    kind: str = "txt"
    literal: str | None = None
    path: Path | None = None

    @property
    def size(self) -> int | None:
        """Bytes to read; None where that cannot be known."""
        if self.literal is not None:
            return 0
        return self.path.stat().st_size if self.path and self.path.is_file() else None


class TextReader:
    """Texts of several inputs, in order; iterate it once.

    Whether an input is a file is told by its looks: ``-`` is standard input; what exists, or ends
    in a known suffix, or is one word with a slash or a suffix in it, is a file; all else is a text.

    Args:
        inputs: Files, ``-``, and texts.
        texts: Texts, whatever they look like.
        format: One of ``FORMATS`` for all inputs, whatever their names say; None to go by the
            suffix, and to read standard input as lines.
        column: The column (of JSONL the key) that holds the text.
        id_column: The column that holds the id; None to number the texts from 0.
        on_bad_text: What a text that cannot be embedded does: ``error`` stops, ``skip`` goes on.

    Attributes:
        count: Texts read so far, skipped ones among them.
        skipped: Texts skipped so far.
        examples: What was wrong with the first few of them.

    Raises:
        FileError: On construction, for a file that is missing or of unknown format; while reading,
            for one that is broken, lacks a column or has an id twice.
        TextError: While reading, for a text that cannot be embedded.
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
            raise errors.format_unknown(str(format), FORMATS)
        self._columns = Columns(column, id_column)
        self._skips = on_bad_text == "skip"
        self._sources = [_source(given, n, format) for n, given in enumerate(inputs, start=1)]
        self._sources += [_Source(f"--text {n}", literal=text) for n, text in enumerate(texts, start=1)]
        self._starts: list[int] = []
        self._bytes_before = 0
        self._open: BinaryIO | None = None
        self._seen = SeenIds()
        self.count = 0
        self.skipped = 0
        self.examples: list[str] = []

    @property
    def names(self) -> list[str]:
        """What the inputs are called in messages."""
        return [source.name for source in self._sources]

    def expected(self) -> int | None:
        """How many texts there are in all, by the share of bytes read so far; None where that cannot be known."""
        sizes = [source.size for source in self._sources]
        known = [size for size in sizes if size is not None]
        read = self._bytes_before + (self._open.tell() if self._open else 0)
        if len(known) < len(sizes) or (any(known) and not read):
            return None
        return round(self.count * sum(known) / read) if any(known) else len(sizes)

    def __iter__(self) -> Iterator[Item]:
        for source in self._sources:
            self._starts.append(self.count)
            for row in _rows(self, source):
                self.count += 1
                try:
                    text = _checked(row)
                except errors.TextError as error:
                    if not self._skips:
                        raise
                    self.skipped += 1
                    if len(self.examples) < EXAMPLES:
                        self.examples.append(str(error))
                    continue
                yield Item(self._id(row), text, row.where)
        if self.count == self.skipped:
            raise errors.no_texts(self.names, self.skipped)

    def _rows(self, source: _Source) -> Iterator[Row]:
        if source.literal is not None:
            yield Row(source.name, source.literal)
            return
        try:
            with sys.stdin.buffer if source.path is None else source.path.open("rb") as handle:
                self._open = None if source.path is None else handle
                yield from formats.rows_of(source.kind, handle, source.name, self._columns)
        except errors.EchoembedError:
            raise
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise errors.file_unreadable(source.name, reason.lower()) from error
        finally:
            self._open = None
            self._bytes_before += source.size or 0

    def _id(self, row: Row) -> str:
        number = self.count - 1
        if self._columns.id is None:
            return str(number)
        id_ = number if row.id is None and row.where in self.names else row.id
        if isinstance(id_, bool) or not isinstance(id_, (str, int)) or not _is_word(str(id_)):
            raise errors.id_unusable(row.where, id_)
        first = self._seen.add(str(id_), number)
        if first is not None:
            source = bisect.bisect_right(self._starts, first) - 1
            place = f"text {first - self._starts[source] + 1} of {self._sources[source].name}"
            raise errors.id_twice(str(id_), row.where, place)
        return str(id_)
