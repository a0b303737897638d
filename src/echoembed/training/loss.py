"""The contrastive loss: InfoNCE over all positives and hard negatives of a batch, one direction.

    loss = mean over queries i of  -log( exp(cos(q_i, p_i) / τ) / Σ_d exp(cos(q_i, d) / τ) )

with d over every positive and every hard negative of the batch, of all processes: the paper's equation 3, whose
denominator lists the negatives only where every implementation, and we, count the positive too; τ = 1/50.

Three ways to the same gradient, that of the whole batch:

1. GradCache (Gao et al. 2021), the library's: every chunk is embedded without gradients; the loss of all vectors gives
   the gradient of each vector; every chunk is embedded again, with gradients, and takes its vectors' gradients back
   into the weights. The memory is that of one chunk.
2. Chunk by chunk, once: the activations of all chunks stay in memory, which saves a quarter of the work.
3. A batch that fits one chunk is embedded at once.

Shapes: B texts of a batch, D width of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )


def contrastive_loss(
    model: SentenceTransformer,
    *,
    temperature: float,
    chunk_size: int,
    rows: int | None = None,
    gather: bool = False,
    gradient_cache: bool = True,
) -> CachedMultipleNegativesRankingLoss | MultipleNegativesRankingLoss:
    """InfoNCE on columns query, positive and any number of hard negatives.

    Args:
        model: Whose vectors are compared, by cosine.
        temperature: τ.
        chunk_size: Rows of one column in memory at a time.
        rows: Rows of a process's batch, where that is known: if they fit one chunk, they are embedded once, not twice.
        gather: Whether the documents of all processes are every query's candidates.
        gradient_cache: Whether chunks are embedded twice, so that one at a time is in memory; else once, and all are.

    Returns:
        A loss as sentence-transformers' trainer takes it: ``loss(features, labels)`` is a scalar, float32.
    """
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    if not gradient_cache:
        chunks: Any = ChunkByChunk(model, chunk_size)  # the library wants its own class, and uses what any module has
        return MultipleNegativesRankingLoss(chunks, scale=1 / temperature, gather_across_devices=gather)
    if rows is not None and rows <= chunk_size:
        return MultipleNegativesRankingLoss(model, scale=1 / temperature, gather_across_devices=gather)
    return CachedMultipleNegativesRankingLoss(
        model, scale=1 / temperature, mini_batch_size=chunk_size, gather_across_devices=gather
    )


class ChunkByChunk(nn.Module):
    """A model that reads a batch some texts at a time.

    Args:
        model: What reads; the trainer puts a wrapped one in its place.
        chunk_size: Texts at a time.
    """

    def __init__(self, model: SentenceTransformer, chunk_size: int) -> None:
        super().__init__()
        self.model = model
        self.chunk_size = chunk_size

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """The vectors of B texts, ``sentence_embedding`` (``_BD``), from ``features`` as the model takes them."""
        texts = len(features["input_ids"])
        by_text = {name: value for name, value in features.items() if isinstance(value, Tensor) and len(value) == texts}
        vectors = []
        for start in range(0, texts, self.chunk_size):
            chunk = {name: value[start : start + self.chunk_size] for name, value in by_text.items()}
            # As the library's GradCache does: a chunk keeps no column that only other chunks need.
            stop = int(chunk["attention_mask"].any(dim=0).nonzero()[-1]) + 1
            chunk = {name: value[:, :stop] if value.ndim == 2 else value for name, value in chunk.items()}
            vectors.append(self.model({**features, **chunk})["sentence_embedding"])
        return {"sentence_embedding": torch.cat(vectors)}
