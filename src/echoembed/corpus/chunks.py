"""Cutting long texts into chunks of whole sentences, each within a limit of tokens and with its place in the text.

The splitter is ``semantic-text-splitter`` (text-splitter in Rust). It finds sentences of any language by Unicode's
rules; splits between paragraphs if it can, else between sentences, else between words; splits Markdown at its headings;
gives offsets in characters; and works with any tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from echoembed import errors, versions

SMALLEST = 8
DEFAULT_TOKENS = 200


@dataclass(frozen=True, kw_only=True)
class Chunker:
    """Cuts texts into chunks.

    Args:
        count: Returns the number of tokens of a text.
        tokens: The largest number of tokens in a chunk.

    Raises:
        CorpusError: If ``tokens`` is too small for a sentence.
    """

    count: Callable[[str], int]
    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < SMALLEST:
            raise errors.CorpusError.bad_value("--chunk-tokens", self.tokens, f"a whole number from {SMALLEST}")

    def chunks(self, text: str, *, markdown: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the chunks of a text with the position of their first character; drop the blanks between chunks."""
        splitter = self._markdown if markdown else self._plain
        for start, chunk in splitter.chunk_indices(text):
            if chunk.strip():
                yield start, chunk

    @cached_property
    def _plain(self) -> Any:
        return _splitters().TextSplitter.from_callback(self.count, self.tokens)

    @cached_property
    def _markdown(self) -> Any:
        return _splitters().MarkdownSplitter.from_callback(self.count, self.tokens)


def _splitters() -> Any:
    with versions.needed("semantic-text-splitter", extra="corpus", purpose="Cutting texts into chunks"):
        import semantic_text_splitter
    return semantic_text_splitter
