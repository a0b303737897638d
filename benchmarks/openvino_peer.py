"""OpenVINO as a peer: the model's padded forward, converted, with the same prompts, batches and pooling.

Shapes: B texts of a batch, T tokens of the longest prompt, D width of the model, N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn


class _States(nn.Module):
    """The module to convert: from ids and mask to the last states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return states


class OpenVino:
    """Echo embeddings by OpenVINO on the CPU, float32, one thread.

    Args:
        model: The embedder whose prompts, spans and weights are used; pooled by the mean.
        batch_size: Texts of a batch, sorted by length before.

    Raises:
        ImportError: If ``openvino`` is not installed.
    """

    def __init__(self, model: SentenceTransformer, batch_size: int) -> None:
        import openvino

        self.first: Any = model[0]
        self.batch_size = batch_size
        ids_BT = torch.randint(3, 100, (2, 9))
        mask_BT = torch.ones_like(ids_BT)
        mask_BT[0, 6:] = 0
        with torch.no_grad():
            converted = openvino.convert_model(
                _States(self.first.model).eval(), example_input={"input_ids": ids_BT, "attention_mask": mask_BT}
            )
        settings = {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self.compiled = openvino.Core().compile_model(converted, "CPU", settings)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, ``_ND`` in the order of the texts."""
        rendered = self.first.reader.render(texts)
        order = sorted(range(len(texts)), key=lambda index: -len(rendered[index].ids))
        vectors: list[np.ndarray | None] = [None] * len(texts)
        for start in range(0, len(order), self.batch_size):
            group = order[start : start + self.batch_size]
            longest = max(len(rendered[index].ids) for index in group)
            ids_BT = np.full((len(group), longest), self.first.pad_id, np.int64)
            mask_BT = np.zeros_like(ids_BT)
            for row, index in enumerate(group):
                ids_BT[row, : len(rendered[index].ids)] = rendered[index].ids
                mask_BT[row, : len(rendered[index].ids)] = 1
            states_BTD = self.compiled([ids_BT, mask_BT])[0]
            for row, index in enumerate(group):
                vectors[index] = states_BTD[row, slice(*rendered[index].span)].mean(axis=0)
        out_ND = np.stack([vector for vector in vectors if vector is not None])
        return out_ND / np.linalg.norm(out_ND, axis=1, keepdims=True)

    def check(self, model: SentenceTransformer, texts: list[str]) -> float:
        """Return the least cosine between its vectors and ours, which shows that both do the same work."""
        return float((self.encode(texts) * model.encode(texts)).sum(axis=1).min())
