"""The input files of a corpus: named files, and the files in folders, in order; cycles of links are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from echoembed import errors
from echoembed.corpus.manifest import SHARDS
from echoembed.corpus.records import Rejected
from echoembed.files import reason_of

DOCUMENTS = (".md", ".markdown", ".txt", ".text", ".rst")
ROWS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
PACKED = (".gz", ".zst")
FORMATS = ("jsonl", "csv", "tsv", "parquet", "lines", "document")
SUFFIXES = (*DOCUMENTS, *ROWS)


class InputFile(NamedTuple):
    """A file to read.

    Attributes:
        path: The file.
        name: Its name in ids and messages: its path below the folder that contains all inputs, in UTF-8.
        format: One of ``FORMATS``; a ``document`` is a single text.
        packed: Its compression: ``.gz``, ``.zst`` or nothing.
    """

    path: Path
    name: str
    format: str
    packed: str = ""

    @property
    def markdown(self) -> bool:
        """Return whether the file's text is Markdown."""
        return self.name.lower().removesuffix(self.packed).endswith((".md", ".markdown"))


class Inputs:
    """The files of several inputs, listed anew at each iteration; only the names of one folder are in memory.

    Args:
        paths: Files and folders.
        file_format: One of ``FORMATS`` for all files that are named, whatever their suffixes; None to go by the suffix.
        leave_out: A folder to skip: that of the corpus itself.

    Attributes:
        ignored: How many files of other kinds the last iteration skipped in folders.

    Raises:
        FileError: If an input is missing, or nothing tells how to read it.
        CorpusError: If an input lies in the folder to skip.
    """

    def __init__(
        self, paths: Sequence[str | Path], *, file_format: str | None = None, leave_out: Path | None = None
    ) -> None:
        if not paths:
            raise errors.CorpusError.bad_value("INPUT", "nothing", "files and folders, at least one")
        if file_format not in (None, *FORMATS):
            raise errors.FileError.unknown_name("format", file_format, FORMATS)
        self.ignored = 0
        self._format = file_format
        self._leave_out = leave_out
        self._paths = [Path(path).expanduser() for path in dict.fromkeys(os.fspath(path) for path in paths)]
        for path in self._paths:
            _check_input(path, file_format)
            if leave_out is not None and (leave_out / SHARDS).is_dir() and _inside(path.resolve(), leave_out.resolve()):
                raise errors.corpus_input_inside(_utf8(str(path)), leave_out)
        self._base = os.path.commonpath([_place(path).parent for path in self._paths])

    def __iter__(self) -> Iterator[InputFile | Rejected]:
        """Files in the order of inputs, those of a folder sorted by name; folders that cannot be listed as rejected.

        Where inputs overlap, a file comes once: with the first that it belongs to.
        """
        self.ignored = 0
        named: set[Path] = set()  # memory does not hold the files of folders
        for path in self._paths:
            place = _place(path)
            if not named.isdisjoint((place, *place.parents)):
                continue
            for entry in self._walk(path, self._not_walked()) if path.is_dir() else [path]:
                if isinstance(entry, Rejected):
                    yield entry
                elif not named or named.isdisjoint((absolute := _place(entry), *absolute.parents)):
                    yield self._file(entry)
            named.add(place)

    def total_bytes(self) -> int:
        """Return the size of all files, for estimates of the time left."""
        return sum(_size(file.path) for file in self if isinstance(file, InputFile))

    def formats(self) -> set[str]:
        """Return the formats that the files may have: any, if one of the inputs is a folder."""
        if self._format is not None:
            return {self._format}
        named = {kind_of(path.name)[0] for path in self._paths if not path.is_dir()}
        folders = any(path.is_dir() for path in self._paths)
        return set(FORMATS) if folders else {format_ for format_ in named if format_}

    def names(self) -> list[str]:
        """Return the inputs as they were given."""
        return [_utf8(str(path)) for path in self._paths]

    def _file(self, path: Path) -> InputFile:
        format_, packed = kind_of(path.name)
        name = _utf8(Path(os.path.relpath(_place(path), self._base)).as_posix())
        return InputFile(path, name, self._format or format_ or "lines", packed)

    def _not_walked(self) -> set[tuple[int, int]]:
        if self._leave_out is None or not self._leave_out.is_dir():
            return set()
        status = self._leave_out.stat()
        return {(status.st_dev, status.st_ino)}

    def _walk(self, top: Path, above: set[tuple[int, int]]) -> Iterator[Path | Rejected]:
        """Yield the files below a folder; ``above`` are the folders above it, to which links must not lead back."""
        # Not by recursion: folders may be nested more deeply than calls of Python.
        open_folders: list[tuple[Path | None, Iterator[str], set[tuple[int, int]]]] = [(None, iter([""]), above)]
        while open_folders:
            folder, names, above = open_folders[-1]
            name = next(names, None)
            if name is None:
                open_folders.pop()
                continue
            path = top if folder is None else folder / name
            try:
                if path.is_dir():
                    status = path.stat()
                    identity = (status.st_dev, status.st_ino)
                    if identity not in above:
                        inside = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
                        open_folders.append((path, iter(inside), above | {identity}))
                elif kind_of(name)[0]:
                    yield path
                else:
                    self.ignored += 1
            except OSError as error:
                yield Rejected(_utf8(str(path)), str(errors.file_unreadable(_utf8(str(path)), _reason(error))))


def kind_of(name: str) -> tuple[str | None, str]:
    """Return the format that a file's name implies, or None, and the file's compression."""
    lower = name.lower()
    packed = next((suffix for suffix in PACKED if lower.endswith(suffix)), "")
    suffix = Path(lower.removesuffix(packed)).suffix
    if packed and suffix == ".parquet":  # Parquet is compressed inside; no reader expects it compressed again
        return None, ""
    return ("document" if suffix in DOCUMENTS else ROWS.get(suffix)), packed


def _check_input(path: Path, format_: str | None) -> None:
    name = _utf8(str(path))
    if name == "-":
        raise errors.corpus_stdin()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise errors.corpus_input_missing(name) from error
    except OSError as error:  # such as a folder above it that is closed
        raise errors.file_unreadable(name, _reason(error)) from error
    if path.is_dir():
        return
    if not path.is_file():
        raise errors.file_unreadable(name, "it is neither a file nor a folder")
    if format_ is None and kind_of(path.name)[0] is None:
        raise errors.format_untold(name, (*SUFFIXES, ".jsonl.gz", ".jsonl.zst"), "Rename it, or say --format")


def _place(path: Path) -> Path:
    """Return where a path leads, however it is written: ``..`` goes, links stay."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _inside(path: Path, folder: Path) -> bool:
    return folder in (path, *path.parents)


def _utf8(name: str) -> str:
    """Return the name in UTF-8; bytes that are not UTF-8 become hexadecimal escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _reason(error: OSError) -> str:
    return reason_of(error).rstrip(".")
