"""The embedder of commands, corpora and servers: a model, and the settings with which it reads texts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from echoembed import errors
from echoembed.texts.rows import Item
from echoembed.texts.writer import Stamp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vectors of texts, and the number of tokens that were cut.

    Attributes:
        vectors: float32, ``_ND``, in the order of the texts.
        dropped: The number of each text's tokens that were over the budget.
    """

    vectors: NDArray[np.float32]
    dropped: tuple[int, ...]


@dataclass(slots=True)
class Cuts:
    """Counts of what was cut in one run.

    Attributes:
        texts: The number of texts over the budget.
        tokens: The number of their tokens that were not read, counted for one copy.
    """

    texts: int = 0
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model, and the settings with which it reads the texts of this run.

    Args:
        model: From ``echoembed.load``.
        kind: The recipe's template for the texts.
        instruction: What fills the template's ``{instruction}``; None for the recipe's own.
        batch_size: Texts of a padded forward; None for 32. It does not limit packs.

    Attributes:
        cuts: Counts of what ``encode`` has cut so far.
    """

    model: SentenceTransformer
    kind: Literal["query", "document"] = "query"
    instruction: str | None = None
    batch_size: int | None = None
    cuts: Cuts = field(default_factory=Cuts, compare=False)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed texts, and count what is cut.

        Args:
            texts: N texts.

        Returns:
            ``vectors_ND``, float32, in order.

        Raises:
            TextError: If a text cannot be embedded. Nothing is then counted, so that the call can be repeated.
        """
        encoded = self.embed(texts)
        self.cuts.texts += sum(dropped > 0 for dropped in encoded.dropped)
        self.cuts.tokens += sum(encoded.dropped)
        return encoded.vectors

    def embed(self, texts: list[str]) -> Encoded:
        """Embed texts, and return what was cut from each; arguments and errors as for ``encode``."""
        from echoembed.model.encode import encode_prompts
        from echoembed.model.transformer import transformer_of

        prompts = transformer_of(self.model).reader.render(texts, task=self.kind, instruction=self.instruction)
        vectors_ND = encode_prompts(self.model, prompts, batch_size=self.batch_size)
        return Encoded(vectors_ND, tuple(prompt.dropped for prompt in prompts))

    def faults(self, items: list[Item]) -> list[errors.TextError | None]:
        """Find the texts that cannot be embedded.

        Args:
            items: N texts with their places.

        Returns:
            For each text, the error that names its place; None if it can be embedded.

        Raises:
            TextError: If instruction and template leave no room for text.
        """
        from echoembed.model.transformer import transformer_of

        reader = transformer_of(self.model).reader
        reading = {"task": self.kind, "instruction": self.instruction}
        room = reader.room(**reading)

        def fault(item: Item) -> errors.TextError | None:
            try:
                [prompt] = replace(reader, overflow="ignore").render([item.text], **reading)
            except errors.TextError as error:
                return errors.text_unusable(item.where, str(error))
            if prompt.dropped and reader.overflow == "error":
                return errors.text_too_long(item.where, prompt.dropped, room or 0)
            return None

        return [fault(item) for item in items]

    def stamp(self) -> Stamp:
        """Return the stamp that is stored with the vectors."""
        from echoembed.model.describe import describe
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
            numerics=str(facts["numerics"]),
        )
