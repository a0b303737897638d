"""A model and how it reads the texts of a run: what commands, corpora and servers embed with."""

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
    """Vectors of some texts, and what was cut to make them.

    Attributes:
        vectors: float32, ``_ND``, in the order of the texts.
        dropped: Tokens of each text that were over the budget.
    """

    vectors: NDArray[np.float32]
    dropped: tuple[int, ...]


@dataclass(slots=True)
class Cuts:
    """What was cut in one run.

    Attributes:
        texts: Texts that were over the budget.
        tokens: Their tokens that were not read, counted once a text.
    """

    texts: int = 0
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model, and how it reads the texts of this run.

    Args:
        model: From ``echoembed.load``.
        kind: Which of the recipe's templates reads the texts.
        instruction: What fills the template's ``{instruction}``; None for the recipe's own.
        batch_size: Texts of a padded forward; None for 32. The packed engine takes what its packs hold.

    Attributes:
        cuts: What ``encode`` has cut so far.
    """

    model: SentenceTransformer
    kind: Literal["query", "document"] = "query"
    instruction: str | None = None
    batch_size: int | None = None
    cuts: Cuts = field(default_factory=Cuts, compare=False)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Texts to vectors, which counts what it cuts.

        Args:
            texts: N texts.

        Returns:
            ``vectors_ND``, float32, in order.

        Raises:
            TextError: If one of the texts cannot be embedded. The call then counts no cuts: it may be made again.
        """
        encoded = self.embed(texts)
        self.cuts.texts += sum(dropped > 0 for dropped in encoded.dropped)
        self.cuts.tokens += sum(encoded.dropped)
        return encoded.vectors

    def embed(self, texts: list[str]) -> Encoded:
        """Texts to vectors, with what was cut from each; arguments and errors as ``encode``."""
        from echoembed.model.encode import encode_prompts
        from echoembed.model.transformer import transformer_of

        prompts = transformer_of(self.model).reader.render(texts, task=self.kind, instruction=self.instruction)
        vectors_ND = encode_prompts(self.model, prompts, batch_size=self.batch_size)
        return Encoded(vectors_ND, tuple(prompt.dropped for prompt in prompts))

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
        """What goes with every vector."""
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
