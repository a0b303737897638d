"""Reading texts and writing their vectors: as streams, in order, in constant memory."""

from echoembed.texts.embedder import Embedder
from echoembed.texts.readers import TextReader
from echoembed.texts.remote import RemoteEmbedder
from echoembed.texts.rows import FORMATS, Item
from echoembed.texts.stream import embed_stream, encode_items
from echoembed.texts.writer import Stamp, Writer
from echoembed.texts.writers import WRITERS, JsonlWriter, check_output, open_writer, output_files

__all__ = [
    "FORMATS",
    "WRITERS",
    "Embedder",
    "Item",
    "JsonlWriter",
    "RemoteEmbedder",
    "Stamp",
    "TextReader",
    "Writer",
    "check_output",
    "embed_stream",
    "encode_items",
    "open_writer",
    "output_files",
]
