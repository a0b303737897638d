"""A cache of vectors by prompt, so that all recipes and experiments with the same prompt share them.

A task encodes a text several times; echo and compute-matched echo read the same prompt unless a text is long; and most
experiments use the same texts. Each prompt goes through the model once for all of them. If poolings are computed
``together``, the states of a prompt are pooled in each of these ways, as mean and last pooling share the same states.

Shapes: N prompts, B prompts of a batch, D width of the vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device

from echoembed.model.describe import module_identity, numerics
from echoembed.model.encode import encode_prompts
from echoembed.model.groups import PADDED_TEXTS
from echoembed.model.pooling import library_pooling
from echoembed.model.transformer import transformer_of
from echoembed.model.weights import sketch
from echoembed.prompts.template import Rendered
from echoembed.recipe import Pooling, recipes

if TYPE_CHECKING:
    from echoembed.evaluation.layers import LayerStore

Vectors = NDArray[np.float32]
MEAN_AND_LAST: tuple[Pooling, ...] = ("mean", "last")


class VectorCache:
    """Keeps vectors in memory, up to a limit.

    Args:
        most_bytes: The size of the cache; when it is full, new vectors are not kept.
        together: Poolings that are all computed whenever one of them is needed, which costs little beside the states.
        layers: A store on disk for the vectors of all layers, for prompts of the table of recipes; None for none.

    Attributes:
        computed: The number of prompts that went through a model.
    """

    def __init__(
        self, most_bytes: int = 1 << 30, *, together: tuple[Pooling, ...] = (), layers: LayerStore | None = None
    ) -> None:
        self.layers = layers
        self._cached: dict[tuple[bytes, Pooling], Vectors] = {}
        self._free = most_bytes
        self._together = together
        self.computed = 0

    def encode(
        self, model: SentenceTransformer, prompts: Sequence[Rendered], *, batch_size: int | None = None
    ) -> Vectors:
        """Encode prompts to the vectors of ``encode_prompts``: ``vectors_ND``, float32, in order."""
        if self.layers is not None and self._every_layer(model):
            return _from_layers(self.layers, model, prompts)
        pooling = transformer_of(model).recipe.pooling
        weights = weights_key(model) + after_pooling(model)
        keys = [prompt_key(weights, prompt) for prompt in prompts]
        # 1. Find the new prompts, each once.
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if (key, pooling) not in self._cached}
        self.computed += len(new)
        # 2. Compute their vectors, for this pooling and those computed together with it.
        fresh = {
            (key, pooled_by): vector_D
            for pooled_by, vectors_ND in self._vectors(model, list(new.values()), batch_size).items()
            for key, vector_D in zip(new, vectors_ND, strict=True)
        }
        result = np.stack([fresh[key, pooling] if key in new else self._cached[key, pooling] for key in keys])
        # 3. Keep them if there is room for all.
        size = sum(vector_D.nbytes for vector_D in fresh.values())
        if size <= self._free:
            self._free -= size
            self._cached.update(fresh)
        return result

    def _every_layer(self, model: SentenceTransformer) -> bool:
        """Return whether other experiments may need these prompts' vectors, at this layer or another."""
        transformer = transformer_of(model)
        row = transformer.recipe
        in_table = any(row.query_template == other.query_template for other in recipes.values())
        shared = in_table and not (transformer.cut or row.beside) and row.pooling in MEAN_AND_LAST
        return shared and not transformer.running.deterministic and model.truncate_dim is None

    def _vectors(
        self, model: SentenceTransformer, prompts: list[Rendered], batch_size: int | None
    ) -> dict[Pooling, Vectors]:
        transformer = transformer_of(model)
        own_pooling = transformer.recipe.pooling
        # Deterministic states come already pooled, in one way; a calibration was fitted to one pooling.
        fixed = transformer.recipe.calibration != "none" or bool(transformer.recipe.beside)
        alone = transformer.running.deterministic or model.truncate_dim is not None or fixed
        if own_pooling not in self._together or alone:
            return {own_pooling: encode_prompts(model, prompts, batch_size=batch_size)}
        vectors: dict[Pooling, list[Vectors]] = {pooling: [] for pooling in self._together}
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
        size = batch_size or PADDED_TEXTS
        for start in range(0, len(order), size):
            batch = [prompts[index] for index in order[start : start + size]]
            for pooling, vectors_BD in _pooled(model, batch, self._together).items():
                vectors[pooling] += list(vectors_BD)
        back = np.argsort(order)
        return {pooling: np.stack(rows)[back] for pooling, rows in vectors.items() if rows}


def _from_layers(layers: LayerStore, model: SentenceTransformer, prompts: Sequence[Rendered]) -> Vectors:
    transformer = transformer_of(model)
    last_ND = layers.vectors(model, prompts, [transformer.layers], transformer.recipe.pooling)[:, 0]
    output = {"sentence_embedding": torch.from_numpy(last_ND)}
    for module in list(model)[2:]:
        output = module(output)
    return np.ascontiguousarray(output["sentence_embedding"].numpy())


@torch.inference_mode()
def _pooled(model: SentenceTransformer, prompts: list[Rendered], poolings: Sequence[Pooling]) -> dict[Pooling, Vectors]:
    """Compute the vectors of one batch for several poolings."""
    transformer = transformer_of(model)
    model.eval()
    states = transformer(batch_to_device(transformer.features(prompts), model.device))
    vectors_BD: dict[Pooling, Vectors] = {}
    for pooling in poolings:
        output = library_pooling(transformer, pooling)(dict(states))
        for module in list(model)[2:]:
            output = module(output)
        vectors_BD[pooling] = np.ascontiguousarray(output["sentence_embedding"].float().cpu().numpy())
    return vectors_BD


def weights_key(model: SentenceTransformer) -> bytes:
    """Name all that decides the states of a prompt: the weights, attention, layer and dtype."""
    transformer = transformer_of(model)
    parts = [transformer.revision, transformer.recipe.attention, str(transformer.layers)]
    parts += [str(sketch(transformer.model)), numerics(model)]
    parts += [transformer.recipe.hindsight] if transformer.recipe.hindsight != "none" else []
    return "\n".join(parts).encode()


def after_pooling(model: SentenceTransformer) -> bytes:
    """Name all that decides a vector after its states are pooled."""
    recipe = transformer_of(model).recipe
    fitted_for = recipe.fingerprint() if recipe.calibration != "none" or recipe.beside else ""
    parts = [fitted_for, str(model.truncate_dim), *(module_identity(module) for module in list(model)[2:])]
    frequencies = transformer_of(model).frequencies
    parts += [frequencies.identity()] if recipe.counts_tokens and frequencies is not None else []
    return "\n".join(parts).encode()


def prompt_key(weights: bytes, prompt: Rendered) -> bytes:
    """Return 16 bytes that name a prompt and its span, and those of further prompts, under some weights."""
    numbers = b"beside".join(np.asarray([*part.ids, *part.span], dtype=np.int64).tobytes() for part in prompt.all)
    return hashlib.blake2b(weights + b"\0" + numbers, digest_size=16).digest()
