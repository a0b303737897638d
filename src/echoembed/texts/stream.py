"""Texts to vectors to a writer, a chunk at a time: flat in memory however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from echoembed import errors
from echoembed.texts.items import Item
from echoembed.texts.writer import Vectors, Writer

CHUNK = 1024
FIRST_CHUNK = 64


def embed_stream(
    items: Iterable[Item],
    encode: Callable[[list[str]], Vectors],
    writer: Writer,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Embed texts in order.

    The file is under its name when this returns, and nothing of it is left when it raises.

    Args:
        items: From a ``TextReader``.
        encode: Texts to vectors, such as ``model.encode``; sorts by length within a call if it likes.
        writer: From ``open_writer``, not yet entered.
        chunk: Most texts in a call of ``encode``. The first calls take fewer, doubling from
            ``FIRST_CHUNK``, so that a fault or the first progress does not keep one waiting.
        progress: Called with the number of texts done, after each chunk.

    Returns:
        The number of texts embedded.

    Raises:
        EchoembedError: What reading, embedding and writing raise.
    """
    with writer:
        for part in _chunks(items, chunk):
            writer.write(part, encode([item.text for item in part]))
            if progress is not None:
                progress(writer.count)
        if not writer.count:
            raise errors.no_texts(())
    return writer.count


def _chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    rest = iter(items)
    size = min(FIRST_CHUNK, most)
    while part := list(islice(rest, size)):
        yield part
        size = min(2 * size, most)
