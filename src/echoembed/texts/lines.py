"""The decoded lines of an open file: UTF-8, or UTF-16 and UTF-32 with a byte order mark."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from echoembed import errors

LINE_LIMIT = 64 * 2**20
_CHUNK = 2**16
_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # neither is how a text in UTF-8 or UTF-16 begins


def decoded_lines(handle: BinaryIO, name: str) -> Iterator[tuple[str, str | errors.TextError]]:
    """Yield each line with its place.

    Args:
        handle: A file open for reading, at its beginning.
        name: What messages call the file.

    Yields:
        The place, ``line 7 of NAME``, and the line with its line break; for a line that is not UTF-8, an error instead
        of the line.

    Raises:
        FileError: If a line is longer than ``LINE_LIMIT``, or the file's encoding is not supported.
    """
    line = handle.readline(LINE_LIMIT + 1)
    if (recoded := as_utf8(line, handle, name)) is not None:
        handle = recoded
        line = handle.readline(LINE_LIMIT + 1)
    line = line.removeprefix(codecs.BOM_UTF8)
    number = 0
    while line:
        number += 1
        where = f"line {number} of {name}"
        if len(line) > LINE_LIMIT:
            raise errors.line_too_long(where, LINE_LIMIT)
        try:
            yield where, line.decode()
        except UnicodeDecodeError as error:
            yield where, errors.text_not_utf8(where, error.start + 1, line[error.start])
        line = handle.readline(LINE_LIMIT + 1)


def without_end(where: str, line: str) -> str:
    """Return a line of text without its line break.

    Raises:
        FileError: If there is a carriage return in it: a file with old line ends would be one text.
    """
    text = line.removesuffix("\n").removesuffix("\r")
    if "\r" in text:
        raise errors.text_file_returns(where)
    return text


def as_utf8(head: bytes, handle: BinaryIO, name: str) -> BinaryIO | None:
    """Convert a file that begins with the byte order mark of UTF-16 or UTF-32.

    Args:
        head: What has been read of the file: its first line, or more.
        handle: The rest of the file.
        name: What messages call the file.

    Returns:
        The whole file in UTF-8, without the mark; None if it needs no conversion.

    Raises:
        FileError: If the file is UTF-16 without a mark, or compressed; while the result is read, if it is damaged.
    """
    if (how := next((how for start, how in _COMPRESSED.items() if head.startswith(start)), None)) is not None:
        raise errors.file_compressed(name, how)
    codec = next((codec for mark, codec in _MARKS if head.startswith(mark)), None)
    if codec is not None:
        return cast(BinaryIO, io.BufferedReader(_Recoded(head, handle, codec, name)))
    if (order := _unmarked_utf16(head)) is not None:
        raise errors.file_encoding(name, f"UTF-16 ({order}) without a byte order mark", order)
    return None


def _unmarked_utf16(head: bytes) -> str | None:
    """Return the byte order of text in UTF-16, in which every other byte of ordinary text is zero."""
    for order, zeros, others in (("utf-16le", head[1::2], head[0::2]), ("utf-16be", head[0::2], head[1::2])):
        if zeros.count(0) and not others.count(0) and 3 * zeros.count(0) >= len(head):
            return order
    return None


class _Recoded(io.RawIOBase):
    """A file in another encoding, read as UTF-8.

    Args:
        head: The bytes that have already been read.
        handle: The rest of the file.
        codec: The encoding; its decoder skips the byte order mark.
        name: What messages call the file.
    """

    def __init__(self, head: bytes, handle: BinaryIO, codec: str, name: str) -> None:
        self._head, self._handle, self._codec, self._name = head, handle, codec, name
        self._decoder = codecs.getincrementaldecoder(codec)()
        self._ready = b""

    def readable(self) -> bool:
        """Return True, as the file is for reading."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, and return the number of bytes; 0 at the end of the file."""
        while not self._ready:
            data, self._head = self._head or self._handle.read(_CHUNK), b""
            try:
                self._ready = self._decoder.decode(data, final=not data).encode()
            except UnicodeError as error:
                raise errors.file_encoding(self._name, f"damaged {self._codec.upper()} ({error})", "utf-16") from error
            if not data and not self._ready:
                return 0
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
