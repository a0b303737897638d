"""Training that goes on from a trained adapter: LoRA begins with its weights rather than with an update of 0.

The adapter must have been trained on the same weights, on the same layers and with the same rank and scale. The
optimiser and the learning rate begin anew, so that the new run may have other data, another objective or another batch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from echoembed import errors
from echoembed.model.adapters import WEIGHTS, check_settings
from echoembed.model.transformer import transformer_of
from echoembed.sources import adapters
from echoembed.sources.files import ADAPTER_CONFIG
from echoembed.sources.settings import read_json
from echoembed.training.adapter import LORA, TOKENS
from echoembed.training.tables import AdapterConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PREFIX = "base_model.model."
"""What peft puts before the name of a model's module."""
_TOKENS = TOKENS.rstrip(".")
_OTHER_KINDS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""Settings under which LoRA's product or scale is another."""


def weights_of(config: AdapterConfig) -> Path:
    """Return the file of the weights that training begins with.

    Raises:
        TrainingError: If the adapter cannot be used.
    """
    return _found(config.start).source.folder / WEIGHTS


def begin(model: SentenceTransformer, config: AdapterConfig) -> None:
    """Copy a trained adapter's weights into LoRA's new matrices.

    Args:
        model: A model that ``add_adapter`` has put LoRA on; changed in place.
        config: The adapter to train, whose ``start`` names the trained one.

    Raises:
        TrainingError: If the trained adapter was trained on other weights, other layers, another rank or scale, or if
            its weights are not finite.
    """
    transformer = transformer_of(model)
    places, weights = fitting(transformer.model, transformer.base, config)
    with torch.no_grad():
        for name, parameter in places.items():
            parameter.copy_(weights[name])


def fitting(
    model: nn.Module, base: adapters.Base | None, config: AdapterConfig, *, tokens: bool = True
) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """Return the parameters to train and a trained adapter's weights for them, by the names that peft saves.

    Args:
        model: The language model with new LoRA; only names and shapes of its parameters are read.
        base: The weights that the model has.
        config: The adapter to train, whose ``start`` names the trained one.
        tokens: Whether the model has the embeddings of tokens that are trained; if not, those of the trained adapter
            are left out.

    Raises:
        TrainingError: As ``begin``.
    """
    trained = _found(config.start)
    # 1. Compare the weights that both belong to, and what LoRA multiplies its product by.
    if base is None or (base.revision, base.adapters) != (trained.base.revision, trained.base.adapters):
        raise errors.adapter_start_unusable(config.start, f"it was trained on other weights: {trained.base}")
    scale = _scale(trained, config.start)
    if not math.isclose(scale, config.alpha / config.rank):
        raise errors.adapter_start_unusable(
            config.start, f"its alpha / rank is {scale:g}, not {config.alpha / config.rank:g}"
        )
    # 2. Each matrix must have its weights, and each weight its matrix.
    try:
        weights = load_file(trained.source.folder / WEIGHTS)
    except Exception as error:  # a damaged file; safetensors has no common base
        raise errors.adapter_start_unusable(config.start, f"its weights cannot be read ({error})") from error
    if not tokens:
        weights = {name: weight for name, weight in weights.items() if not name.endswith(_TOKENS)}
    places = {
        f"{_PREFIX}{name.replace('.default', '')}": parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    if odd := sorted(places.keys() ^ weights.keys()):
        raise errors.adapter_start_unusable(config.start, f"it is on other layers ({odd[0].removeprefix(_PREFIX)})")
    for name, parameter in places.items():
        if weights[name].shape != parameter.shape:
            what = "rank" if LORA in name else "shape"
            shapes = f"{tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
            raise errors.adapter_start_unusable(config.start, f"it has another {what} ({shapes})")
        if not torch.isfinite(weights[name]).all():
            raise errors.adapter_start_unusable(config.start, "its weights are not all finite numbers")
    # 3. Refuse what loading refuses, such as an adapter that began with a part of the weights of its base.
    folder = trained.source.folder
    try:
        check_settings(read_json(folder / ADAPTER_CONFIG, dict), weights, config.start, folder)
    except errors.ModelError as error:
        raise errors.adapter_start_unusable(config.start, str(error).rstrip(".")) from error
    return places, weights


def _scale(trained: adapters.Adapter, name: str) -> float:
    """Return what a trained adapter's LoRA multiplies its product by; refuse kinds that LoRA here does not repeat."""
    settings = read_json(trained.source.folder / ADAPTER_CONFIG, dict)
    if (kind := settings.get("peft_type")) != "LORA":
        raise errors.adapter_start_unusable(name, f"its kind is {kind!r}, not 'LORA'")
    if odd := [key for key in _OTHER_KINDS if settings.get(key)]:
        raise errors.adapter_start_unusable(name, f"it has {odd[0]}, which the adapter to train does not have")
    try:
        return float(settings["lora_alpha"]) / float(settings["r"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise errors.adapter_start_unusable(name, "its r and lora_alpha are no numbers to divide") from error


def _found(name: str) -> adapters.Adapter:
    try:
        return adapters.find(name)
    except errors.ModelError as error:
        raise errors.adapter_start_unusable(name, str(error).rstrip(".")) from error
