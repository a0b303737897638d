"""The tensors of a GGUF file as model.safetensors: each is read, dequantised and written before the next.

All of them become float32, which is exact: a quantised weight is a small whole number times a scale, plus an offset.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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
"""Weights that are dequantised at once: gguf needs several times as much memory for them."""


@dataclass(frozen=True)
class TensorRow:
    """One tensor of the file, and what it becomes.

    Attributes:
        source: Its name in the file.
        tensor: Where it lies there.
        target: Its name in transformers.
        shape: Its shape there.
        change: What llama.cpp did to it.
        heads: Over how many heads, where rows are interleaved.
    """

    source: str
    tensor: Tensor
    target: str
    shape: tuple[int, ...]
    change: Change
    heads: int


def count(row: TensorRow) -> int:
    """How many weights a tensor has."""
    return prod(row.shape)


def plan(file: GgufFile, shape: Shape) -> tuple[list[TensorRow], dict[str, bool]]:
    """What becomes of each tensor, and the settings of config.json that depend on which tensors there are.

    Raises:
        ModelError: If a tensor is missing, or would not be used, or has another shape or a type that we cannot read.
    """
    where, architecture = str(file.path), shape.architecture
    wanted = _named(architecture.weights, shape.layers)
    present: dict[str, bool] = {}
    for setting, group in architecture.optional.items():
        names = _named(group, shape.layers)
        present[setting] = not names.keys().isdisjoint(file.tensors)
        wanted |= names if present[setting] else {}
    present.pop("", None)
    if missing := [name for name in wanted if name not in file.tensors]:
        raise errors.gguf_tensors_missing(where, missing)
    if unused := [name for name in file.tensors if name not in wanted]:
        raise errors.gguf_tensors_unused(where, unused)
    rows = []
    for source, weight in wanted.items():
        tensor = file.tensors[source]
        expected = tuple(shape.sides[letter] for letter in weight.shape)
        if tensor.shape != expected:
            reason = f"its tensor {source} has the shape {tensor.shape}, and its settings ask for {expected}"
            raise errors.gguf_broken(where, reason)
        _check_bytes(file, source, tensor)
        heads = shape.sides[weight.shape[0]] // shape.sides["D"]
        turned = expected[::-1] if weight.change == "turned" else expected
        rows.append(TensorRow(source, tensor, weight.name, turned, weight.change, heads))
    return rows, present


def _named(weights: dict[str, Weight], layers: int) -> dict[str, Weight]:
    """The rows of a table, those of layers once for each layer."""
    named: dict[str, Weight] = {}
    for name, weight in weights.items():
        for layer in range(layers) if "{i}" in name else (None,):
            target = weight.name.replace("{i}", str(layer))
            named[name.replace("{i}", str(layer))] = Weight(target, weight.shape, weight.change)
    return named


def _check_bytes(file: GgufFile, name: str, tensor: Tensor) -> None:
    """Refuse a type that cannot be dequantised, and a tensor that the file does not hold to its end."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    kind = next((kind for kind in GGMLQuantizationType if kind == tensor.type), None)
    block, size = (1, 4) if kind is None else GGML_QUANT_SIZES[kind]
    try:
        if kind is None:
            raise NotImplementedError
        dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError as error:
        shown = str(tensor.type) if kind is None else kind.name
        raise errors.gguf_tensor_type(str(file.path), name, shown) from error
    if tensor.shape[-1] % block:
        raise errors.gguf_broken(
            str(file.path), f"its tensor {name} has rows of {tensor.shape[-1]}, in blocks of {block}"
        )
    end = file.data + tensor.offset + prod(tensor.shape) // block * size
    if end > file.size:
        raise errors.gguf_broken(
            str(file.path), f"it is cut off: it ends at byte {file.size:,}, and its tensor {name} at byte {end:,}"
        )


def write(file: GgufFile, rows: list[TensorRow], target: Path, *, done: Callable[[int], Any]) -> None:
    """Write the tensors as one safetensors file, with no more than one of them in memory.

    Args:
        file: The file.
        rows: From ``plan``.
        target: What is written.
        done: Called with the number of weights written so far.

    Raises:
        ModelError: If a weight is not a number.
        OSError: If the file cannot be read or written.
    """
    # The format: length of the header, header as JSON, then the data in its order.
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
    """A tensor's weights in the shape that the file gives them."""
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
        with np.errstate(all="ignore"):  # the caller looks for values that are no numbers
            weights[row : row + step] = dequantize(np.ascontiguousarray(packed[row : row + step]), kind)
    return weights.reshape(tensor.shape)


def _undone(weights: NDArray[np.float32], row: TensorRow) -> NDArray[np.float32]:
    """The weights as transformers expects them, with llama.cpp's change undone."""
    if row.change == "one less":
        return weights - np.float32(1)
    if row.change == "turned":
        return weights.T
    if row.change == "rotary":
        # llama.cpp rotates pairs of neighbours; transformers pairs a head's first half with its second.
        pairs = weights.reshape(row.heads, -1, 2, *weights.shape[1:])
        return pairs.swapaxes(1, 2).reshape(weights.shape)
    return weights
