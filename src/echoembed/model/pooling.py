"""Pooling: states and spans → what the library's pooling module averages.

Shapes: B texts in a batch, T tokens of the longest prompt, S tokens of the longest span, D width of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echoembed.recipe import Pooling

# What sentence-transformers calls the poolings. Its module works on the pooled span alone (see ``gather_spans``),
# so "last" is the last pooled token and "weighted-mean" counts positions from the beginning of the span.
LIBRARY_MODE: dict[Pooling, str] = {
    "mean": "mean",
    "last": "lasttoken",
    "first": "cls",
    "weighted-mean": "weightedmean",
}


def span_mask(spans: list[tuple[int, int]], length: int) -> Tensor:
    """Spans as a mask.

    Args:
        spans: Start and stop of each text's pooled tokens.
        length: T, to which prompts are padded.

    Returns:
        ``mask_BT``, int64, 1 where a token is pooled.
    """
    position_T = torch.arange(length)
    bounds_B2 = torch.tensor(spans)
    return ((position_T >= bounds_B2[:, :1]) & (position_T < bounds_B2[:, 1:])).long()


def gather_spans(states_BTD: Tensor, span_mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the pooled states only, moved to the left and padded with zeros on the right.

    Args:
        states_BTD: States of whole prompts, any floating dtype.
        span_mask_BT: 1 in one unbroken run of each row, the span.

    Returns:
        ``states_BSD`` in float32 and ``mask_BS`` in int64, 1 where a state is a pooled one.
    """
    length_B = span_mask_BT.sum(dim=1)
    start_B = span_mask_BT.argmax(dim=1)
    offset_S = torch.arange(int(length_B.max()), device=states_BTD.device)
    mask_BS = offset_S < length_B[:, None]
    index_BS = torch.where(mask_BS, start_B[:, None] + offset_S, 0)
    states_BSD = states_BTD.gather(1, index_BS[:, :, None].expand(-1, -1, states_BTD.shape[-1])).float()
    return states_BSD * mask_BS[:, :, None], mask_BS.long()


def pool_each(states_BSD: Tensor, mask_BS: Tensor, pooling: Pooling) -> Tensor:
    """Pool every text by itself, so that the result has the same bits whatever it is batched with.

    Sums over a padded dimension are grouped by its length: the library's pooling gives a text other last bits
    beside a longer one.

    Args:
        states_BSD: Pooled states, float32, on the left.
        mask_BS: 1 where a state is a pooled one.
        pooling: The recipe's pooling.

    Returns:
        ``vectors_B1D``: what any of the library's poolings leaves as it is.
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
