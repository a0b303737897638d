"""The model in the server: any thread may turn texts into prompts; only one turns prompts into vectors.

A *lane* is the model with one recipe: the recipe that is served, and each recipe that the page compares with it. All
lanes share the same weights.

Shapes: N prompts of a pack, T tokens of the longest, D dimension of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import batch_to_device, truncate_embeddings
from tokenizers.decoders import DecodeStream

from echoembed import recipes
from echoembed.model.describe import describe
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.prompts.reader import TASK_MARKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    from echoembed.prompts.template import Rendered
    from echoembed.recipe import Kind, Recipe

COMPARED = ("echo", "classical")
KINDS: tuple[Kind, Kind] = ("query", "document")


class Vectors(NamedTuple):
    """The vectors of a pack, before (``raw``) and after the model's last module, where it scales to length 1.

    Both are ``_ND`` and float32, cut to the dimension that the model truncates to.
    """

    raw: NDArray[np.float32]
    vectors: NDArray[np.float32]


class Token(NamedTuple):
    """A token of a prompt, for ``/tokenize``; of a character's tokens, the last has it, and the others have no text."""

    id: int
    text: str
    special: bool


class ServedModel:
    """A model with its recipe, and with the recipes that the page compares with it.

    Args:
        model: The model, from ``echoembed.load``.

    Attributes:
        served: Name of the recipe that is served.
        lanes: Name of a recipe → the model with that recipe.
        pack_tokens: How many tokens a pack should have for this model.
        scales: Whether the model's vectors have length 1.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        transformer = transformer_of(model)
        self.served = transformer.recipe.name
        # No warnings of cuts: the answer tells the client of them.
        self.lanes: dict[str, SentenceTransformer] = {self.served: under(model, transformer.recipe, overflow="ignore")}
        for name in COMPARED:
            if name not in self.lanes:
                self.lanes[name] = under(model, _beside(recipes[name], transformer.recipe), overflow="ignore")
        for lane in self.lanes.values():
            lane.eval()
        self.facts = describe(model)
        self.dimension = int(self.facts["dimension"])
        engine = transformer.choice().engine
        self.pack_tokens = _pack_tokens(transformer.model, solo=engine is not None and engine.solo)
        self.instruction = transformer.recipe.instruction
        self.scales = isinstance(model[-1], Normalize) and not model.truncate_dim
        self.causal = transformer.recipe.attention == "causal"
        self._default_prompt = model.prompts.get(model.default_prompt_name or "") or None

    @property
    def name(self) -> str:
        """Return the model's name."""
        return str(self.facts["model"])

    def unnamed(self, instruction: str | None) -> tuple[Kind, str | None]:
        """Return the template and the instruction with which ``encode`` reads texts whose kind nobody names.

        Args:
            instruction: What a client sent in place of the model's default prompt; None for nothing.
        """
        if instruction:
            return "query", instruction
        for kind in KINDS:
            if self._default_prompt == TASK_MARKS[kind]:
                return kind, None
        return "query", self._default_prompt

    def room(self, kind: Kind, instruction: str | None = None, lane: str = "") -> int | None:
        """Return the largest number of tokens of a text, or None if there is no limit.

        Raises:
            TextError: If the instruction leaves no room for a text.
        """
        return transformer_of(self.lanes[lane or self.served]).reader.room(task=kind, instruction=instruction)

    def read(self, texts: Sequence[str], kind: Kind, instruction: str | None = None, lane: str = "") -> list[Rendered]:
        """Return the prompts of texts; may be called in any thread.

        Raises:
            TextError: If a text cannot be embedded, or the recipe has no place for an instruction.
        """
        reader = transformer_of(self.lanes[lane or self.served]).reader
        return reader.render(texts, task=kind, instruction=instruction)

    def longest_prompt(self) -> int | None:
        """Return the most tokens that all prompts of a text may have; None if there is no limit."""
        transformer = transformer_of(self.lanes[self.served])
        readers = (transformer.reader, *transformer.reader.beside)
        lengths = []
        for kind in KINDS:
            [prompt] = self.read(["a"], kind)
            length = prompt.tokens
            for reader in readers:
                renderer = reader.renderers[kind]
                if (room := renderer.room(reader.instruction)) is None:
                    return transformer.context
                length += (room - 1) * renderer.template.copies
            lengths.append(length)
        return max(lengths)

    def shortest_prompt(self) -> int:
        """Return a number of tokens that the prompts of a text have at least, with any text and instruction."""
        lengths = []
        for lane, model in self.lanes.items():
            for kind in KINDS:
                template = transformer_of(model).recipe.template(kind)
                [prompt] = self.read(["a"], kind, lane=lane)
                lengths.append(template.copies if template.has("instruction") else len(prompt.ids))
        return min(lengths)

    def tokens(self, prompt: Rendered) -> list[Token]:
        """Return the tokens of a prompt."""
        transformer = transformer_of(self.lanes[self.served])
        special = transformer.pieces.special_ids
        assert transformer.tokenizer is not None
        texts = _texts_of(prompt.ids, transformer.tokenizer.backend_tokenizer)
        return [Token(id_, text, id_ in special) for id_, text in zip(prompt.ids, texts, strict=True)]

    @torch.inference_mode()
    def vectors(self, prompts: Sequence[Rendered], lane: str = "") -> Vectors:
        """Run the model on a pack; only one thread may do so at a time.

        Raises:
            ModelError: If a state is not finite.
        """
        model = self.lanes[lane or self.served]
        features = batch_to_device(transformer_of(model).features(prompts), model.device)
        before_last: torch.Tensor | None = None
        for module in model:
            before_last = features.get("sentence_embedding")
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        unscaled = before_last if isinstance(model[-1], Normalize) and before_last is not None else vectors
        raw, cut = (truncate_embeddings(part, model.truncate_dim).float().cpu().numpy() for part in (unscaled, vectors))
        return Vectors(raw, cut)


