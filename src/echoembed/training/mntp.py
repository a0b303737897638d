"""Masked next-token prediction, which teaches a causal model to use bidirectional attention.

BehnamGhader et al. 2024, LLM2Vec (arXiv 2404.05961), section 2: some tokens of a plain text are masked, and each is
predicted from the state of the token *before* it, as a causal model has learned to predict:

    loss = mean over masked positions i of  -log p(token_i | state_{i-1})

Texts are read as ``{bos}{text}``, whatever the recipe; its templates are used when the trained model embeds. The head
is the language model's own and is frozen; a tied head is the embedding, and is trained with it.

Shapes: B texts, T tokens of the longest, N masked tokens, D width of the model, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from echoembed import errors
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.recipe import Recipe
from echoembed.training.lm_head import LanguageModelHead
from echoembed.training.tables import MaskingConfig

PLAIN = "{bos}{text:pool}"
IGNORED = -100
"""The label of a token that is not predicted."""


def plain_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe that reads ``{bos}{text}``, with the attention and the budget of the given recipe."""
    return replace(
        recipe, query_template=PLAIN, document_template=PLAIN, markers={}, preparation="none", instruction=""
    )


def plain_text(model: SentenceTransformer) -> SentenceTransformer:
    """Return the same weights under a recipe that reads plain text; the given model does not change."""
    return under(model, plain_recipe(transformer_of(model).recipe))


class MntpLoss(nn.Module):
    """Masks tokens of a batch of plain texts, and predicts them.

    Args:
        model: From ``echoembed.load``, under a recipe with bidirectional attention and the last layer.
        masking: How many tokens are masked, and how.
        chunk_size: Texts in memory at a time; their states are computed again in the backward pass. None for all.

    Raises:
        ModelError: If the recipe is causal or cuts layers off, the model has no head, or the mask is not one token.
    """

    def __init__(self, model: SentenceTransformer, masking: MaskingConfig, *, chunk_size: int | None = None) -> None:
        super().__init__()
        transformer = transformer_of(model)
        if transformer.recipe.attention != "bidirectional":
            fault = f"the recipe {transformer.recipe.name!r} reads with {transformer.recipe.attention} attention"
            raise errors.mntp_model_unfit(transformer.name, fault, "attention = 'bidirectional'")
        if transformer.cut:
            raise cut_model(transformer.name, transformer.layers)
        self.model: nn.Module = model
        self.masking = masking
        self.chunk_size = chunk_size
        self.head = LanguageModelHead(transformer)
        self.mask_id = mask_token(transformer.pieces, masking.token)
        embeddings: Any = transformer.model.get_input_embeddings()
        vocabulary = min(len(embeddings.weight), len(transformer.tokenizer or ()))
        self.ordinary_V = torch.tensor([id_ for id_ in range(vocabulary) if id_ not in transformer.pieces.special_ids])

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Mask a batch, and compute its loss.

        Masked tokens are drawn from torch's global generator on the CPU, whatever the device.

        Args:
            sentence_features: One column of texts from ``preprocess`` of a ``plain_text`` model.
            labels: Not used; sentence-transformers' trainer passes them.

        Returns:
            The mean cross-entropy per masked token in nats, a scalar in float32. With several processes, the mean of
            their losses is the mean over all masked tokens.

        Raises:
            ModelError: If no token of the batch follows another.
        """
        [features] = sentence_features
        ids_BT, labels_BT = mask_tokens(
            features["input_ids"], features["span_mask"], self.masking, self.mask_id, self.ordinary_V
        )
        count = _per_process((labels_BT != IGNORED).sum())
        size = self.chunk_size or len(ids_BT)
        total = torch.zeros((), device=ids_BT.device)
        for start in range(0, len(ids_BT), size):
            rows = slice(start, start + size)
            chunk = (ids_BT[rows], features["attention_mask"][rows], labels_BT[rows])
            if not (chunk[2] != IGNORED).any():
                continue
            if size < len(ids_BT) and torch.is_grad_enabled():
                total = total + checkpoint(self._summed, *chunk, use_reentrant=False)
            else:
                total = total + self._summed(*chunk)
        return total / count

    def _summed(self, ids_BT: Tensor, mask_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Sum the cross-entropy of some texts."""
        longest = int(mask_BT.sum(dim=1).max())
        ids_BT, mask_BT, labels_BT = ids_BT[:, :longest], mask_BT[:, :longest], labels_BT[:, :longest]
        # The whole prompt is the span, so that all states are returned. ``self.model`` is called, as it may be wrapped.
        output = self.model({"input_ids": ids_BT, "attention_mask": mask_BT, "span_mask": mask_BT})
        states_BTD = output["token_embeddings"]
        row_N, place_N = (labels_BT != IGNORED).nonzero(as_tuple=True)
        logits_NV = self.head(states_BTD[row_N, place_N - 1])
        return nn.functional.cross_entropy(logits_NV.float(), labels_BT[row_N, place_N], reduction="sum")


