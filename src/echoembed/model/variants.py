"""Models under many recipes: weights are loaded once for all recipes with the same attention and layer."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from dataclasses import replace

from sentence_transformers import SentenceTransformer

from echoembed.engine import Engine
from echoembed.model.assemble import assemble
from echoembed.model.beside import Join
from echoembed.model.calibrate import calibrated_modules, carry_settings, sentences
from echoembed.model.calibration import Calibration
from echoembed.model.load import RecipeWarning, load
from echoembed.model.transformer import transformer_of
from echoembed.model.trust import LOADING
from echoembed.prompts.reader import Overflow
from echoembed.recipe import Recipe, find_recipe

_MOST_MODELS = 3  # sets of weights in memory
_READING = ("attention", "layer", "depth", "checkpoint", "adapters")
"""The fields of a recipe that decide which weights run, and how; the other fields decide the input of the weights."""


class Models:
    """Loads models, and keeps the last few in memory.

    Args:
        device: As for ``echoembed.load``.
        dtype: As for ``echoembed.load``.
        engine: As for ``echoembed.load``.
        deterministic: As for ``echoembed.load``.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        dtype: str | None = None,
        engine: Engine | None = None,
        deterministic: bool = False,
    ) -> None:
        self._bases: OrderedDict[tuple[object, ...], SentenceTransformer] = OrderedDict()
        self._identities: dict[str | None, str] = {}
        self._device, self._dtype = device, dtype
        self._engine: Engine | None = engine
        self._deterministic = deterministic

    def get(self, name: str | None, recipe: str | Recipe) -> SentenceTransformer:
        """Return a model under a recipe; the name None means the recipe's checkpoint, or the default model."""
        row = find_recipe(recipe)
        if name is not None:
            row = replace(row, checkpoint="", adapters=(), trained=False)
        key = (name, *(getattr(row, field) for field in _READING))
        if key not in self._bases:
            while len(self._bases) >= _MOST_MODELS:
                self._bases.popitem(last=False)
            self._bases[key] = load(
                name,
                recipe=row.prompts[0].without_calibrations(),  # ``under`` adds further prompts and calibrations
                device=self._device,
                dtype=self._dtype,
                overflow="ignore",  # no warnings of cuts: budgets are part of the experiments
                engine=self._engine,
                deterministic=self._deterministic,
            )
        self._bases.move_to_end(key)
        return under(self._bases[key], row)

    def identity(self, name: str | None) -> str:
        """Name a model with its exact weights, dtype and context."""
        if name not in self._identities:
            with LOADING, warnings.catch_warnings():  # the recipe is any: no vector is made
                warnings.simplefilter("ignore", RecipeWarning)
                transformer = transformer_of(self.get(name, "classical"))
            dtype = "int8" if transformer.int8 else transformer.model.dtype
            self._identities[name] = f"{transformer.name} {transformer.revision} {dtype} {transformer.context}"
        return self._identities[name]

    def fingerprint(self, name: str | None, recipe: Recipe) -> str:
        """Hash all that decides the vectors of a model under a recipe, without loading the model for each layer."""
        published = f"{recipe.checkpoint} {recipe.adapters}" if name is None and recipe.checkpoint else ""
        parts = [recipe.fingerprint(), published or self.identity(name)]
        parts += sentences() if any(prompt.calibration != "none" for prompt in recipe.prompts) else ()
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def under(model: SentenceTransformer, recipe: Recipe, *, overflow: Overflow | None = None) -> SentenceTransformer:
    """Return the same weights under another recipe with the same attention and layer; the given model does not change.

    Args:
        model: From ``load``.
        recipe: The other recipe.
        overflow: What to do with a text over the budget; None for the same as the model.
    """
    original = transformer_of(model)
    transformer = original.under(recipe, overflow=overflow)
    later = list(model)[2:]
    if not original.recipe.differs_in_budget_alone(recipe):
        later = [module for module in later if not isinstance(module, (Calibration, Join))]
    modules = calibrated_modules(transformer, later)
    return carry_settings(model, assemble(modules, name=transformer.name, device=str(model.device)))
