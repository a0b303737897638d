"""The contrastive loss: InfoNCE over all positives and hard negatives of a batch, one direction.

    loss = mean over queries i of  -log( exp(cos(q_i, p_i) / τ) / Σ_d exp(cos(q_i, d) / τ) )

with d over every positive and every hard negative of the batch, of all processes: the paper's equation 3, whose
denominator lists the negatives only where every implementation, and we, count the positive too; τ = 1/50.

The library's GradCache (Gao et al. 2021) embeds the batch in chunks twice, first without gradients: the gradient is
the whole batch's, the memory that of one chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
) -> CachedMultipleNegativesRankingLoss | MultipleNegativesRankingLoss:
    """InfoNCE on columns query, positive and any number of hard negatives.

    Args:
        model: Whose vectors are compared, by cosine.
        temperature: τ.
        chunk_size: Rows of one column in memory at a time.
        rows: Rows of a process's batch, where that is known: if they fit one chunk, they are embedded once, not twice.
        gather: Whether the documents of all processes are every query's candidates.

    Returns:
        A loss as sentence-transformers' trainer takes it: ``loss(features, labels)`` is a scalar, float32.
    """
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    if rows is not None and rows <= chunk_size:
        return MultipleNegativesRankingLoss(model, scale=1 / temperature, gather_across_devices=gather)
    return CachedMultipleNegativesRankingLoss(
        model, scale=1 / temperature, mini_batch_size=chunk_size, gather_across_devices=gather
    )
