"""Modules become a ``SentenceTransformer`` with the library's saved settings, named prompts, and a guard against zeros.

``encode(prompt_name=...)`` looks a name up among the model's prompts and passes only the prompt to the first module. So
the names that tools use for queries and documents are mapped to marks that our reader knows (``TASK_MARKS``). The marks
are saved with the model like any prompt, and mean the same in a model that the library loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from sentence_transformers import SentenceTransformer
from torch import nn

from echoembed import errors
from echoembed.model.sentence_transformers import EchoSentenceTransformer
from echoembed.model.zeros import guard
from echoembed.prompts.reader import TASK_MARKS


class Prompts(dict[str, str | None]):
    """A model's prompts by name; an unknown name raises our own error."""

    def __missing__(self, name: str) -> NoReturn:
        raise errors.prompt_name_unknown(name, self)


def assemble(
    modules: Iterable[nn.Module], *, name: str, device: str, settings: Mapping[str, Any] | None = None
) -> SentenceTransformer:
    """Make one model of modules.

    Args:
        modules: The modules in order; the first is ours.
        name: What errors call the model.
        device: The device on which the model runs.
        settings: The library's saved settings (``config_sentence_transformers.json``).

    Raises:
        ModelError: If a setting has a value that is not allowed.
    """
    settings = settings or {}
    model = EchoSentenceTransformer(modules=list(modules), device=device, prompts=_prompts(name, settings))
    _apply(model, name, settings)
    saved = {name: prompt for name, prompt in model.prompts.items() if prompt or name not in TASK_MARKS}
    model.prompts = Prompts(TASK_MARKS | saved)
    model.similarity_fn_name = model.similarity_fn_name  # sets the default, cosine, unless another was saved
    guard(model)
    return model


def _apply(model: SentenceTransformer, name: str, settings: Mapping[str, Any]) -> None:
    """Let the library read all its settings, also newer ones, as when it loads the model itself."""
    allowed = (*model.SUPPORTED_SIMILARITY_FN_NAMES, None)
    if (similarity := settings.get("similarity_fn_name")) not in allowed:
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
    """Return the saved prompts, without those that are None."""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values() if text is not None):
        raise errors.model_saved_unreadable(name, f"prompts ({errors.quoted(prompts, 60)})")
    return {key: text for key, text in prompts.items() if text is not None}
