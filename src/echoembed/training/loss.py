"""The contrastive loss: InfoNCE over all positives and hard negatives of a batch, one direction.

    loss = mean over queries i of  -log( exp(cos(q_i, p_i) / τ) / Σ_d exp(cos(q_i, d) / τ) )

with d over every positive and every hard negative of the batch, of all processes, and τ = 1/50. This is the paper's
equation 3, except that the equation's denominator lists only negatives; all implementations, and ours, include the
positive.

There are three ways to compute the gradient of the whole batch, with the same result:

1. GradCache (Gao et al. 2021), as implemented by the library: every chunk is embedded without gradients; the loss of
   all vectors gives the gradient of each vector; every chunk is embedded again, with gradients, and the gradients of
   its vectors flow into the weights. Only one chunk's activations are in memory at a time.
2. Chunk by chunk, once: the activations of all chunks stay in memory, which saves a quarter of the work.
3. A batch that fits into one chunk is embedded at once.

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
    """Make the InfoNCE loss of the columns query, positive and any number of hard negatives.

    Args:
        model: The model whose vectors are compared, by cosine.
        temperature: τ.
        chunk_size: Rows of one column in memory at a time.
        rows: Rows of a process's batch, if known; a batch that fits into one chunk is embedded once.
        gather: Whether the documents of all processes are candidates for every query.
        gradient_cache: Whether chunks are embedded twice, so that one chunk is in memory at a time; if not, they are
            embedded once, and all are in memory.

    Returns:
        A loss for sentence-transformers' trainer: ``loss(features, labels)`` is a scalar in float32.
    """
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    if not gradient_cache:
        chunks: Any = ChunkByChunk(model, chunk_size)  # Any: the library's annotation asks for its own class
        return MultipleNegativesRankingLoss(chunks, scale=1 / temperature, gather_across_devices=gather)
    if rows is not None and rows <= chunk_size:
        return MultipleNegativesRankingLoss(model, scale=1 / temperature, gather_across_devices=gather)
    return CachedMultipleNegativesRankingLoss(
        model, scale=1 / temperature, mini_batch_size=chunk_size, gather_across_devices=gather
    )


class ChunkByChunk(nn.Module):
    """A model that embeds a batch in chunks.

    Args:
        model: The model; the trainer may replace it by a wrapped one.
        chunk_size: Texts of a chunk.
    """

    def __init__(self, model: SentenceTransformer, chunk_size: int) -> None:
        super().__init__()
        self.model = model
        self.chunk_size = chunk_size

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the vectors of B texts, ``sentence_embedding`` (``_BD``), from the model's features."""
        texts = len(features["input_ids"])
        by_text = {name: value for name, value in features.items() if isinstance(value, Tensor) and len(value) == texts}
        vectors = []
        for start in range(0, texts, self.chunk_size):
            chunk = {name: value[start : start + self.chunk_size] for name, value in by_text.items()}
            # As in the library's GradCache, cut the columns that only longer texts of other chunks need.
            stop = int(chunk["attention_mask"].any(dim=0).nonzero()[-1]) + 1
            chunk = {name: value[:, :stop] if value.ndim == 2 else value for name, value in chunk.items()}
            vectors.append(self.model({**features, **chunk})["sentence_embedding"])
        return {"sentence_embedding": torch.cat(vectors)}
