"""From texts to vectors to a writer, a chunk at a time, so that memory does not grow with the number of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NoReturn

import numpy as np

from echoembed import errors
from echoembed.texts.rows import Item
from echoembed.texts.writer import Vectors, Writer

CHUNK = 1024
FIRST_CHUNK = 64

Encode = Callable[[list[str]], Vectors]
Faults = Callable[[list[Item]], Sequence[errors.TextError | None]]
LeaveOut = Callable[[errors.TextError], None]


def _refuse(error: errors.TextError) -> NoReturn:
    raise error


def embed_stream(
    items: Iterable[Item],
    encode: Encode,
    writer: Writer,
    *,
    faults: Faults | None = None,
    leave_out: LeaveOut = _refuse,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Embed texts in order, and write their vectors.

    The file exists when this function returns; nothing of it is left when the function raises.

    Args:
        items: From a ``TextReader``.
        encode: Encodes texts to vectors, such as ``model.encode``.
        writer: From ``open_writer``, not yet entered.
        faults: As for ``encode_items``.
        leave_out: As for ``encode_items``.
        chunk: The most texts in a call of ``encode``. The first calls take fewer, from ``FIRST_CHUNK`` on twice as
            many each time, so that first faults and first progress show early.
        progress: Called after each chunk with the number of texts done.

    Returns:
        The number of texts embedded.

    Raises:
        EchoembedError: If reading, embedding or writing fails.
    """
    read = 0
    with writer:
        for part in _chunks(items, chunk):
            read += len(part)
            good, vectors_ND = encode_items(part, encode, faults=faults, leave_out=leave_out)
            if good:
                writer.write(good, vectors_ND)
            if progress is not None:
                progress(writer.count)
        if not writer.count:
            raise errors.no_texts((), skipped=read)
    return writer.count


def encode_items(
    items: list[Item], encode: Encode, *, faults: Faults | None = None, leave_out: LeaveOut = _refuse
) -> tuple[list[Item], Vectors]:
    """Return the items that the model can embed, and their vectors.

    Args:
        items: Texts that have been checked. The model may still refuse some of them.
        encode: Encodes texts to vectors; it raises ``TextError`` for a text that it cannot embed.
        faults: Called after such an error; returns the error of each item, or None. If there is none, the first error
            is raised. Default: ``encode`` each item alone.
        leave_out: Called with each error, which names its item; raises unless the item may be left out, such as
            ``TextReader.leave_out``. Default: raises.

    Raises:
        TextError: From ``leave_out``.
    """
    try:
        return items, encode([item.text for item in items])
    except errors.TextError:
        reasons = [_fault(item, encode) for item in items] if faults is None else faults(items)
        if not any(reasons):
            raise
    for error in reasons:
        if error is not None:
            leave_out(error)
    good = [item for item, error in zip(items, reasons, strict=True) if error is None]
    return good, encode([item.text for item in good]) if good else np.empty((0, 0), np.float32)


def _fault(item: Item, encode: Encode) -> errors.TextError | None:
    try:
        encode([item.text])
    except errors.TextError as error:
        return errors.text_unusable(item.where, str(error))
    return None


def _chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    rest = iter(items)
    size = min(FIRST_CHUNK, most)
    while part := list(islice(rest, size)):
        yield part
        size = min(2 * size, most)
