"""Conversion of a loaded model to another dtype, in place, so that it is the model that is loaded in that dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echoembed import errors
from echoembed.engine import quantize
from echoembed.model.beside import models_of, parts_of
from echoembed.model.probes import PROBE_TEXTS
from echoembed.model.running import DTYPES, dtype_of
from echoembed.model.weights import convert, sketch

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer


def to_int8(transformer: EchoTransformer) -> None:
    """Put the linear layers into int8.

    Raises:
        ModelError: If there are no linear layers.
    """
    transformer.selector.choice(transformer.model)  # before the conversion: the proof needs it in floating point
    probes = replace(transformer.reader, overflow="ignore").render(PROBE_TEXTS)
    if not quantize(transformer.model, probes):
        raise errors.ModelError.bad_value("dtype", "int8", "float32 or bfloat16: no layer is an nn.Linear")
    transformer.selector.retest_invariance(transformer.model)
    for part in models_of(transformer):
        part.to_int8()


def converting(transformer: EchoTransformer, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Do what PyTorch's ``half``, ``bfloat16`` or ``to`` ask for, if that is another dtype, as loading does it.

    PyTorch would round the rotary frequencies too, and rounded weights would count as trained.

    Args:
        transformer: The module whose weights are converted, and those of its further prompts.
        change: What PyTorch is about to do to every tensor.

    Returns:
        What is left to do to every tensor: ``change``, or after a conversion the move to its device.

    Raises:
        ModelError: If no model runs in that dtype, or the model is in int8.
    """
    before = transformer.model.dtype
    example = change(torch.empty(0, dtype=before, device=transformer.model.device))
    dtype, device = example.dtype, example.device
    if dtype == before:
        return change
    if transformer.int8:
        raise errors.ModelError.bad_value("dtype", dtype, "no other for a model in int8: load it anew with that dtype")
    if dtype_of(dtype) is None:
        raise errors.ModelError.bad_value("dtype", dtype, ", ".join(DTYPES))
    parts = [transformer, *parts_of(transformer)]
    unchanged = [sketch(part.model) == part.sketch for part in parts]  # of all, as they share weights
    for part in parts:
        convert(part.model, dtype)
    for part, as_loaded in zip(parts, unchanged, strict=True):
        if as_loaded:
            part.sketch = sketch(part.model)
        reason = f"converted from {str(before).removeprefix('torch.')} after it was loaded"
        part.running = replace(part.running, dtype=dtype, dtype_reason=reason)
    return lambda tensor: tensor.to(device)
