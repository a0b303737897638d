"""The model as the server uses it: texts to prompts in any thread, prompts to vectors in one.

A *lane* is a recipe under which the same weights are read: the one that is served, and those that the page
compares it with.

Shapes: N prompts of a pack, T tokens of the longest, D dimension of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import batch_to_device

from echoembed import recipes
from echoembed.model.describe import describe
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from echoembed.prompts.template import Rendered
    from echoembed.recipe import Kind, Recipe

COMPARED = ("echo", "classical")
KINDS: tuple[Kind, Kind] = ("query", "document")


class Vectors(NamedTuple):
    """The vectors of a pack, before (``raw``) and after the model scales them: ``_ND``, float32."""

    raw: NDArray[np.float32]
    vectors: NDArray[np.float32]


class Token(NamedTuple):
    """A token of a prompt, as ``/tokenize`` shows it."""

    id: int
    text: str
    special: bool


class ServedModel:
    """A model under its recipe, and under those that the page shows beside it.

    Args:
        model: From ``echoembed.load``.

    Attributes:
        served: Name of the recipe that is served.
        lanes: Name → the same weights under that recipe.
        pack_tokens: Tokens of a pack that suit the model.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        transformer = transformer_of(model)
        self.served = transformer.recipe.name
        # No warnings: the answer tells the client what was cut.
        self.lanes: dict[str, SentenceTransformer] = {self.served: under(model, transformer.recipe, overflow="ignore")}
        for name in COMPARED:
            if name not in self.lanes:
                self.lanes[name] = under(model, _beside(recipes[name], transformer.recipe), overflow="ignore")
        for lane in self.lanes.values():
            lane.eval()
        self.facts = describe(model)
        self.dimension = int(self.facts["dimension"])
        engine = transformer.selector.choice(transformer.model).engine
        self.pack_tokens = _pack_tokens(transformer.model, solo=engine is not None and engine.solo)
        self.instruction = transformer.recipe.instruction
        self.causal = transformer.recipe.attention == "causal"

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.facts["model"])

    def room(self, kind: Kind, instruction: str | None = None, lane: str = "") -> int | None:
        """Most tokens of a text, or None where nothing limits it.

        Raises:
            TextError: If the instruction leaves no room for any.
        """
        return transformer_of(self.lanes[lane or self.served]).reader.room(task=kind, instruction=instruction)

    def read(self, texts: Sequence[str], kind: Kind, instruction: str | None = None, lane: str = "") -> list[Rendered]:
        """What the model reads for texts; may be called in any thread.

        Raises:
            TextError: If a text cannot be embedded, or the recipe has no place for an instruction.
        """
        reader = transformer_of(self.lanes[lane or self.served]).reader
        return reader.render(texts, task=kind, instruction=instruction)

    def longest_prompt(self) -> int | None:
        """Tokens of the longest prompt there can be; None where nothing limits it."""
        transformer = transformer_of(self.lanes[self.served])
        lengths = []
        for kind in KINDS:
            room = self.room(kind)
            if room is None:
                return transformer.context
            [prompt] = self.read(["a"], kind)
            lengths.append(len(prompt.ids) + (room - 1) * transformer.recipe.template(kind).copies)
        return max(lengths)

    def shortest_prompt(self) -> int:
        """Tokens that every prompt has at least, whatever the text and the instruction."""
        lengths = []
        for lane, model in self.lanes.items():
            for kind in KINDS:
                template = transformer_of(model).recipe.template(kind)
                [prompt] = self.read(["a"], kind, lane=lane)
                lengths.append(template.copies if template.has("instruction") else len(prompt.ids))
        return min(lengths)

    def tokens(self, prompt: Rendered) -> list[Token]:
        """The prompt, token by token."""
        transformer = transformer_of(self.lanes[self.served])
        special = transformer.pieces.special_ids
        assert transformer.tokenizer is not None
        texts = [transformer.tokenizer.decode([id_]) for id_ in prompt.ids]
        return [Token(id_, str(text), id_ in special) for id_, text in zip(prompt.ids, texts, strict=True)]

    @torch.inference_mode()
    def vectors(self, prompts: Sequence[Rendered], lane: str = "") -> Vectors:
        """Run the model over a pack; in one thread at a time.

        Raises:
            ModelError: If a state is not finite.
        """
        model = self.lanes[lane or self.served]
        features = batch_to_device(transformer_of(model).features(prompts), model.device)
        raw = None
        for module in model:
            if isinstance(module, Normalize):
                raw = features["sentence_embedding"].float().cpu().numpy()
            features = module(features)
        vectors = features["sentence_embedding"].float().cpu().numpy()
        return Vectors(vectors if raw is None else raw, vectors)


def _pack_tokens(model: torch.nn.Module, *, solo: bool) -> int:
    """Tokens of a pack; few where every text is computed alone anyway, so that no request waits for a long pack."""
    from echoembed.engine.engine import tokens_in_flight

    tokens = tokens_in_flight(model)
    return min(tokens, 1024) if solo else tokens


def _beside(recipe: Recipe, served: Recipe) -> Recipe:
    """A recipe to compare with, under the attention and the layer that the weights were loaded for."""
    return replace(recipe, attention=served.attention, layer=served.layer, depth=served.depth, budget=served.budget)
