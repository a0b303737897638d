"""Vectors remembered by what the model read, so that experiments share them.

Echo and compute-matched echo read the same prompt unless a text is long, mean and last pooling read the same states,
and most experiments use the same texts: each prompt goes through the model once for all of them. Vectors are those of
``model.encode``, made by the model's own modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device

from echoembed.model.pooling import library_pooling
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Rendered
from echoembed.recipe import Pooling

Vectors = NDArray[np.float32]
TOGETHER: tuple[Pooling, ...] = ("mean", "last")
"""Poolings that are made whenever one of them is asked for: they cost nothing beside the states."""


class Memory:
    """Remembers vectors.

    Args:
        most_bytes: Beyond this, what is new is no longer kept.

    Attributes:
        computed: Prompts that went through a model.
        reused: Prompts that did not have to.
    """

    def __init__(self, most_bytes: int = 1 << 30) -> None:
        self._kept: dict[tuple[bytes, str], Vectors] = {}
        self._free = most_bytes
        self.computed = 0
        self.reused = 0

    def attach(self, model: SentenceTransformer) -> SentenceTransformer:
        """Make ``model.encode`` remember; returns the model."""

        def encode(
            texts: Sequence[str],
            *,
            prompt: str | None = None,
            task: str | None = None,
            batch_size: int = 32,
            **_: Any,  # noqa: ANN401
        ) -> Vectors:
            return self.encode(model, texts, prompt=prompt, task=task, batch_size=batch_size)

        model.encode = encode  # type: ignore[assignment, method-assign]
        return model

    def encode(
        self,
        model: SentenceTransformer,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        task: str | None = None,
        batch_size: int = 32,
    ) -> Vectors:
        """What ``model.encode`` gives: float32, (N, D), in order."""
        transformer = transformer_of(model)
        rendered = transformer.reader.render(texts, task=task, instruction=prompt)
        attention, dtype = transformer.recipe.attention, transformer.model.dtype
        weights = f"{transformer.name} {transformer.revision} {dtype} {attention} {transformer.layers}"
        after = "".join(type(module).__name__ for module in list(model)[2:])
        keys = [_digest(weights + after, prompt_) for prompt_ in rendered]
        own = transformer.recipe.pooling
        new = {key: place for place, key in enumerate(keys) if (key, own) not in self._kept}
        order = sorted(new.values(), key=lambda place: -len(rendered[place].ids))
        self.computed += len(order)
        self.reused += len(keys) - len(order)
        fresh: dict[tuple[bytes, str], Vectors] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = _pooled(model, [rendered[place] for place in batch])
            for pooling, vectors_BD in found.items():
                fresh.update({(keys[place], pooling): row for place, row in zip(batch, vectors_BD, strict=True)})
        size = sum(vector.nbytes for vector in fresh.values())
        result = np.stack([fresh[key, own] if (key, own) in fresh else self._kept[key, own] for key in keys])
        if size <= self._free:
            self._free -= size
            self._kept.update(fresh)
        return result


def _digest(weights: str, rendered: Rendered) -> bytes:
    read = np.asarray([*rendered.ids, *rendered.span], dtype=np.int64).tobytes()
    return hashlib.blake2b(weights.encode() + b"\0" + read, digest_size=16).digest()


@torch.inference_mode()
def _pooled(model: SentenceTransformer, prompts: list[Rendered]) -> dict[Pooling, Vectors]:
    """Vectors of one batch under the recipe's pooling, and under those that come with it."""
    transformer = transformer_of(model)
    features = batch_to_device(transformer.features(prompts), model.device)
    states = transformer(features)
    own = transformer.recipe.pooling
    found: dict[Pooling, Vectors] = {}
    for pooling in TOGETHER if own in TOGETHER else (own,):
        output = library_pooling(transformer, pooling)(dict(states))
        for module in list(model)[2:]:
            output = module(output)
        found[pooling] = np.ascontiguousarray(output["sentence_embedding"].float().cpu().numpy())
    return found
