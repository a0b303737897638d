"""From files to groups of records, one group for each shard: checked, cut into chunks, and the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from echoembed import errors
from echoembed.corpus.chunks import Chunker
from echoembed.corpus.inputs import FORMATS, SUFFIXES, InputFile, Inputs
from echoembed.corpus.readers import Raw, rows_of
from echoembed.corpus.records import Keep, Record, Rejected
from echoembed.corpus.scratch import Seen
from echoembed.prompts.text import check_text
from echoembed.texts.rows import Columns, delimiter_of

GROUP_BYTES = 32 * 2**20
_HAVE_COLUMNS = "files with columns, such as JSONL and CSV"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How inputs become records.

    Attributes:
        text: The column of the text.
        id: The column of the id; None to make ids of the file's name and the row's number.
        keep: Further columns to store.
        chunk: Whether texts are cut into chunks; None to cut documents, but not rows.
        chunk_tokens: The largest number of tokens in a chunk; None for ``chunks.DEFAULT_TOKENS``, or the budget if it
            is smaller.
        shard_rows: The number of records in a shard.
        delimiter: What separates the columns of CSV and TSV: a character, or ``tab``; None for the usual one.
    """

    text: str = "text"
    id: str | None = None
    keep: tuple[Keep, ...] = ()
    chunk: bool | None = None
    chunk_tokens: int | None = None
    shard_rows: int = 4096
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise errors.CorpusError.bad_value("--shard-rows", self.shard_rows, "a whole number above 0")
        delimiter_of(self.delimiter)
        names = [keep.checked().name for keep in self.keep]
        for name in names:
            if names.count(name) > 1:
                raise errors.CorpusError.bad_value("--keep", name, "every column once")

    def check(self, inputs: Inputs) -> None:
        """Refuse what none of the inputs can use, which would be passed over without a word.

        Raises:
            CorpusError: If there is such a setting.
        """
        formats = inputs.formats()
        tables, rows = {"csv", "tsv"}, set(FORMATS) - {"document", "lines"}
        chunked = self.chunk or (self.chunk is None and "document" in formats)
        unused = {
            "--chunk-tokens": (self.chunk_tokens is not None and not chunked, "texts that are cut: with --chunk"),
            "--delimiter": (self.delimiter is not None and not formats & tables, "CSV and TSV"),
            "--column": (self.text != Reading.text and not formats & rows, _HAVE_COLUMNS),
            "--id-column": (self.id is not None and not formats & rows, _HAVE_COLUMNS),
            "--keep": (bool(self.keep) and not formats & rows, _HAVE_COLUMNS),
        }
        for option, (is_unused, needs) in unused.items():
            if is_unused:
                raise errors.corpus_option_unused(option, needs)


class Group(NamedTuple):
    """The records of one shard, in order."""

    number: int
    records: list[Record]


@dataclass
class Groups:
    """The groups of records in the inputs, read in one pass; can be iterated over once.

    Args:
        inputs: The files.
        reading: How the files are read.
        chunker: Cuts texts into chunks, if ``reading`` asks for it.
        seen: The ids so far.
        set_aside: Called with each row that is rejected.

    Attributes:
        bytes_read: How many bytes of the files have been read.
        files: How many files have been read.
        rows: How many rows have been read, including rejected ones.
        first_reason: Why the first rejected row was rejected.
    """

    inputs: Inputs
    reading: Reading
    chunker: Chunker
    seen: Seen
    set_aside: Callable[[Rejected], None]
    bytes_read: int = 0
    files: int = 0
    rows: int = 0
    first_reason: str = ""
    _done_bytes: int = field(default=0, repr=False)

    def __iter__(self) -> Iterator[Group]:
        number = 0
        records: list[Record] = []
        characters = 0
        for record in self._records():
            records.append(record)
            characters += len(record.text)
            if len(records) >= self.reading.shard_rows or characters >= GROUP_BYTES:
                yield Group(number, records)
                number, records, characters = number + 1, [], 0
        if records:
            yield Group(number, records)

    def _records(self) -> Iterator[Record]:
        reading = self.reading
        kept = tuple(keep.name for keep in reading.keep)
        columns = Columns(reading.text, reading.id, kept, delimiter_of(reading.delimiter))
        for file in self.inputs:
            if isinstance(file, Rejected):
                self._reject(file)
                continue
            self.files += 1
            for row in rows_of(file, columns, at=self._at):
                self.rows += 1
                if isinstance(row, Rejected):
                    self._reject(row)
                    continue
                try:
                    yield from self._checked(row, file)
                except (errors.TextError, errors.FileError) as error:
                    self._reject(Rejected(row.where, str(error)))
            self._done_bytes += file.path.stat().st_size if file.path.exists() else 0
            self.bytes_read = self._done_bytes

    def _checked(self, row: Raw, file: InputFile) -> Iterator[Record]:
        """Yield the records of a row: one, or one for each chunk.

        Raises:
            TextError: If the row's text cannot be embedded.
            FileError: If the row's id or a kept column cannot be used.
        """
        if isinstance(row.text, errors.TextError):
            raise row.text
        text = check_text(row.text, row.where)
        id_ = self._id(row, file)
        kept = tuple(
            keep.read(_usable(value), row.where) for keep, value in zip(self.reading.keep, row.kept, strict=True)
        )
        if not self.seen.add(id_):
            raise errors.id_twice(id_, row.where, "an earlier row")
        chunked = file.format == "document" if self.reading.chunk is None else self.reading.chunk
        if not chunked:
            yield Record.of(id_, text, row.where, kept)
            return
        for chunk, (start, part) in enumerate(self.chunker.chunks(text, markdown=file.markdown)):
            yield Record.of(id_, part, row.where, kept, chunk, start)

    def _id(self, row: Raw, file: InputFile) -> str:
        if self.reading.id is None or file.format in ("document", "lines"):
            return f"{file.name}:{row.number}" if row.number else file.name
        if isinstance(row.id, errors.TextError):
            raise row.id
        if isinstance(row.id, bool) or not isinstance(row.id, (str, int)):
            raise errors.id_unusable(row.where, row.id)
        try:
            return check_text(str(row.id), row.where)
        except errors.TextError as error:
            raise errors.id_unusable(row.where, row.id) from error

    def _reject(self, rejected: Rejected) -> None:
        self.first_reason = self.first_reason or rejected.reason
        self.set_aside(rejected)

    def nothing(self) -> str:
        """Return why there is no record, if no row was rejected either."""
        return "the files hold no row" if self.files else f"there is no file to read, such as {', '.join(SUFFIXES)}"

    def _at(self, position: int) -> None:
        self.bytes_read = self._done_bytes + position


def _usable(value: object) -> object:
    if isinstance(value, errors.TextError):
        raise value
    return value
