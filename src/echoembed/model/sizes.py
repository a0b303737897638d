"""Whether a configuration fits the weights beside it, checked before a model is built.

The configuration decides how large a model transformers builds, and may say a billion layers. The headers of
safetensors files are a few kilobytes and list the tensors that exist. So the configuration's counts are compared with
the headers first. Then the model is built without memory (on torch's ``meta`` device), and its shapes are compared.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from echoembed import errors
from echoembed.sources.files import ADAPTER_CONFIG, weight_files
from echoembed.sources.settings import reason

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class _Header(NamedTuple):
    """What a safetensors file says of a tensor; the dtype as it spells it, such as ``F32``."""

    shape: tuple[int, ...]
    dtype: str


Headers = dict[str, _Header]
_COUNTS = re.compile(r"(^|_)(num|n)_.*(layer|head|expert|block|group)|(layer|block)s$|^n_(layer|head)$")
_LAYER_COUNTS = re.compile(r"(^|_)(num|n)_(hidden_|decoder_|encoder_)?(layers?|blocks)$")
_WHOLE = ("I", "U", "BOOL")
_MOST_BUFFERS = 2**30
_MOST_TIMES = 4
"""A model may have this many times the numbers of its files, as files leave out tied weights and heads."""


def check_sizes(folder: Path, name: str, config: PreTrainedConfig) -> None:
    """Refuse a configuration whose sizes its weights contradict.

    Args:
        folder: The folder of the safetensors files.
        name: What errors call the model.
        config: The configuration.

    Raises:
        ModelError: If a count is larger than the weights allow, a tensor has another shape or holds whole numbers, or
            the model would be larger than its weights.
    """
    from transformers import AutoModel

    headers = _headers(folder)
    _check_counts(name, config, headers)
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModel.from_config(copy.deepcopy(config), dtype=torch.float32)  # type: ignore[no-untyped-call]
    except Exception as error:  # transformers' errors have no common base; sizes that contradict each other end here
        raise errors.model_unreadable(name, reason(error)) from error
    if _is_quantised(config):
        return  # quantised weights hold several numbers in one, and have shapes of their own
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    expected = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    for key, shape in expected.items():
        header = headers.get(key, headers.get(prefix + key))
        if header is not None and header.shape != shape:
            raise errors.model_config_misfit(name, f"{key} would be of shape {shape}", f"it is of shape {header.shape}")
        if header is not None and header.dtype.startswith(_WHOLE):
            raise errors.model_weights_whole(name, key, header.dtype)
    needed, present = sum(map(prod, expected.values())), sum(prod(header.shape) for header in headers.values())
    if needed > _MOST_TIMES * present:
        raise _too_large(name, needed, present)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if buffers > max(_MOST_BUFFERS, _MOST_TIMES * present):
        raise _too_large(name, buffers, present)


def _too_large(name: str, needed: int, present: int) -> errors.ModelError:
    return errors.model_config_misfit(name, f"the model would have {needed:,} numbers", f"there are {present:,}")


def _is_quantised(config: PreTrainedConfig) -> bool:
    """Return whether weights are quantised by a method that transformers knows; others it takes for none."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    settings: Any = getattr(config, "quantization_config", None)
    if not isinstance(settings, dict):
        return settings is not None
    bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    return bool(bits) or settings.get("quant_method") in AUTO_QUANTIZATION_CONFIG_MAPPING


def _check_counts(name: str, config: PreTrainedConfig, headers: Headers) -> None:
    """Refuse counts that the tensors contradict: a layer has tensors of its own, heads and experts may share one."""
    widest = max((size for header in headers.values() for size in header.shape), default=1)
    for key, count in _numbers(config.to_dict()):
        most = len(headers) if _LAYER_COUNTS.search(key) else max(len(headers), widest)
        if _COUNTS.search(key) and count > most:
            raise errors.model_config_misfit(name, f"{key} = {count}", f"{most} is the most there can be")


def _numbers(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield every whole number of a configuration with its key, and the lengths of its lists."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, list):
            yield key, len(value)
        elif isinstance(value, int):
            yield key, value


def _headers(folder: Path) -> Headers:
    """Return the shape and dtype of every tensor of a model's weights."""
    from safetensors import safe_open

    names = {path.name for path in folder.iterdir()} - {ADAPTER_CONFIG}
    headers: Headers = {}
    for path in sorted(weight_files(str(folder), names, folder, [])):
        with safe_open(folder / path, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                entry = file.get_slice(key)
                headers[key] = _Header(tuple(entry.get_shape()), str(entry.get_dtype()))
    return headers
