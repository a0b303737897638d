"""Chroma: ``EchoFunction("org/model", recipe="echo")`` is an embedding function that a collection stores and restores.

Chroma's own ``SentenceTransformerEmbeddingFunction`` stores documents read with the query template.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from chromadb.api.types import Documents, EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function

from echoembed.integrations.several import texts_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@register_embedding_function
class EchoFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]
    """A model for Chroma, described by settings that a collection can store.

    Args:
        model: A name or a folder, as for ``echoembed.load``; None for the default model.
        recipe: The name of a recipe in ``echoembed.recipes``; None for the one saved with the model, or ``echo``.
    """

    def __init__(self, model: str | None = None, recipe: str | None = None) -> None:
        self._config = {"model": model, "recipe": recipe}

    @cached_property
    def _model(self) -> SentenceTransformer:
        import echoembed

        return echoembed.load(self._config["model"], recipe=self._config["recipe"])

    def __call__(self, input: Documents) -> list[Any]:  # noqa: A002 (the name is Chroma's)
        """Embed documents."""
        return list(self._model.encode_document(texts_of(input), show_progress_bar=False))

    def embed_query(self, input: Documents) -> list[Any]:  # noqa: A002
        """Embed queries."""
        return list(self._model.encode_query(texts_of(input), show_progress_bar=False))

    @staticmethod
    def name() -> str:
        """Return the name that Chroma stores with a collection."""
        return "echoembed"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, which Chroma stores."""
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EchoFunction:
        """Make the function from stored arguments."""
        return EchoFunction(**config)

    def default_space(self) -> str:
        """Return the measure of distance."""
        return "cosine"
