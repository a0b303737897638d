"""LanceDB: ``get_registry().get("echoembed").create(name="org/model")`` embeds a table's source column and its queries.

LanceDB's own ``sentence-transformers`` function reads documents with the query template, and tries an empty text again
for minutes; this one tries once.
"""

from __future__ import annotations

from typing import Any

from lancedb.embeddings import TextEmbeddingFunction, register
from pydantic import PrivateAttr


@register("echoembed")  # type: ignore[no-untyped-call]
class EchoTextFunction(TextEmbeddingFunction):
    """A model for LanceDB, named by fields alone: a table makes the function again from them.

    Attributes:
        name: As ``echoembed.load`` takes it: a name or a folder; None for the default.
        recipe: A row of ``echoembed.recipes``; None for the one that was saved, or ``echo``.
        max_retries: Tries after the first: a text that cannot be embedded stays one.
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
        """The dimension of the vectors."""
        return int(self._loaded().get_embedding_dimension())

    def generate_embeddings(self, texts: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Vectors of documents."""
        return list(self._loaded().encode_document(list(texts), show_progress_bar=False))

    def compute_query_embeddings(self, query: str, *args: Any, **kwargs: Any) -> list[Any]:
        """The vector of a query, in a list."""
        return list(self._loaded().encode_query([query], show_progress_bar=False))
