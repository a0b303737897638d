"""Text embeddings from any causal language model by letting it read the text twice.

import echoembed

model = echoembed.load()                   # SmolLM2-135M, recipe "echo": a SentenceTransformer
vectors = model.encode(["a text", "another"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echoembed.model.calibrate import calibrate as calibrate
    from echoembed.model.describe import describe as describe
    from echoembed.model.describe import fingerprint as fingerprint
    from echoembed.model.describe import render as render
    from echoembed.model.load import RecipeWarning as RecipeWarning
    from echoembed.model.load import load as load
    from echoembed.model.save import save as save
    from echoembed.prompts.reader import TruncationWarning as TruncationWarning
    from echoembed.prompts.template import Rendered as Rendered
    from echoembed.prompts.template import Template as Template
    from echoembed.prompts.text import check_text as check_text
    from echoembed.recipe import Recipe as Recipe
    from echoembed.recipe import load_recipes as load_recipes
    from echoembed.recipe import recipes as recipes

__version__ = "0.2.0"

# The module of each public name. A module is imported when one of its names is first used, and torch and transformers
# with it, so that "echoembed --help" answers at once.
_HOMES = {
    "calibrate": "model.calibrate",
    "describe": "model.describe",
    "fingerprint": "model.describe",
    "render": "model.describe",
    "RecipeWarning": "model.load",
    "load": "model.load",
    "save": "model.save",
    "TruncationWarning": "prompts.reader",
    "Recipe": "recipe",
    "load_recipes": "recipe",
    "recipes": "recipe",
    "Rendered": "prompts.template",
    "Template": "prompts.template",
    "check_text": "prompts.text",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name == "errors":  # for callers, who catch such as echoembed.errors.TextError
        return import_module(f"{__name__}.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
