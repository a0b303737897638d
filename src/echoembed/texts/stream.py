"""Texts to vectors to a writer, a chunk at a time: memory does not grow with the number of texts."""

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
    """Embed texts in order.

    The file is under its name when this returns, and nothing of it is left when it raises.

    Args:
        items: From a ``TextReader``.
        encode: Texts to vectors, such as ``model.encode``; sorts by length within a call if it likes.
        writer: From ``open_writer``, not yet entered.
        faults: As in ``encode_items``.
        leave_out: As in ``encode_items``.
        chunk: Most texts in a call of ``encode``. The first calls take fewer, doubling from
            ``FIRST_CHUNK``, so that a first fault, or the first progress, is soon seen.
        progress: Called with the number of texts done, after each chunk.

    Returns:
        The number of texts embedded.

    Raises:
        EchoembedError: What reading, embedding and writing raise.
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
    """The items that the model can embed, and their vectors.

    Args:
        items: Texts that have been checked. The model may still find one to be none.
        encode: Texts to vectors; a text that it cannot embed is a ``TextError``.
        faults: Called after such an error: what is wrong with each item, None where nothing is. If nothing is
            wrong with any, the error is raised as it is. Default: what ``encode`` says of each alone.
        leave_out: Called with each fault, which names its item; it raises unless the item may be left out,
            such as ``TextReader.leave_out``. Default: raises.

    Raises:
        TextError: What ``leave_out`` raises.
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
