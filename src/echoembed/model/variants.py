"""Models under many recipes: weights are loaded once for all recipes that read them alike."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import get_args

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling

from echoembed.model.load import load
from echoembed.model.pooling import LIBRARY_MODE
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Renderer
from echoembed.recipe import Kind, Recipe, find_recipe, prepare

_READING = ("attention", "layer", "checkpoint", "adapters")
"""Fields of a recipe that decide which weights run, and how; the others decide what they are given."""


class Models:
    """Loads and keeps models.

    Args:
        at_once: Most sets of weights in memory.
        device: As ``echoembed.load`` takes it.
        dtype: As ``echoembed.load`` takes it.
    """

    def __init__(self, *, at_once: int = 3, device: str | None = None, dtype: str | None = None) -> None:
        self._bases: OrderedDict[tuple[object, ...], SentenceTransformer] = OrderedDict()
        self._identities: dict[str | None, str] = {}
        self._at_once = at_once
        self._device, self._dtype = device, dtype

    def get(self, name: str | None, recipe: str | Recipe) -> SentenceTransformer:
        """The model under the recipe; None for the bundled one, or for the checkpoint of a published row."""
        row = find_recipe(recipe)
        if name is not None:
            row = replace(row, checkpoint="", adapters=(), trained=False)
        key = (name, *(getattr(row, field) for field in _READING))
        if key not in self._bases:
            while len(self._bases) >= self._at_once:
                self._bases.popitem(last=False)
            self._bases[key] = load(name, recipe=row, device=self._device, dtype=self._dtype)
            transformer_of(self._bases[key]).overflow = "ignore"  # budgets are part of the experiments
        self._bases.move_to_end(key)
        return under(self._bases[key], row)

    def identity(self, name: str | None) -> str:
        """Name, exact weights, dtype and context of a model."""
        if name not in self._identities:
            first = transformer_of(self.get(name, "classical"))
            self._identities[name] = f"{first.name} {first.revision} {first.model.dtype} {first.context}"
        return self._identities[name]

    def fingerprint(self, name: str | None, recipe: Recipe) -> str:
        """What decides the vectors of a model under a recipe, told without loading it for each layer."""
        published = f"{recipe.checkpoint} {recipe.adapters}" if name is None and recipe.checkpoint else ""
        parts = [recipe.fingerprint(), published or self.identity(name)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def under(model: SentenceTransformer, recipe: Recipe) -> SentenceTransformer:
    """The same weights under another recipe, of the same attention and layer; the model given stays as it is."""
    first = copy.copy(transformer_of(model))
    first.recipe = recipe
    kinds: tuple[Kind, ...] = get_args(Kind)
    first.renderers = {
        kind: Renderer(
            recipe.template(kind),
            first.pieces,
            budget=recipe.budget,
            context=first.context,
            prepare=partial(prepare, preparation=recipe.preparation),
        )
        for kind in kinds
    }
    first._shared = {}  # how much of a prompt is the same for all texts: of this recipe, not of that one
    first.dropped_texts = first.dropped_tokens = 0
    width = first.get_embedding_dimension()
    pooling = LibraryPooling(width, pooling_mode=LIBRARY_MODE[recipe.pooling])
    return SentenceTransformer(
        modules=[first, pooling, *list(model)[2:]], device=str(model.device), similarity_fn_name="cosine"
    )
