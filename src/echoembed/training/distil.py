"""Distillation: a model is trained to give the teacher's cosines among the texts of a batch.

For each text of a batch, the softmax of the teacher's cosines to the other texts, divided by a temperature, is a
distribution over these texts, and so is the student's. A text's cosine to itself, always 1, is left out:

    loss = mean over texts i of  Σ_j p_ij (log p_ij - log q_ij),   p_i = softmax_j≠i(cos_teacher(i, j) / τ_teacher)
                                                                   q_i = softmax_j≠i(cos_student(i, j) / τ_student)

Only cosines are compared, so that the vectors of both may have any width, and no text needs a label. The student learns
about a text only from the other texts of its batch, so some of them should be close to it. Data sets of pairs can be
mixed in; a batch of pairs has the contrastive loss. (Relational distillation: Park et al. 2019; with softmax rows: Fang
et al. 2021, SEED.)

The loss of a batch, in three steps:

1. Embed the texts, in chunks that are computed again in the backward pass, so that one chunk is in memory at a time.
2. Make log-distributions of the student's and of the teacher's cosines, a row for each text.
3. Take the mean KL divergence of the student's rows from the teacher's.

Shapes: B texts of a batch, D width of the student, W width of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from echoembed.training.tables import TeacherConfig


def cosine_divergence(
    student_BD: Tensor, teacher_BW: Tensor, *, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Compute the mean over texts of the KL divergence of the student's row of cosines from the teacher's, in nats."""
    rows = []
    for vectors, temperature in ((student_BD, student_temperature), (teacher_BW, teacher_temperature)):
        unit = nn.functional.normalize(vectors.float(), dim=-1)
        cosine_BB = (unit @ unit.T) / temperature
        itself_BB = torch.eye(len(cosine_BB), dtype=torch.bool, device=cosine_BB.device)
        others = cosine_BB[~itself_BB].view(len(cosine_BB), -1)
        rows.append(nn.functional.log_softmax(others, dim=-1))
    student, teacher = rows
    return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


class DistilLoss(nn.Module):
    """The loss of distillation: the KL divergence for a batch of texts, the contrastive loss for a batch of pairs.

    Args:
        model: From ``echoembed.load``.
        config: The temperatures.
        chunk_size: Texts in memory at a time, computed again in the backward pass; None to compute all once.
        pairs: The loss of batches of pairs; None if there are none.
        gather: Whether a text is compared with the texts of all processes.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TeacherConfig,
        *,
        chunk_size: int | None = None,
        pairs: nn.Module | None = None,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.chunk_size = chunk_size
        self.pairs = pairs
        self.gather = gather

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch, a scalar in float32.

        Args:
            sentence_features: The columns of a batch from the model's ``preprocess``: one of texts, or those of pairs.
            labels: The teacher's vectors of the texts, ``_BW``; None for a batch of pairs.
        """
        columns = list(sentence_features)
        if labels is None:
            assert self.pairs is not None
            loss: Tensor = self.pairs(columns, None)
            return loss
        [features] = columns
        vectors = self._vectors(features)
        if self.gather:  # every process computes the whole batch's loss; gradients are averaged over processes
            vectors, labels = all_gather_with_grad(vectors), all_gather(labels)
        return cosine_divergence(
            vectors,
            labels,
            student_temperature=self.config.student_temperature,
            teacher_temperature=self.config.temperature,
        )

    def _vectors(self, features: dict[str, Any]) -> Tensor:
        texts = len(features["input_ids"])
        size = self.chunk_size or texts
        if size >= texts:
            return self._embedded(features)
        by_text = {name: value for name, value in features.items() if isinstance(value, Tensor) and len(value) == texts}
        vectors = []
        for start in range(0, texts, size):
            chunk = {name: value[start : start + size] for name, value in by_text.items()}
            stop = int(chunk["attention_mask"].any(dim=0).nonzero()[-1]) + 1
            chunk = {name: value[:, :stop] if value.ndim == 2 else value for name, value in chunk.items()}
            vectors.append(checkpoint(self._embedded, {**features, **chunk}, use_reentrant=False))
        return torch.cat(vectors)

    def _embedded(self, features: dict[str, Any]) -> Tensor:
        vectors: Tensor = self.model(dict(features))["sentence_embedding"]
        return vectors
