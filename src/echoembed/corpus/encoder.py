"""The interface of models for a corpus, and ``ModelEncoder``, which implements it for a ``SentenceTransformer``.

Shapes: N texts, D dimension of their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from echoembed import errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from echoembed.prompts.template import Rendered
    from echoembed.recipe import Kind


JOINED = ", "
"""Stands between the values of numerics, if vectors were computed in several ways."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The origin of vectors. Vectors can be compared if their identities agree.

    Attributes:
        decides: All that decides a vector: the fingerprint, and its parts under the names in messages.
        names: The names of model, adapter and recipe, its layers and its budget, for people; not compared.
        numerics: Settings that change only the last digits: dtype, device, engine; of vectors that were computed in
            several ways, all values, as ``mixed`` returns them.
        instruction: The text in place of the template's ``{instruction}``; a query may have another.
    """

    decides: Mapping[str, object]
    names: Mapping[str, object] = field(default_factory=dict)
    numerics: Mapping[str, object] = field(default_factory=dict)
    instruction: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the identity as JSON can hold it."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(self).items()}

    def differences(self, other: Identity) -> dict[str, tuple[object, object]]:
        """Return the deciding parts that differ, each with both values, after the names that differ."""
        differing = _differing(self.decides, other.decides)
        return differing and {**_differing(self.names, other.names), **differing}

    def other_numerics(self, other: Identity) -> dict[str, tuple[object, object]]:
        """Return the numerics that differ, each with both values."""
        return _differing(self.numerics, other.numerics)


def mixed(ways: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return the numerics of vectors that were computed in these ways; where ways differ, all their values, sorted."""
    values: dict[str, set[str]] = {}
    for way in ways:
        for name, value in way.items():
            values.setdefault(name, set()).update(each(value))
    return {name: JOINED.join(sorted(all_)) for name, all_ in values.items()}


def each(value: object) -> list[str]:
    """Return the values of one of the numerics, which are several if its vectors were computed in several ways."""
    return str(value).split(JOINED)


def shown(differences: Mapping[str, tuple[object, object]]) -> str:
    """Put differences into words, for a message."""
    return "; ".join(
        f"{name} is {errors.quoted(there, 200)} in the corpus and {errors.quoted(here, 200)} here"
        for name, (there, here) in differences.items()
    )


def _differing(here: Mapping[str, object], there: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    pairs = {name: (here.get(name), there.get(name)) for name in dict.fromkeys([*here, *there])}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class Prompt(Protocol):
    """The prompt of a text."""

    @property
    def dropped(self) -> int:
        """How many tokens of the text are over the budget and not read."""


class Encoder(Protocol):
    """The interface of a model for a corpus."""

    dimension: int

    def identity(self) -> Identity:
        """Return the identity of the model's vectors."""

    def read(self, texts: Sequence[str]) -> Sequence[Prompt]:
        """Return the prompt of each text, cut to the budget; raises TextError if a text cannot be embedded."""

    def encode(self, prompts: Sequence[Any]) -> NDArray[np.float32]:
        """Embed prompts from ``read``: float32 ``(N, D)``, in order; raises ModelError if a vector is not finite."""

    def tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""

    def room(self) -> int | None:
        """Return the largest number of tokens of a text that are read; None for all."""


class ModelEncoder:
    """A model from ``echoembed.load``, with the template that reads the texts of a corpus.

    Args:
        model: The model, from ``echoembed.load``.
        kind: The template that reads the texts: the query's or the document's.
        instruction: The text in place of ``{instruction}``; None for the recipe's own.
        batch_size: The number of texts in a padded batch; None for 32. The packed engine has batches of its own.
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
        """Return the identity of the model's vectors."""
        return identity_of(self._model, self._kind, self._instruction)

    def read(self, texts: Sequence[str]) -> Sequence[Rendered]:
        """Return the prompt of each text.

        Raises:
            TextError: If the tokenizer finds nothing in a text.
        """
        return self._reader.render(texts, task=self._kind, instruction=self._instruction)

    def encode(self, prompts: Sequence[Rendered]) -> NDArray[np.float32]:
        """Embed prompts: float32 ``(N, D)``.

        Raises:
            ModelError: If a vector is not finite.
        """
        from echoembed.model.encode import encode_prompts

        return encode_prompts(self._model, prompts, batch_size=self._batch_size)

    def tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        try:
            return len(self._transformer.pieces.encode([text])[0].ids)
        except errors.TextError:  # embedding the text raises this error; splitting must not
            return len(text)

    def room(self) -> int | None:
        """Return the largest number of tokens of a text that are read; None for all."""
        return self._reader.room(task=self._kind, instruction=self._instruction)


def identity_of(model: SentenceTransformer, kind: Kind, instruction: str | None = None) -> Identity:
    """Return the identity of a model's vectors."""
    from echoembed.model.describe import describe, module_identity
    from echoembed.model.transformer import transformer_of

    facts = describe(model)
    recipe = transformer_of(model).recipe
    has_place = recipe.template(kind).has("instruction")
    decides = ("revision", "recipe_fingerprint", "context", "dimension", "fingerprint")
    later = [module_identity(module) for module in list(model)[1:]]
    return Identity(
        decides={**{name: facts[name] for name in decides}, "modules": ", ".join(filter(None, later))},
        names={name: facts[name] for name in ("model", "adapter", "recipe", "layers", "budget")},
        numerics={"dtype": facts["dtype"], "device": facts["device"], "engine": str(facts["engine"]).split(" ")[0]},
        instruction=(instruction or recipe.instruction) if has_place else "",
    )
