"""LanceDB: ``get_registry().get("echoembed").create(name="org/model")`` embeds a table's source column and its queries.

LanceDB's own ``sentence-transformers`` function reads documents with the query template, and tries a text that cannot
be embedded again and again, for minutes. This function tries once.
"""

from __future__ import annotations

from typing import Any

from lancedb.embeddings import TextEmbeddingFunction, register
from pydantic import PrivateAttr

from echoembed.integrations.several import texts_of


@register("echoembed")  # type: ignore[no-untyped-call]
class EchoTextFunction(TextEmbeddingFunction):
    """A model for LanceDB, described by its fields, from which a table makes the function again.

    Attributes:
        name: A name or a folder, as for ``echoembed.load``; None for the default model.
        recipe: The name of a recipe in ``echoembed.recipes``; None for the one saved with the model, or ``echo``.
        max_retries: How often to try again: never, as a text that cannot be embedded fails every time.
    """

    name: str | None = None
    recipe: str | None = None
    max_retries: int = 0
    _model: Any = PrivateAttr(default=None)

    def _loaded(self) -> Any:
        if self._model is None:
            import echoembed

            self._model = echoembed.load(self.name, recipe=self.recipe)
        return self._model

    def ndims(self) -> int:
        """Return the dimension of the vectors."""
        return int(self._loaded().get_embedding_dimension())

    def generate_embeddings(self, texts: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Embed documents."""
        return list(self._loaded().encode_document(texts_of(texts), show_progress_bar=False))

    def compute_query_embeddings(self, query: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Embed a query; returns a list of one vector."""
        return list(self._loaded().encode_query([query], show_progress_bar=False))
