"""LangChain: ``EchoEmbeddings(echoembed.load())`` is an ``Embeddings``.

LangChain's own ``HuggingFaceEmbeddings`` replaces line breaks by blanks, and reads documents with the query template
unless told otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

from echoembed.integrations.several import texts_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class EchoEmbeddings(Embeddings):  # type: ignore[misc]
    """A model from ``echoembed.load`` for LangChain.

    Args:
        model: The model.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, with their line breaks.

        Raises:
            TextError: If a text cannot be embedded, or these are one text or a table.
        """
        vectors: list[list[float]] = self.model.encode_document(texts_of(texts), show_progress_bar=False).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        Raises:
            TextError: If the query cannot be embedded.
        """
        vector: list[float] = self.model.encode_query([text], show_progress_bar=False)[0].tolist()
        return vector
