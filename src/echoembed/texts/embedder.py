"""A model and how it reads the texts of a run: what commands, corpora and servers embed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from echoembed import errors
from echoembed.prompts.text import check_text
from echoembed.texts.items import Item
from echoembed.texts.writer import Stamp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model, and how it reads the texts of this run.

    Args:
        model: From ``echoembed.load``.
        kind: Which of the recipe's templates reads the texts.
        instruction: What fills the template's ``{instruction}``; None for the recipe's own.
        batch_size: Texts in one pass of the model.
    """

    model: SentenceTransformer
    kind: Literal["query", "document"] = "query"
    instruction: str | None = None
    batch_size: int = 32

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Texts to vectors.

        Args:
            texts: N texts.

        Returns:
            float32 vectors of shape (N, D), in order.

        Raises:
            TextError: If one of the texts cannot be embedded. The call then counts no cuts: it may be made again.
        """
        from echoembed.model.transformer import transformer_of

        transformer = transformer_of(self.model)
        cuts = transformer.dropped_texts, transformer.dropped_tokens
        try:
            return self.model.encode(
                texts, task=self.kind, prompt=self.instruction, batch_size=self.batch_size, show_progress_bar=False
            )
        except errors.TextError:
            transformer.dropped_texts, transformer.dropped_tokens = cuts
            raise

    def faults(self, items: list[Item]) -> list[errors.TextError | None]:
        """What keeps each text from being embedded.

        Args:
            items: N texts with their places.

        Returns:
            An error that names the place for each text; None where nothing keeps it.

        Raises:
            TextError: If no text could be embedded, because instruction and template leave no room for any.
        """
        from echoembed.model.transformer import transformer_of

        transformer = transformer_of(self.model)
        renderer = transformer.renderers[self.kind]
        own = transformer.recipe.instruction
        instruction = check_text(self.instruction, "The instruction") if self.instruction else own
        room = renderer.room(instruction)

        def fault(item: Item) -> errors.TextError | None:
            try:
                [rendered] = renderer.render([item.text], instruction)
            except errors.TextError as error:
                return errors.text_unusable(item.where, str(error))
            if rendered.dropped and transformer.overflow == "error":
                return errors.text_too_long(item.where, rendered.dropped, room or 0)
            return None

        return [fault(item) for item in items]

    def stamp(self) -> Stamp:
        """What goes with every vector."""
        from echoembed import describe
        from echoembed.model.transformer import transformer_of

        facts = describe(self.model)
        recipe = transformer_of(self.model).recipe
        has_place = recipe.template(self.kind).has("instruction")
        return Stamp(
            model=str(facts["model"]),
            revision=str(facts["revision"]),
            recipe=str(facts["recipe"]),
            fingerprint=str(facts["fingerprint"]),
            kind=self.kind,
            instruction=(self.instruction or recipe.instruction) if has_place else "",
        )
