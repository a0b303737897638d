"""LlamaIndex: ``EchoEmbedding(echoembed.load())`` is a ``BaseEmbedding``.

LlamaIndex's own ``HuggingFaceEmbedding`` reads documents with the query template and has no argument to change that.
It also tries a text that cannot be embedded again and again, for some seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

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

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._model.encode_query([query], show_progress_bar=False)[0].tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode_document(list(texts), show_progress_bar=False).tolist()
        return vectors
