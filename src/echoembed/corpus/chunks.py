"""Long texts in chunks of whole sentences, each within a budget of tokens, with its place in the text.

The splitter is ``semantic-text-splitter`` (text-splitter in Rust): sentences as Unicode defines them, in any language,
paragraphs before sentences before words, Markdown by its headings, offsets in characters, and any counter of tokens.
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
        count: The number of tokens that the model makes of a text.
        tokens: Most tokens of a chunk.

    Raises:
        CorpusError: If a chunk may have too few tokens for a sentence.
    """

    count: Callable[[str], int]
    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < SMALLEST:
            raise errors.CorpusError.bad_value("--chunk-tokens", self.tokens, f"a whole number from {SMALLEST}")

    def chunks(self, text: str, *, markdown: bool = False) -> Iterator[tuple[int, str]]:
        """The chunks of a text with the place of their first character; blanks between chunks belong to none."""
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
