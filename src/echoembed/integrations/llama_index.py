"""LlamaIndex: ``EchoEmbedding(echoembed.load())`` is a ``BaseEmbedding``.

LlamaIndex's own ``HuggingFaceEmbedding`` reads documents with the query template and has no argument to change that.
It also tries a text that cannot be embedded again and again, for some seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from echoembed.integrations.several import texts_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class EchoEmbedding(BaseEmbedding):  # type: ignore[misc]
    """A model from ``echoembed.load`` for LlamaIndex.

    Args:
        model: The model.
        options: Arguments of ``BaseEmbedding``, such as ``embed_batch_size``.
    """

    _model: Any = PrivateAttr()

    def __init__(self, model: SentenceTransformer, **options: Any) -> None:
        super().__init__(**{"model_name": "echoembed", **options})
        self._model = model

    # ``BaseEmbedding`` takes several texts apart before it calls a method below, which would never see one text.

    def get_text_embedding_batch(self, texts: Iterable[str], *more: Any, **options: Any) -> list[list[float]]:
        """Embed documents, a row each; further arguments are those of ``BaseEmbedding``.

        Raises:
            TextError: If a text cannot be embedded, or these are one text or a table.
        """
        rows: list[list[float]] = super().get_text_embedding_batch(texts_of(texts), *more, **options)
        return rows

    async def aget_text_embedding_batch(self, texts: Iterable[str], *more: Any, **options: Any) -> list[list[float]]:
        """Do what ``get_text_embedding_batch`` does."""
        rows: list[list[float]] = await super().aget_text_embedding_batch(texts_of(texts), *more, **options)
        return rows

    def get_agg_embedding_from_queries(self, queries: Iterable[str], *more: Any, **options: Any) -> list[float]:
        """Embed queries, and return the mean of their vectors or what else is asked for.

        Raises:
            TextError: If a text cannot be embedded, or these are one text or a table.
        """
        vector: list[float] = super().get_agg_embedding_from_queries(texts_of(queries), *more, **options)
        return vector

    async def aget_agg_embedding_from_queries(self, queries: Iterable[str], *more: Any, **options: Any) -> list[float]:
        """Do what ``get_agg_embedding_from_queries`` does."""
        vector: list[float] = await super().aget_agg_embedding_from_queries(texts_of(queries), *more, **options)
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._model.encode_query([query], show_progress_bar=False)[0].tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode_document(texts, show_progress_bar=False).tolist()
        return vectors
