"""Pooling: prompts as padded tensors, and the states of their spans, on which the library's pooling module works.

Shapes: B texts in a batch, T tokens of the longest prompt, S tokens of the longest span, D width of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling
from torch import Tensor

from echoembed import errors
from echoembed.prompts.template import Rendered
from echoembed.recipe import Pooling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from echoembed.prompts.pieces import PieceTokenizer

# Vectors within these limits can be scaled to length 1 in float32: their squares neither underflow nor overflow.
_SMALLEST, _LARGEST = 1e-12, 1e17
# sentence-transformers' names of the poolings. Its module works on the pooled span alone (see ``gather_spans``),
# so "last" is the last pooled token, and "weighted-mean" counts positions from the beginning of the span.
LIBRARY_MODE: dict[Pooling, str] = {
    "mean": "mean",
    "last": "lasttoken",
    "first": "cls",
    "weighted-mean": "weightedmean",
    "frequency-mean": "mean",  # of states that are already pooled (see ``weighted_means``)
    "attention-mean": "mean",
}


def library_pooling(transformer: Transformer, pooling: Pooling) -> LibraryPooling:
    """Make the library's module that pools the states of a transformer."""
    module: LibraryPooling = LibraryPooling(transformer.get_embedding_dimension(), pooling_mode=LIBRARY_MODE[pooling])
    return module


def pad_id_of(model: PreTrainedModel, pad_id: int | None, pieces: PieceTokenizer) -> int:
    """Return the id of padding. It is masked, so that any id serves; one that the tokenizer added has no embedding."""
    embeddings: Any = model.get_input_embeddings()
    return pad_id if pad_id is not None and pad_id < len(embeddings.weight) else pieces.eos or 0


def pad(prompts: Sequence[Rendered], pad_id: int) -> dict[str, Tensor]:
    """Prompts as tensors, padded on the right.

    Args:
        prompts: B prompts.
        pad_id: The id that fills a row after its prompt; it is masked.

    Returns:
        ``input_ids``, ``attention_mask`` and ``span_mask`` (1 where a token is pooled), each ``_BT``, and
        ``dropped``, ``_B``, the number of tokens cut from each text; all int64.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = [[*prompt.ids, *[pad_id] * (longest - len(prompt.ids))] for prompt in prompts]
    position_T = torch.arange(longest)
    length_B1 = torch.tensor([[len(prompt.ids)] for prompt in prompts])
    span_B2 = torch.tensor([prompt.span for prompt in prompts])
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": (position_T < length_B1).long(),
        "span_mask": ((position_T >= span_B2[:, :1]) & (position_T < span_B2[:, 1:])).long(),
        "dropped": torch.tensor([prompt.dropped for prompt in prompts]),
    }


def padded_tensors(features: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return ids, mask and span mask of a module's features, each ``_BT``; None if the features hold prompts alone."""
    mask_BT = features.get("prompt_mask", features.get("attention_mask"))
    return features.get("input_ids"), mask_BT, features.get("span_mask")


def are_padded(prompts: Sequence[Rendered], ids_BT: Tensor, mask_BT: Tensor, span_BT: Tensor) -> bool:
    """Return whether the tensors are still these prompts as ``pad`` returns them; a caller may have changed them."""
    padded = pad(prompts, 0)
    pairs = [
        (ids_BT * mask_BT, padded["input_ids"]),
        (mask_BT, padded["attention_mask"]),
        (span_BT, padded["span_mask"]),
    ]
    return all(torch.equal(tensor.cpu(), expected) for tensor, expected in pairs)


def unpad(ids_BT: Tensor, mask_BT: Tensor, span_BT: Tensor) -> list[Rendered]:
    """Recover prompts (ids and spans only) from tensors that are padded on either side."""
    begin_B = mask_BT.argmax(dim=1)
    start_B = span_BT.argmax(dim=1)
    bounds_B4 = torch.stack([begin_B, begin_B + mask_BT.sum(dim=1), start_B, start_B + span_BT.sum(dim=1)], dim=1)
    return [
        Rendered(tuple(ids[begin:stop]), (start - begin, end - begin))
        for ids, (begin, stop, start, end) in zip(ids_BT.tolist(), bounds_B4.tolist(), strict=True)
    ]


