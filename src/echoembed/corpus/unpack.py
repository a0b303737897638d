"""Compressed inputs as streams of their content, up to the first fault."""

from __future__ import annotations

import gzip
import io
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

_BYTES = 2**16


def unpacked(raw: BinaryIO, packed: str) -> BinaryIO:
    """Return the content of an open file.

    Args:
        raw: The file, at its start.
        packed: Its compression: ``.gz``, ``.zst`` or nothing.
    """
    if packed == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if packed == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstd(raw), _BYTES))
    return raw


class _Zstd(io.RawIOBase):
    """The content of a file compressed by zstd.

    pyarrow's stream gives nothing of a read that meets a fault. The content before the fault is then read again, by a
    stream of its own and byte by byte.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._path = Path(raw.name)
        self._stream = _opened(raw)
        self._delivered = 0
        self._fault: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._fault is not None:
            raise self._fault
        try:
            data = self._stream.read(len(buffer))
        except OSError as fault:
            self._fault = fault
            data = self._just_before()
            if not data:
                raise
        buffer[: len(data)] = data
        self._delivered += len(data)
        return len(data)

    def _just_before(self) -> bytes:
        data = b""
        left = self._delivered
        with suppress(OSError), self._path.open("rb") as raw, _opened(raw) as stream:
            while left:
                left -= len(stream.read(min(left, _BYTES)))
            while byte := stream.read(1):
                data += byte
        return data


def _opened(raw: BinaryIO) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(raw, "zstd")
