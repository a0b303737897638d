"""A store on disk of the pooled vectors of every layer, from one forward per prompt.

One forward passes through every layer, so that other layers, poolings and calibrations need no further forward. Each
prompt goes through the model once for all of them. The store has a folder for each set of weights, and in it a row for
each prompt's ids and span. After a killed run, the vectors that it computed are still there.

On disk each vector is float16, scaled so that its largest number is near the end of float16's range. This gives every
number eleven bits, whatever its size (the states of some dimensions are thousands of times those of others).

Shapes: N prompts, B prompts of a forward, S tokens of the longest span, L layers + 1 (the token embeddings), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echoembed import errors
from echoembed.engine import tokens_in_flight
from echoembed.evaluation.cache import Vectors, prompt_key, weights_key
from echoembed.files import whole_file
from echoembed.model.layers import layer_states
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Rendered
from echoembed.recipe import Pooling
from echoembed.sources.gguf.cache import home

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LAYER_POOLINGS: tuple[Pooling, ...] = ("mean", "last", "weighted-mean")
SHARD = 128
"""The number of prompts in a file."""
_LARGEST = 2.0**15
_Place = tuple[Path, int]


class LayerStore:
    """Stores the pooled vectors of every layer.

    Args:
        folder: The store's folder, made with the first vectors.

    Attributes:
        computed: The number of prompts that went through a model.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.computed = 0
        self._indexes: dict[str, dict[bytes, _Place]] = {}

    def fill(
        self,
        model: SentenceTransformer,
        prompts: Sequence[Rendered],
        *,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Compute the vectors of prompts that are not in the store, a file at a time.

        Args:
            model: From ``load``, with all its layers: under a recipe that names no layer.
            prompts: The prompts.
            progress: Called after each file with the number of prompts in the store so far.

        Raises:
            ModelError: If the model is cut at a layer, or a state is not finite.
            FileError: If a file cannot be written.
        """
        transformer = transformer_of(model)
        if transformer.cut:
            raise errors.ModelError.bad_value(
                "recipe", transformer.recipe.name, "one that names no layer: all are kept"
            )
        name, weights = _folder_name(model), weights_key(model)
        index = self._index(name)
        missing = {prompt_key(weights, prompt): prompt for prompt in prompts}
        missing = {key: prompt for key, prompt in missing.items() if key not in index}
        # Sorted by length, so that packs are full; file by file, so that a killed run loses one file at most.
        order = sorted(missing, key=lambda key: len(missing[key].ids))
        for start in range(0, len(order), SHARD):
            keys = order[start : start + SHARD]
            path = self.folder / name / f"{hashlib.blake2b(b''.join(keys), digest_size=12).hexdigest()}.safetensors"
            _write(path, keys, every_layer(model, [missing[key] for key in keys]))
            index.update({key: (path, row) for row, key in enumerate(keys)})
            self.computed += len(keys)
            if progress is not None:
                progress(len(prompts) - len(order) + start + len(keys))

    def missing(self, model: SentenceTransformer, prompts: Sequence[Rendered]) -> int:
        """Count the prompts that are not in the store."""
        weights, index = weights_key(model), self._index(_folder_name(model))
        return len({prompt_key(weights, prompt) for prompt in prompts} - index.keys())

    def vectors(
        self, model: SentenceTransformer, prompts: Sequence[Rendered], layers: Sequence[int], pooling: Pooling
    ) -> Vectors:
        """Return pooled vectors, not calibrated and not normalised.

        Args:
            model: As for ``fill``; missing vectors are computed.
            prompts: N prompts.
            layers: Indices of layers, 0 for the token embeddings.
            pooling: One of ``LAYER_POOLINGS``.

        Returns:
            ``vectors_NLD``, float32, in the order of prompts and layers.
        """
        from safetensors import safe_open

        self.fill(model, prompts)
        weights = weights_key(model)
        index = self._index(_folder_name(model))
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for number, prompt in enumerate(prompts):
            path, row = index[prompt_key(weights, prompt)]
            by_file.setdefault(path, []).append((number, row))
        result: Vectors | None = None
        for path, pairs in by_file.items():
            numbers, rows = zip(*pairs, strict=True)
            with safe_open(path, framework="np") as shard:
                for place, layer in enumerate(layers):
                    scaled_ND = shard.get_tensor(f"{pooling}.{layer}")[list(rows)]
                    scale_N = shard.get_tensor(f"{pooling}.{layer}.scale")[list(rows)]
                    if result is None:
                        result = np.empty((len(prompts), len(layers), scaled_ND.shape[-1]), dtype=np.float32)
                    result[list(numbers), place] = scaled_ND.astype(np.float32) * scale_N[:, None]
        assert result is not None, "no prompts, or no layers"
        return result

    def _index(self, name: str) -> dict[bytes, _Place]:
        """Return the file and the row of each prompt's vectors."""
        if name not in self._indexes:
            from safetensors import SafetensorError, safe_open

            index: dict[bytes, _Place] = {}
            for path in sorted((self.folder / name).glob("*.safetensors")):
                try:
                    with safe_open(path, framework="np") as shard:
                        keys_N16 = shard.get_tensor("keys")
                except (OSError, SafetensorError):
                    continue  # damaged: its prompts are read again
                index.update({key.tobytes(): (path, row) for row, key in enumerate(keys_N16)})
            self._indexes[name] = index
        return self._indexes[name]


@torch.inference_mode()
def every_layer(model: SentenceTransformer, prompts: Sequence[Rendered]) -> dict[Pooling, Vectors]:
    """Compute the pooled vectors of every layer, with one forward per prompt.

    Args:
        model: From ``load``.
        prompts: N prompts.

    Returns:
        For each of ``LAYER_POOLINGS``, ``vectors_NLD`` in float32: the token embeddings, then each layer, the last
        after the norm.

    Raises:
        ModelError: If a state is not finite.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    most = tokens_in_flight(transformer_of(model).model)
    vectors: dict[Pooling, list[Vectors]] = {pooling: [] for pooling in LAYER_POOLINGS}
    start = 0
    while start < len(order):
        count = max(most // len(prompts[order[min(start + SHARD, len(order)) - 1]].ids), 1)
        states_LBSD, mask_BS = layer_states(model, [prompts[index] for index in order[start : start + count]])
        if not torch.isfinite(states_LBSD).all():
            raise errors.model_states_not_finite(transformer_of(model).name)
        for pooling in LAYER_POOLINGS:
            vectors[pooling] += list(_pool(states_LBSD, mask_BS, pooling).cpu().numpy())
        start += count
    back = np.argsort(order)
    return {pooling: np.stack(rows)[back] for pooling, rows in vectors.items()}


def _pool(states_LBSD: Tensor, mask_BS: Tensor, pooling: Pooling) -> Tensor:
    """Pool the states of every layer: ``_BLD``."""
    slot_S = torch.arange(1, mask_BS.shape[1] + 1, device=mask_BS.device)
    if pooling == "last":
        weight_BS = (slot_S == mask_BS.sum(dim=1, keepdim=True)).float()
    else:
        weight_BS = mask_BS.float() * (slot_S if pooling == "weighted-mean" else 1.0)
    return torch.einsum("lbsd,bs->bld", states_LBSD, weight_BS / weight_BS.sum(dim=1, keepdim=True))


def _write(path: Path, keys: Sequence[bytes], vectors: dict[Pooling, Vectors]) -> None:
    """Write a shard: the keys, and a tensor for each pooling and layer, so that one layer can be read alone."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[np.generic]] = {"keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)}
    for pooling, vectors_NLD in vectors.items():
        scale_NL = np.maximum(np.abs(vectors_NLD).max(axis=-1), np.finfo(np.float32).tiny) / np.float32(_LARGEST)
        for layer in range(vectors_NLD.shape[1]):
            scaled_ND = vectors_NLD[:, layer] / scale_NL[:, layer, None]
            tensors[f"{pooling}.{layer}"] = scaled_ND.astype(np.float16)
            tensors[f"{pooling}.{layer}.scale"] = scale_NL[:, layer].astype(np.float32)
    with whole_file(path, overwrite=True) as handle:
        handle.write(save(tensors))


def _folder_name(model: SentenceTransformer) -> str:
    return hashlib.blake2b(weights_key(model), digest_size=12).hexdigest()


def default_folder() -> Path:
    """Return the default folder of a store, which is in the package's cache."""
    return home().parent / "layers"
