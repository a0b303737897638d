"""Chroma: ``EchoFunction("org/model", recipe="echo")`` is an embedding function that a collection stores and restores.

Chroma's own ``SentenceTransformerEmbeddingFunction`` stores documents read with the query template.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from chromadb.api.types import Documents, EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@register_embedding_function
class EchoFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]
    """A model for Chroma, named by what a collection can keep.

    Args:
        model: As ``echoembed.load`` takes it: a name or a folder; None for the default.
        recipe: A row of ``echoembed.recipes``; None for the one that was saved, or ``echo``.
    """

    def __init__(self, model: str | None = None, recipe: str | None = None) -> None:
        self._config = {"model": model, "recipe": recipe}

    @cached_property
    def _model(self) -> SentenceTransformer:
        import echoembed

        return echoembed.load(self._config["model"], recipe=self._config["recipe"])

    def __call__(self, input: Documents) -> list[Any]:  # noqa: A002 (the name is Chroma's)
        """Vectors of documents."""
        return list(self._model.encode_document(list(input), show_progress_bar=False))

    def embed_query(self, input: Documents) -> list[Any]:  # noqa: A002
        """Vectors of queries."""
        return list(self._model.encode_query(list(input), show_progress_bar=False))

    @staticmethod
    def name() -> str:
        """What Chroma stores beside a collection."""
        return "echoembed"

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EchoFunction:
        """The function with these arguments."""
        return EchoFunction(**config)

    def default_space(self) -> str:
        """How distances are measured."""
        return "cosine"
