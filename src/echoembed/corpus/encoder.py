"""What a corpus asks of a model. ``ModelEncoder`` answers for a ``SentenceTransformer``; tests answer for themselves.

Shapes: N texts, D dimension of their vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from echoembed import errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from echoembed.prompts.template import Rendered
    from echoembed.recipe import Kind


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Where vectors come from. Vectors are comparable where identities agree.

    Attributes:
        decides: What decides a vector: the fingerprint, and its parts as messages name them.
        names: What people call the parts; not compared.
        numerics: What moves the last digits only: dtype, device, engine.
        instruction: What stood in the template's ``{instruction}``; a query has its own.
    """

    decides: Mapping[str, object]
    names: Mapping[str, object] = field(default_factory=dict)
    numerics: Mapping[str, object] = field(default_factory=dict)
    instruction: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(self).items()}

    def differences(self, other: Identity) -> dict[str, tuple[object, object]]:
        """The deciding parts that differ, if any, each with its value here and there."""
        differing = _differing(self.decides, other.decides)
        return differing and {**_differing(self.names, other.names), **differing}

    def other_numerics(self, other: Identity) -> dict[str, tuple[object, object]]:
        """The numerics that differ."""
        return _differing(self.numerics, other.numerics)


def shown(differences: Mapping[str, tuple[object, object]]) -> str:
    """Differences as a message says them."""
    return "; ".join(
        f"{name} is {errors.quoted(there, 200)} in the corpus and {errors.quoted(here, 200)} here"
        for name, (there, here) in differences.items()
    )


def _differing(here: Mapping[str, object], there: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    pairs = {name: (here.get(name), there.get(name)) for name in dict.fromkeys([*here, *there])}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class Prompt(Protocol):
    """What a model reads for a text."""

    @property
    def dropped(self) -> int:
        """Tokens of the text that are over the budget and are not read."""


class Encoder(Protocol):
    """A model as a corpus sees it."""

    dimension: int

    def identity(self) -> Identity:
        """Where its vectors come from."""

    def read(self, texts: Sequence[str]) -> Sequence[Prompt]:
        """What is read for each text, cut to the budget. A text that cannot be embedded is a TextError."""

    def encode(self, prompts: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors of prompts from ``read``, float32 ``(N, D)``, in order; ModelError where one is not finite."""

    def tokens(self, text: str) -> int:
        """The number of tokens that the model makes of a text."""

    def room(self) -> int | None:
        """Most tokens of a text that are read; None for all."""


class ModelEncoder:
    """A model from ``echoembed.load``, and how it reads the texts of a corpus.

    Args:
        model: From ``echoembed.load``.
        kind: Which template.
        instruction: What fills ``{instruction}``; None for the recipe's own.
        batch_size: Texts of a padded forward; None for 32. The packed engine takes what its packs hold.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        kind: Kind = "document",
        instruction: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        from echoembed.model.transformer import transformer_of

        self._model = model
        self._kind = kind
        self._instruction = instruction
        self._batch_size = batch_size
        self._transformer = transformer_of(model)
        self._reader = replace(self._transformer.reader, overflow="ignore")  # cuts are counted for each text
        self.dimension = int(model.get_embedding_dimension() or 0)

    def identity(self) -> Identity:
        """Where its vectors come from."""
        return identity_of(self._model, self._kind, self._instruction)

    def read(self, texts: Sequence[str]) -> Sequence[Rendered]:
        """What is read for each text.

        Raises:
            TextError: If the tokenizer finds nothing in a text.
        """
        return self._reader.render(texts, task=self._kind, instruction=self._instruction)

    def encode(self, prompts: Sequence[Rendered]) -> NDArray[np.float32]:
        """Vectors, float32 ``(N, D)``.

        Raises:
            ModelError: If a vector is not finite.
        """
        from echoembed.model.encode import encode_prompts

        return encode_prompts(self._model, prompts, batch_size=self._batch_size)

    def tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        try:
            return len(self._transformer.pieces.encode([text])[0].ids)
        except errors.TextError:  # said when the text is embedded; a splitter must not be stopped
            return len(text)

    def room(self) -> int | None:
        """Most tokens of a text that are read."""
        return self._reader.room(task=self._kind, instruction=self._instruction)


def identity_of(model: SentenceTransformer, kind: Kind, instruction: str | None = None) -> Identity:
    """The identity of a model's vectors."""
    from echoembed.model.describe import describe, module_identity
    from echoembed.model.transformer import transformer_of

    facts = describe(model)
    recipe = transformer_of(model).recipe
    has_place = recipe.template(kind).has("instruction")
    decides = ("revision", "recipe_fingerprint", "context", "dimension", "fingerprint")
    later = [module_identity(module) for module in list(model)[1:]]
    return Identity(
        decides={**{name: facts[name] for name in decides}, "modules": ", ".join(filter(None, later))},
        names={name: facts[name] for name in ("model", "adapter", "recipe")},
        numerics={"dtype": facts["dtype"], "device": facts["device"], "engine": str(facts["engine"]).split(" ")[0]},
        instruction=(instruction or recipe.instruction) if has_place else "",
    )
