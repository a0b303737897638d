"""The library's class, with as many texts in each forward of ``encode`` as fill the engine's packs.

KeyBERT and BERTopic know the library's models by ``sentence_transformers`` in the name of their class or its module.
For any other they silently take a model of their own. So this module has that name.
"""

from __future__ import annotations

import functools
import inspect
import re
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from sentence_transformers import SentenceTransformer

from echoembed import errors
from echoembed.model.encode import pools_as_recipe
from echoembed.model.groups import PACKS
from echoembed.model.transformer import EchoTransformer
from echoembed.prompts.text import check_text
from echoembed.recipe import Kind

CHARACTERS = 4
"""Characters of a token, roughly. How many texts fill a pack is estimated before they are tokenised."""
_LEAST = 8
"""Tokens that a template puts around a text, roughly."""
_SPREAD = 8
"""The longest texts of a call may be longer than average by at most this many packs before fewer share a forward."""
_OUTPUTS = ("sentence_embedding", "token_embeddings")
_LOADED = re.compile(r'(\bSentenceTransformer\("[^"]*")\)')
_SIGNATURE = inspect.signature(SentenceTransformer.encode)


class EchoSentenceTransformer(SentenceTransformer):
    """The library's model, whose ``encode`` gives the packed engine as many texts at a time as fill its packs.

    ``batch_size`` limits the texts of a padded forward. All else is the library's: order, progress bar, precisions,
    processes, and the errors for wrong arguments.
    """

    if not TYPE_CHECKING:  # the library's overloads stay

        @functools.wraps(SentenceTransformer.encode)
        def encode(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 (its docstring is the library's)
            try:
                call = _SIGNATURE.bind(self, *args, **kwargs)
            except TypeError:
                return super().encode(*args, **kwargs)  # the library says what is wrong with the call
            call.apply_defaults()
            arguments = call.arguments
            arguments["inputs"] = inputs = _texts(self, arguments["inputs"])
            batch_size = arguments["batch_size"]
            _check_call(self, arguments)
            pooled = arguments["output_value"] == "sentence_embedding" and isinstance(inputs, list) and batch_size > 0
            if pooled and (at_once := _texts_at_once(self, inputs)) > batch_size:
                arguments["batch_size"] = at_once
                arguments["kwargs"] = {"texts_a_forward": batch_size, **arguments["kwargs"]}
            return super().encode(*call.args[1:], **call.kwargs)

    def _create_model_card(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write the library's card, which would tell its reader to load the model in a way that is refused."""
        super()._create_model_card(path, *args, **kwargs)
        card = Path(path) / "README.md"
        if card.is_file():  # the library only logs it if its card fails
            text = _LOADED.sub(r"\1, trust_remote_code=True)", card.read_text(encoding="utf-8"))
            card.write_text(text, encoding="utf-8")


# The name for model cards and the library's messages; pickle uses the qualified name.
EchoSentenceTransformer.__name__ = SentenceTransformer.__name__


def _texts(model: SentenceTransformer, inputs: Any) -> Any:
    """Return several texts as a list, and one as it is. The library would take other arrays for pictures or sound.

    Raises:
        TextError: If something is not a text.
    """
    if isinstance(inputs, np.ndarray) and inputs.ndim:
        inputs = inputs.tolist()  # whatever the dtype, NumPy's StringDType included
    if model.is_singular_input(inputs):
        return inputs if isinstance(inputs, str) else check_text(inputs)
    for text in (texts := inputs if isinstance(inputs, list) else list(inputs)):
        if not isinstance(text, str):
            check_text(text)
    return texts


def _check_call(model: SentenceTransformer, arguments: dict[str, Any]) -> None:
    """Refuse arguments with which the library would silently cut vectors wrongly, or break down.

    Raises:
        ModelError: If there is such an argument.
    """
    if not isinstance(arguments["batch_size"], Integral):
        raise errors.ModelError.bad_value("batch_size", arguments["batch_size"], "a whole number above 0")
    width = model.truncate_dim if arguments["truncate_dim"] is None else arguments["truncate_dim"]
    if width is not None and (not isinstance(width, Integral) or isinstance(width, bool) or width < 1):
        raise errors.ModelError.bad_value("truncate_dim", width, "a whole number above 0, or None for the whole vector")
    if arguments["output_value"] not in (*_OUTPUTS, None):
        raise errors.ModelError.bad_value("output_value", arguments["output_value"], f"{', '.join(_OUTPUTS)} or None")


def _texts_at_once(model: SentenceTransformer, texts: list[str]) -> int:
    """Estimate how many texts fill ``PACKS`` packs; 0 where the engine does not pack them."""
    transformer = model[0]
    if not texts or not isinstance(transformer, EchoTransformer) or not pools_as_recipe(model):
        return 0
    engine = transformer.choice().engine
    if engine is None or engine.solo:
        return 0
    recipe = transformer.recipe
    copies = max(recipe.template(kind).copies for kind in get_args(Kind))
    tokens_N = -np.sort([-min(len(text) / CHARACTERS, recipe.budget or len(text)) for text in texts]) * copies + _LEAST
    most = PACKS * engine.most_tokens(transformer.model)
    # The library's first batch takes the longest texts, the later batches as many shorter texts.
    longest = int(np.searchsorted(np.cumsum(tokens_N), _SPREAD * most))
    return min(longest, -int(-most // tokens_N.mean()))
