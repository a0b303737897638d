"""What a model and its recipe come to: one prompt, one fingerprint, one page of facts."""

from __future__ import annotations

import hashlib
from typing import Any, get_args

from sentence_transformers import SentenceTransformer

from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.weights import digest, sketch
from echoembed.prompts.template import Rendered
from echoembed.recipe import Kind


def render(model: SentenceTransformer, text: str, *, kind: Kind = "query", instruction: str | None = None) -> Rendered:
    """What the model reads for a text.

    Args:
        model: From ``load``.
        text: The text.
        kind: Which template, ``query`` or ``document``.
        instruction: What stands in ``{instruction}``; None for the recipe's own.

    Returns:
        The prompt: ``ids``, ``span`` of the pooled tokens, ``dropped`` tokens, ``text``.

    Raises:
        TextError: If the text cannot be embedded.
    """
    return transformer_of(model).reader.render([text], task=kind, instruction=instruction)[0]


def fingerprint(model: SentenceTransformer) -> str:
    """16 hexadecimal digits that go with every stored vector.

    They cover the recipe, the exact weights, the dtype, the context, the modules that follow and a dimension they
    are truncated to: vectors with different fingerprints must not be compared. Weights that were trained after
    loading are hashed anew. The instruction of a call is not covered, unless it is the recipe's own.
    """
    first = transformer_of(model)
    changed = "" if first.int8 or sketch(first.model) == first.sketch else digest(first.model)
    after = [f"{type(module).__name__} {_settings(module)}" for module in list(model)[1:]]
    parts = [first.recipe.fingerprint(), first.revision, _dtype(first), str(first.context), *after]
    parts += [changed] * bool(changed) + [f"truncated to {model.truncate_dim}"] * bool(model.truncate_dim)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _dtype(first: EchoTransformer) -> str:
    return "int8" if first.int8 else str(first.model.dtype)


def _engine(first: EchoTransformer) -> str:
    choice = first.selector.choice(first.model)
    return f"{choice.name} ({choice.reason})"


def _settings(module: Any) -> str:  # noqa: ANN401
    keys = getattr(module, "config_keys", [])
    return repr({key: getattr(module, key, None) for key in keys})


def describe(model: SentenceTransformer) -> dict[str, Any]:
    """What model and recipe resolve to, in plain values.

    Returns:
        Names, exact revision, architecture, sizes, templates with their rendered prompts, budget in force,
        context, attention and layers as checked at load, and the fingerprint.
    """
    first = transformer_of(model)
    config = first.model.config
    recipe = first.recipe
    facts: dict[str, Any] = {
        "model": first.name,
        "adapter": first.adapter or "none",
        "revision": first.revision,
        "architecture": config.model_type,
        "parameters": sum(weight.numel() for weight in first.model.parameters()),
        "dtype": _dtype(first).removeprefix("torch."),
        "device": str(model.device),
        "recipe": recipe.name,
        "source": recipe.source,
        "attention": f"{recipe.attention} (checked)",
        "layers": first.layers,
        "engine": _engine(first),
        "pooling": recipe.pooling,
        "dimension": model.get_embedding_dimension(),
        "normalized": any(type(module).__name__ == "Normalize" for module in model),
        "context": first.context,
        "budget": recipe.budget,
    }
    for kind in get_args(Kind):
        facts[f"{kind}_template"] = recipe.template(kind).source
        facts[f"{kind}_prompt"] = first.reader.render(["TEXT"], task=kind)[0].text
        facts[f"{kind}_budget_in_force"] = first.reader.room(task=kind)
    return {**facts, "recipe_fingerprint": recipe.fingerprint(), "fingerprint": fingerprint(model)}
