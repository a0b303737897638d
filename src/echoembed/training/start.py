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

from echoembed import errors
from echoembed.model.adapters import WEIGHTS
from echoembed.model.transformer import transformer_of
from echoembed.sources import adapters
from echoembed.sources.files import ADAPTER_CONFIG
from echoembed.sources.settings import read_json
from echoembed.training.adapter import LORA
from echoembed.training.tables import AdapterConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PREFIX = "base_model.model."
"""What peft puts before the name of a model's module."""


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
    trained = _found(config.start)
    transformer = transformer_of(model)
    # 1. Compare the weights that both belong to, and what LoRA multiplies its product by.
    base = transformer.base
    if base is None or (base.revision, base.adapters) != (trained.base.revision, trained.base.adapters):
        raise errors.adapter_start_unusable(config.start, f"it was trained on other weights: {trained.base}")
    settings = read_json(trained.source.folder / ADAPTER_CONFIG, dict)
    scale = float(settings.get("lora_alpha", math.nan)) / float(settings.get("r", math.nan))
    if not math.isclose(scale, config.alpha / config.rank):
        raise errors.adapter_start_unusable(
            config.start, f"its alpha / rank is {scale:g}, not {config.alpha / config.rank:g}"
        )
    # 2. Each matrix must have its weights, and each weight its matrix.
    try:
        weights = load_file(trained.source.folder / WEIGHTS)
    except Exception as error:  # a damaged file; safetensors has no common base
        raise errors.adapter_start_unusable(config.start, f"its weights cannot be read ({error})") from error
    places = {
        f"{_PREFIX}{name.replace('.default', '')}": parameter
        for name, parameter in transformer.model.named_parameters()
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
    with torch.no_grad():
        for name, parameter in places.items():
            parameter.copy_(weights[name])


def _found(name: str) -> adapters.Adapter:
    try:
        return adapters.find(name)
    except errors.ModelError as error:
        raise errors.adapter_start_unusable(name, str(error).rstrip(".")) from error
