"""Modules become a ``SentenceTransformer``: the library's settings as saved, prompts by their names, no zero vector.

``encode(prompt_name=...)`` looks a name up among the model's prompts and hands the prompt alone to the first module. So
the names that tools use for the two kinds of text stand for marks that our reader knows (``TASK_MARKS``); they are
saved with the model like any prompt, and mean the same where the library loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from sentence_transformers import SentenceTransformer
from torch import nn

from echoembed import errors
from echoembed.model.encode import EchoSentenceTransformer
from echoembed.model.zeros import guard
from echoembed.prompts.reader import TASK_MARKS


class Prompts(dict[str, str | None]):
    """A model's prompts by name; an unknown name is refused as everything else is."""

    def __missing__(self, name: str) -> NoReturn:
        raise errors.prompt_name_unknown(name, self)


def assemble(
    modules: Iterable[nn.Module], *, name: str, device: str, settings: Mapping[str, Any] | None = None
) -> SentenceTransformer:
    """The modules as one model.

    Args:
        modules: In order; the first is ours.
        name: What errors call the model.
        device: Where it runs.
        settings: What the library saved of it beside its modules (``config_sentence_transformers.json``).

    Raises:
        ModelError: If a setting has a value that is not allowed.
    """
    settings = settings or {}
    model = EchoSentenceTransformer(modules=list(modules), device=device, prompts=_prompts(name, settings))
    _take_over(model, name, settings)
    own = {name: prompt for name, prompt in model.prompts.items() if prompt or name not in TASK_MARKS}
    model.prompts = Prompts(TASK_MARKS | own)
    model.similarity_fn_name = model.similarity_fn_name  # cosine, unless something else was saved
    guard(model)
    return model


def _take_over(model: SentenceTransformer, name: str, settings: Mapping[str, Any]) -> None:
    """Have the library read its settings as it does when it loads the model itself: all of them, also newer ones."""
    known = (*model.SUPPORTED_SIMILARITY_FN_NAMES, None)
    if (similarity := settings.get("similarity_fn_name")) not in known:
        raise errors.model_saved_unreadable(name, f"similarity_fn_name ({similarity!r})")
    most = model.get_embedding_dimension()
    if (dimension := settings.get("truncate_dim")) is not None and (
        type(dimension) is not int or dimension < 1 or (most is not None and dimension > most)
    ):
        raise errors.model_saved_unreadable(name, f"truncate_dim ({dimension!r})")
    if (default := settings.get("default_prompt_name")) is not None and default not in (*model.prompts, *TASK_MARKS):
        raise errors.model_saved_unreadable(name, f"default_prompt_name ({default!r})")
    try:
        model._parse_model_config({**settings, "prompts": {}})
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.model_saved_unreadable(name, f"config_sentence_transformers.json ({error})") from error


def _prompts(name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The saved prompts that are not empty."""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values() if text is not None):
        raise errors.model_saved_unreadable(name, f"prompts ({errors.quoted(prompts, 60)})")
    return {key: text for key, text in prompts.items() if text is not None}
