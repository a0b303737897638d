"""Converts the tensors of a GGUF file to model.safetensors: each is read, dequantised and written before the next.

All become float32, which is exact: a quantised weight is a small whole number times a scale, plus an offset.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echoembed import errors
from echoembed.sources.gguf.architectures import Change, Weight
from echoembed.sources.gguf.file import GgufFile, Tensor
from echoembed.sources.gguf.settings import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 2**20
"""How many weights are dequantised at once; the gguf package needs several times their memory."""


@dataclass(frozen=True)
class TensorRow:
    """One tensor of the file, and the weight of the transformers model that it becomes.

    Attributes:
        source: The tensor's name in the file.
        tensor: Its place in the file.
        target: The weight's name in transformers.
        shape: The weight's shape in transformers.
        change: How llama.cpp changed the weight.
        heads: The number of heads, for a ``rotary`` change.
    """

    source: str
    tensor: Tensor
    target: str
    shape: tuple[int, ...]
    change: Change
    heads: int


def count(row: TensorRow) -> int:
    """Return the number of weights of a tensor."""
    return prod(row.shape)


def plan(file: GgufFile, shape: Shape) -> tuple[list[TensorRow], dict[str, bool]]:
    """Match every tensor of the file with a weight, and return the settings that depend on which tensors exist.

    Raises:
        ModelError: If a tensor is missing, would not be used, has another shape, has a type that we cannot read, or
            shares bytes with another.
    """
    where, architecture = str(file.path), shape.architecture
    weights = _named(architecture.weights, shape.layers)
    present: dict[str, bool] = {}
    for setting, group in architecture.optional.items():
        names = _named(group, shape.layers)
        present[setting] = not names.keys().isdisjoint(file.tensors)
        weights |= names if present[setting] else {}
    present.pop("", None)
    if missing := [name for name in weights if name not in file.tensors]:
        raise errors.gguf_tensors_missing(where, missing)
    if unused := [name for name in file.tensors if name not in weights]:
        raise errors.gguf_tensors_unused(where, unused)
    rows, places = [], []
    for source, weight in weights.items():
        tensor = file.tensors[source]
        expected = tuple(shape.sides[letter] for letter in weight.shape)
        if tensor.shape != expected:
            reason = f"its tensor {source} has the shape {tensor.shape}, and its settings ask for {expected}"
            raise errors.gguf_broken(where, reason)
        places.append((tensor.offset, _checked_end(file, source, tensor), source))
        heads = shape.sides[weight.shape[0]] // shape.sides["D"]
        turned = expected[::-1] if weight.change == "turned" else expected
        rows.append(TensorRow(source, tensor, weight.name, turned, weight.change, heads))
    places.sort()
    for (_, end, name), (begin, _, following) in pairwise(places):
        if begin < end:
            raise errors.gguf_broken(where, f"its tensors {name} and {following} share bytes")
    return rows, present


def _named(weights: dict[str, Weight], layers: int) -> dict[str, Weight]:
    """Return the rows of a table, with each row of a layer repeated for all layers."""
    named: dict[str, Weight] = {}
    for name, weight in weights.items():
        for layer in range(layers) if "{i}" in name else (None,):
            target = weight.name.replace("{i}", str(layer))
            named[name.replace("{i}", str(layer))] = Weight(target, weight.shape, weight.change)
    return named


def _checked_end(file: GgufFile, name: str, tensor: Tensor) -> int:
    """Return where a tensor ends in the data; refuse one that is cut off or of a type that cannot be dequantised."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = next((kind for kind in GGMLQuantizationType if kind == tensor.type), None)
    block, size = (1, 4) if kind is None else GGML_QUANT_SIZES[kind]
    try:
        if kind is None:
            raise NotImplementedError
        dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError as error:
        type_name = str(tensor.type) if kind is None else kind.name
        raise errors.gguf_tensor_type(str(file.path), name, type_name) from error
    if tensor.shape[-1] % block:
        raise errors.gguf_broken(
            str(file.path), f"its tensor {name} has rows of {tensor.shape[-1]}, in blocks of {block}"
        )
    last = tensor.offset + prod(tensor.shape) // block * size
    if (end := file.data + last) > file.size:
        raise errors.gguf_broken(
            str(file.path), f"it is cut off: it ends at byte {file.size:,}, and its tensor {name} at byte {end:,}"
        )
    return last


def write(file: GgufFile, rows: list[TensorRow], target: Path, *, done: Callable[[int], Any]) -> None:
    """Write the tensors into one safetensors file, with no more than one of them in memory.

    Args:
        file: The GGUF file.
        rows: The tensors, from ``plan``.
        target: The file to write.
        done: Called with the number of weights written so far.

    Raises:
        ModelError: If a weight is not a number.
        OSError: If the file cannot be read or written.
    """
    # The format of safetensors: the header's length, the header as JSON, then the data in the header's order.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for row in rows:
        size = 4 * prod(row.shape)
        header[row.target] = {"dtype": "F32", "shape": row.shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data: NDArray[np.uint8] = np.memmap(file.path, mode="r", dtype=np.uint8)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        written = 0
        for row in rows:
            weights = _undone(dequantised(data, file, row.tensor), row)
            if not np.isfinite(weights).all():
                raise errors.gguf_broken(str(file.path), f"its tensor {row.source} holds weights that are not finite")
            out.write(np.ascontiguousarray(weights, dtype="<f4").data)
            written += weights.size
            done(written)


def dequantised(data: NDArray[np.uint8], file: GgufFile, tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor's weights in the file's shape."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(tensor.type)
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = prod(tensor.shape[:-1]), tensor.shape[-1]
    begin = file.data + tensor.offset
    packed = data[begin : begin + rows * columns // block * size].reshape(rows, columns // block * size)
    weights = np.empty((rows, columns), np.float32)
    step = max(1, _AT_ONCE // columns)
    for row in range(0, rows, step):
        with np.errstate(all="ignore"):  # the caller looks for weights that are not finite
            weights[row : row + step] = dequantize(np.ascontiguousarray(packed[row : row + step]), kind)
    return weights.reshape(tensor.shape)


def _undone(weights: NDArray[np.float32], row: TensorRow) -> NDArray[np.float32]:
    """Return the weights as transformers expects them, with llama.cpp's change undone."""
    if row.change == "one less":
        return weights - np.float32(1)
    if row.change == "turned":
        return weights.T
    if row.change == "rotary":
        # llama.cpp rotates pairs of neighbours; transformers pairs a head's first half with its second.
        pairs = weights.reshape(row.heads, -1, 2, *weights.shape[1:])
        return pairs.swapaxes(1, 2).reshape(weights.shape)
    return weights