_CUT = "\ufffd"
"""What stands for a character that is not whole."""


def _texts_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Return the text that each token adds to those before it; all texts, one after another, are what the ids spell.

    Of a character that is cut, its last token has the mark of a character that cannot be shown, and the others nothing.
    """
    stream, texts = DecodeStream(skip_special_tokens=False), [""] * len(ids)
    waiting = 0  # how many tokens before this one belong to a character that is not whole yet
    ordinary: list[int] = []
    for place, id_ in enumerate(ids):
        try:
            text = stream.step(tokenizer, id_)
        except Exception:  # the library's: the text had been cut in the middle of a character, and goes on after it
            texts[place - 1] += _CUT * bool(waiting)
            waiting = 0
            stream, text = _begun_anew(tokenizer, ordinary, id_)
        texts[place] = text or ""
        if text and not waiting:
            ordinary = [id_]
        waiting = 0 if text else waiting + 1
    whole = tokenizer.decode(list(ids), skip_special_tokens=False)
    told = "".join(texts)
    if waiting:
        texts[-1] += whole[len(told) :] if whole.startswith(told) else _CUT
    return texts


def _begun_anew(tokenizer: Tokenizer, before: list[int], id_: int) -> tuple[DecodeStream, str | None]:
    """Return a stream that has read a token, and its text; the first token of a stream may lose its blank."""
    stream = DecodeStream(skip_special_tokens=False)
    try:
        for other in before:
            stream.step(tokenizer, other)
        return stream, stream.step(tokenizer, id_)
    except Exception:  # as before: this tokenizer writes a token anew with the next
        return DecodeStream(skip_special_tokens=False), tokenizer.decode([id_], skip_special_tokens=False)


def _pack_tokens(model: torch.nn.Module, *, solo: bool) -> int:
    """Return how many tokens a pack should have: few if the engine computes texts singly, where more gain nothing."""
    from echoembed.engine.engine import tokens_in_flight

    tokens = tokens_in_flight(model)
    return min(tokens, 1024) if solo else tokens


def _beside(recipe: Recipe, served: Recipe) -> Recipe:
    """Return a recipe to compare with, but with the attention and the layers for which the weights were loaded."""
    return replace(recipe, attention=served.attention, layer=served.layer, depth=served.depth, budget=served.budget)
