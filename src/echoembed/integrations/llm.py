"""simonw/llm: a plugin that works as soon as both packages are installed: ``llm embed -m echoembed -c "a text"``.

The model ``echoembed`` embeds documents, and ``echoembed-query`` embeds queries, because llm does not tell them apart.
The environment variables ECHOEMBED_LLM_MODEL and ECHOEMBED_LLM_RECIPE choose the model and the recipe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import llm

from echoembed.integrations.several import texts_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class EchoModel(llm.EmbeddingModel):  # type: ignore[misc]
    """A model for llm.

    Args:
        kind: The template that reads the texts.
    """

    def __init__(self, kind: Literal["query", "document"]) -> None:
        self.model_id = "echoembed" if kind == "document" else "echoembed-query"
        self._kind = kind
        self._model: SentenceTransformer | None = None

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        """Embed texts.

        Raises:
            TextError: If a text cannot be embedded, or these are one text or a table.
        """
        texts = texts_of(items)  # type: ignore[arg-type]  # the model refuses bytes
        if self._model is None:
            import echoembed

            settings = os.environ.get("ECHOEMBED_LLM_MODEL"), os.environ.get("ECHOEMBED_LLM_RECIPE")
            self._model = echoembed.load(settings[0] or None, recipe=settings[1] or None)
        vectors_ND = self._model.encode(texts, task=self._kind, show_progress_bar=False)
        yield from vectors_ND.tolist()


@llm.hookimpl  # type: ignore[untyped-decorator]
def register_embedding_models(register: Callable[[EchoModel], None]) -> None:
    """Register both models; llm calls this function."""
    register(EchoModel("document"))
    register(EchoModel("query"))