def _per_process(count: Tensor) -> float:
    """Return the mean count of all processes, so that each process weighs by its number of masked tokens."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return float(count)
    total = count.clone()
    torch.distributed.all_reduce(total)
    return float(total) / torch.distributed.get_world_size()


def mask_tokens(
    ids_BT: Tensor, text_BT: Tensor, masking: MaskingConfig, mask_id: int, ordinary_V: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose tokens of texts, and mask them.

    Args:
        ids_BT: Token ids.
        text_BT: 1 for a token of a text. Special tokens and padding are never chosen, nor is a first token, which
            has no token before it.
        masking: The share of tokens to choose, and the scheme.
        mask_id: The id of the mask.
        ordinary_V: The ids that random tokens are drawn from.

    Returns:
        ``ids_BT`` with the chosen tokens masked, and ``labels_BT``: the ids of the chosen tokens, elsewhere
        ``IGNORED``.

    Raises:
        ModelError: If no token can be chosen.
    """
    # 1. Tokens of a text can be chosen if another token precedes them. All draws are made on the CPU.
    can_BT = text_BT.bool().cpu().clone()
    can_BT[:, 0] = False
    if not can_BT.any():
        raise errors.mntp_nothing_to_predict(len(ids_BT))
    # 2. Choose each with the masking's rate, but at least one, as a batch without a chosen token would have no loss.
    chosen_BT = can_BT & (torch.rand(can_BT.shape) < masking.rate)
    if not chosen_BT.any():
        places = can_BT.nonzero()
        chosen_BT[tuple(places[int(torch.randint(len(places), ()))])] = True
    # 3. Draw what a chosen token becomes: below 0.8 the mask, below 0.9 a random token, else itself.
    fate_BT = torch.rand(can_BT.shape) if masking.scheme == "80-10-10" else torch.zeros(can_BT.shape)
    random_BT = ordinary_V[torch.randint(len(ordinary_V), can_BT.shape)]
    chosen_BT, fate_BT, random_BT = (drawn.to(ids_BT.device) for drawn in (chosen_BT, fate_BT, random_BT))
    # 4. Replace the chosen tokens in the input; their ids are the labels, and other positions have none.
    masked_BT = torch.where(chosen_BT & (fate_BT < 0.8), mask_id, ids_BT)
    masked_BT = torch.where(chosen_BT & (fate_BT >= 0.8) & (fate_BT < 0.9), random_BT, masked_BT)
    return masked_BT, torch.where(chosen_BT, ids_BT, IGNORED)


def cut_model(name: str, layers: int) -> errors.ModelError:
    """Return the error for a model that has lost its last layers, and with them the states that its head reads."""
    return errors.mntp_model_unfit(name, f"it is cut at layer {layers}", "layer -1, the last")


def mask_token(pieces: PieceTokenizer, token: str) -> int:
    """Return the id of the mask: the vocabulary's entry of that name, else the text's single token.

    Raises:
        ModelError: If the text is not a single token.
    """
    id_: int | None = pieces.backend().token_to_id(token)
    if id_ is not None:
        return id_
    ids = pieces.encode([token])[0].ids
    if len(ids) != 1:
        raise errors.mntp_mask_token(token, len(ids))
    return ids[0]