def gather_spans(states_BTD: Tensor, span_mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the pooled states of each prompt, padded with zeros on the right.

    Args:
        states_BTD: States of whole prompts, in any floating dtype.
        span_mask_BT: 1 for the tokens of the span, which are consecutive.

    Returns:
        ``states_BSD`` in float32 and ``mask_BS`` in int64, 1 for pooled states and 0 for padding.
    """
    length_B = span_mask_BT.sum(dim=1)
    start_B = span_mask_BT.argmax(dim=1)
    offset_S = torch.arange(int(length_B.max()), device=states_BTD.device)
    mask_BS = offset_S < length_B[:, None]
    index_BS = torch.where(mask_BS, start_B[:, None] + offset_S, 0)
    states_BSD = states_BTD.gather(1, index_BS[:, :, None].expand(-1, -1, states_BTD.shape[-1])).float()
    return states_BSD * mask_BS[:, :, None], mask_BS.long()


def pool_each(states_BSD: Tensor, mask_BS: Tensor, pooling: Pooling) -> Tensor:
    """Pool every text by itself, so that its vector has the same bits in any batch.

    The order of a sum over a padded dimension depends on the dimension's length: the library's pooling gives a text
    other last bits in a batch with a longer text.

    Args:
        states_BSD: Pooled states in float32, padded on the right.
        mask_BS: 1 for pooled states, 0 for padding.
        pooling: The recipe's pooling.

    Returns:
        ``vectors_B1D``, which each of the library's poolings leaves unchanged.
    """
    rows = []
    for states_SD, count in zip(states_BSD, mask_BS.sum(dim=1).tolist(), strict=True):
        own_SD = states_SD[:count].clone()
        if pooling in ("first", "last"):
            rows.append(own_SD[0 if pooling == "first" else -1])
        else:
            weight_S = torch.arange(1.0, count + 1, device=own_SD.device) if pooling == "weighted-mean" else None
            weighted_SD = own_SD if weight_S is None else own_SD * weight_S[:, None]
            rows.append(weighted_SD.sum(dim=0) / (count if weight_S is None else weight_S.sum()))
    return torch.stack(rows)[:, None]


def weighted_means(states_BSD: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pool every text by itself with given weights, so that its vector has the same bits in any batch.

    Args:
        states_BSD: Pooled states in float32, padded on the right.
        weights: The weight ``_S`` of each state of each text, above 0 in all.

    Returns:
        ``vectors_B1D``, which the library's mean leaves unchanged, and ``mask_B1`` of ones, in int64.
    """
    rows = []
    for states_SD, weight_S in zip(states_BSD, weights, strict=True):
        weight_S1 = weight_S.to(states_SD.device)[:, None]
        rows.append((states_SD[: len(weight_S)] * weight_S1).sum(dim=0) / weight_S1.sum())
    vectors_B1D = torch.stack(rows)[:, None]
    return vectors_B1D, torch.ones(len(rows), 1, dtype=torch.long, device=vectors_B1D.device)


def check_states(states_BSD: Tensor, name: str) -> None:
    """Refuse states whose vector would have no direction, or could not be scaled to length 1.

    Raises:
        ModelError: If a state is not finite, or all states of a text are zero or too large to square.
    """
    if not torch.isfinite(states_BSD).all():
        raise errors.model_states_not_finite(name)
    largest_B = states_BSD.abs().amax(dim=(1, 2))
    if ((largest_B < _SMALLEST) | (largest_B > _LARGEST)).any():
        raise errors.model_states_zero(name)


def keep_layers(features: dict[str, Any], states: Sequence[Tensor], mask_BT: Tensor, span_BT: Tensor) -> dict[str, Any]:
    """Put the pooled states of every layer into the caller's features, where the library's layer losses expect them.

    ``AdaptiveLayerLoss`` pools one of these layers again from the same features, without another forward; their mask is
    then that of the pooled tokens.

    Args:
        features: The caller's features; changed in place.
        states: The states ``_BTD`` of the token embeddings and of each layer.
        mask_BT: 1 for tokens of the prompt, 0 for padding.
        span_BT: 1 for pooled tokens.

    Returns:
        The entries that were added.
    """
    pooled = [gather_spans(states_BTD, span_BT) for states_BTD in states]
    added = {
        "all_layer_embeddings": tuple(states_BSD for states_BSD, _ in pooled),
        "attention_mask": pooled[0][1],
        "prompt_mask": mask_BT,
    }
    features.update(added)
    return added
