"""Does a configuration describe the weights beside it? Asked of the files' headers, before anything is built.

A configuration says how large the model is that transformers builds; nothing keeps it from saying a billion layers.
Headers of safetensors are a few kilobytes and say what is there. So counts are held against the headers first, then
the model is built without memory (on torch's ``meta`` device) and its shapes are held against theirs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from echoembed import errors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shapes = dict[str, tuple[int, ...]]
_COUNTS = re.compile(r"(^|_)(num|n)_.*(layer|head|expert|block|group)|(layer|block)s$|^n_(layer|head)$")
_LAYER_COUNTS = re.compile(r"(^|_)(num|n)_(hidden_|decoder_|encoder_)?(layers?|blocks)$")
_MOST_BUFFERS = 2**30
_HEADS = 4
"""How many times the numbers of its weights a model may have: its embeddings twice, and what is tied or left out."""


def check_sizes(folder: Path, name: str, config: PreTrainedConfig) -> None:
    """Refuse a configuration whose sizes its weights contradict.

    Args:
        folder: With the safetensors.
        name: What errors call the model.
        config: The configuration.

    Raises:
        ModelError: If a count is larger than the weights allow, a tensor has another shape, or the model would be
            larger than its weights.
    """
    from transformers import AutoModel

    held = _shapes(folder)
    _check_counts(name, config, held)
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModel.from_config(copy.deepcopy(config), dtype=torch.float32)  # type: ignore[no-untyped-call]
    except Exception as error:  # transformers has no common base; sizes that do not go together end here
        raise errors.model_unreadable(name, str(error)) from error
    if getattr(config, "quantization_config", None):
        return  # packed: eight numbers in one, and shapes of their own
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    expected = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    for key, shape in expected.items():
        size = held.get(key, held.get(prefix + key))
        if size is not None and size != shape:
            raise errors.model_config_misfit(name, f"{key} would be of shape {shape}", f"it is of shape {size}")
    wanted, there = sum(map(prod, expected.values())), sum(map(prod, held.values()))
    if wanted > _HEADS * there:
        raise _too_large(name, wanted, there)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if buffers > max(_MOST_BUFFERS, _HEADS * there):
        raise _too_large(name, buffers, there)


def _too_large(name: str, wanted: int, there: int) -> errors.ModelError:
    return errors.model_config_misfit(name, f"the model would have {wanted:,} numbers", f"there are {there:,}")


def _check_counts(name: str, config: PreTrainedConfig, held: Shapes) -> None:
    """Counts of parts: each layer has a tensor of its own; heads and experts may share one, which is as wide."""
    widest = max((size for shape in held.values() for size in shape), default=1)
    for key, count in _numbers(config.to_dict()):
        most = len(held) if _LAYER_COUNTS.search(key) else max(len(held), widest)
        if _COUNTS.search(key) and count > most:
            raise errors.model_config_misfit(name, f"{key} = {count}", f"{most} is the most there can be")


def _numbers(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number of a configuration with its key, and the lengths of its lists."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, list):
            yield key, len(value)
        elif isinstance(value, int):
            yield key, value


def _shapes(folder: Path) -> Shapes:
    """Name and shape of every tensor of a folder's weights."""
    from safetensors import safe_open

    shapes: Shapes = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                shapes[key] = tuple(file.get_slice(key).get_shape())
    return shapes
