"""Facts about a loaded model: the prompt of a text, the fingerprint, and a page of all settings in force."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, get_args

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import nn

from echoembed.engine import parameter_count
from echoembed.model.beside import Join, parts_of
from echoembed.model.calibration import Calibration
from echoembed.model.pooling import LIBRARY_MODE
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.weights import digest, sketch
from echoembed.prompts.reader import TASK_MARKS
from echoembed.prompts.template import Rendered
from echoembed.recipe import Kind
from echoembed.sources.gguf import cache


def render(model: SentenceTransformer, text: str, *, kind: Kind = "query", instruction: str | None = None) -> Rendered:
    """Return the prompt that the model reads for a text.

    Args:
        model: From ``load``.
        text: The text.
        kind: The template, ``query`` or ``document``.
        instruction: What fills ``{instruction}``; None for the recipe's own.

    Returns:
        The prompt: its ``ids``, the ``span`` of pooled tokens, the number of ``dropped`` tokens, and its ``text``.

    Raises:
        TextError: If the text cannot be embedded.
    """
    return transformer_of(model).reader.render([text], task=kind, instruction=instruction)[0]


def fingerprint(model: SentenceTransformer) -> str:
    """Return the *identity* of a model's vectors in 16 hexadecimal digits.

    Vectors with different fingerprints must not be compared. A fingerprint covers the recipe, the exact weights, the
    context, the later modules, and the dimension that vectors are truncated to. It is the same on every machine and
    under every version of the libraries; settings that change only the last digits are named by ``numerics``. Weights
    that were trained after loading are hashed anew. An instruction is covered only if it is the recipe's own.
    """
    transformer = transformer_of(model)
    unchanged = transformer.int8 or sketch(transformer.model) == transformer.sketch
    parts = [transformer.recipe.fingerprint(), transformer.revision, str(transformer.context)]
    parts += [] if unchanged else [digest(transformer.model)]
    parts += [module_identity(module) for module in list(model)[1:]]
    parts += (
        [transformer.frequencies.identity()] if transformer.recipe.counts_tokens and transformer.frequencies else []
    )
    of_recipe = LIBRARY_MODE[transformer.recipe.pooling]
    modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
    as_recipe = (of_recipe, (of_recipe,), [of_recipe])
    parts += [f"pooled by {mode}" for mode in modes if mode not in as_recipe]
    parts += [f"truncated to {model.truncate_dim}"] * bool(model.truncate_dim)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def numerics(model: SentenceTransformer) -> str:
    """Name the settings that change only the last digits of a vector: dtype, engine, deterministic bits.

    Vectors with the same fingerprint and different numerics may be compared; they are equal to rounding.
    """
    transformer = transformer_of(model)
    parts = [_dtype(transformer).removeprefix("torch."), transformer.choice().name]
    parts += ["deterministic"] * transformer.running.deterministic
    fitted = dict.fromkeys(calibration.fitted.dtype for calibration in _fitted(model))
    return ", ".join(parts + [f"calibrated in {dtype}" for dtype in fitted if dtype != parts[0]])


def module_identity(module: nn.Module) -> str:
    """Name what a later module does to vectors, in our own words, as the library's settings change with its version."""
    if isinstance(module, Pooling):
        return ""  # the recipe says how states are pooled
    if isinstance(module, Normalize):
        return "normalized"
    if isinstance(module, (Calibration, Join)):
        return module.identity()
    settings = {key: getattr(module, key, None) for key in getattr(module, "config_keys", [])}
    return f"{type(module).__name__} {settings} {digest(module)}"


def _dtype(transformer: EchoTransformer) -> str:
    return "int8" if transformer.int8 else str(transformer.model.dtype)


def _engine(transformer: EchoTransformer) -> str:
    choice = transformer.choice()
    return f"{choice.name} ({choice.reason})"


def _bare(model: SentenceTransformer) -> str:
    """Name the template that ``encode`` uses without a task and a prompt."""
    name = model.default_prompt_name
    prompt = None if name is None else model.prompts.get(name)
    kinds = {mark: kind for kind, mark in TASK_MARKS.items() if kind in get_args(Kind)}
    if not prompt or prompt in kinds:
        return f"{kinds[prompt] if prompt else 'query'} template"
    return f"query template with the prompt {name!r}"


def _beside(transformer: EchoTransformer) -> str:
    """Name the further prompts, and how their vectors are joined."""
    names = [f"{part.recipe.name} (layer {part.layers}, {part.recipe.pooling})" for part in parts_of(transformer)]
    return f"{transformer.recipe.join} with {', '.join(names)}" if names else "none"


def _calibration(model: SentenceTransformer) -> str:
    return (
        ", ".join(
            f"{calibration.kind} (fitted on {calibration.fitted.texts:,} texts)" for calibration in _fitted(model)
        )
        or "none"
    )


def _fitted(model: SentenceTransformer) -> list[Calibration]:
    """Return the calibrations of all prompts."""
    calibrations = [module for module in model if isinstance(module, Calibration)]
    return calibrations + [
        calibration
        for module in model
        if isinstance(module, Join)
        for calibration in module.fitted()
        if calibration is not None
    ]


def _file(transformer: EchoTransformer) -> dict[str, str]:
    """Return, for a model from a GGUF file, the file, the hash of its bytes, and the folder of the converted model."""
    base = transformer.base
    if base is None or base.origin not in ("gguf", "package"):
        return {}
    facts = cache.facts(base.revision)
    file = base.model if base.origin == "gguf" else facts.get("file")
    return {"file": file or "", "file_sha256": facts.get("sha256", ""), "converted_into": facts.get("folder", "")}


def describe(model: SentenceTransformer) -> dict[str, Any]:
    """Return the facts of a model and its recipe, in plain values.

    Returns:
        Names, exact revision, architecture, sizes, templates with rendered prompts, the budget in force, the context,
        attention and layers as checked at load, and the fingerprint.
    """
    transformer = transformer_of(model)
    config = transformer.model.config
    recipe = transformer.recipe
    facts: dict[str, Any] = {
        "model": transformer.name,
        "adapter": transformer.adapter or "none",
        "revision": transformer.revision,
        **_file(transformer),
        "architecture": config.model_type,
        "parameters": parameter_count(transformer.model),
        "dtype": _dtype(transformer).removeprefix("torch."),
        "dtype_reason": transformer.running.dtype_reason,
        "device": str(model.device),
        "recipe": recipe.name,
        "source": recipe.source,
        "attention": f"{recipe.attention} (checked)",
        "layers": transformer.layers,
        "engine": _engine(transformer),
        "pooling": recipe.pooling,
        "hindsight": recipe.hindsight,
        "calibration": _calibration(model),
        "beside": _beside(transformer),
        "dimension": model.get_embedding_dimension(),
        "normalized": any(type(module).__name__ == "Normalize" for module in model),
        "context": transformer.context,
        "budget": recipe.budget,
    }
    reader = replace(transformer.reader, overflow="ignore")  # the budget may be too small even for the word TEXT
    for kind in get_args(Kind):
        facts[f"{kind}_template"] = recipe.template(kind).source
        facts[f"{kind}_prompt"] = reader.render(["TEXT"], task=kind)[0].text
        facts[f"{kind}_budget_in_force"] = transformer.reader.room(task=kind)
    facts["bare_encode"] = f"the {_bare(model)}"
    return {
        **facts,
        "recipe_fingerprint": recipe.fingerprint(),
        "fingerprint": fingerprint(model),
        "numerics": numerics(model),
    }
