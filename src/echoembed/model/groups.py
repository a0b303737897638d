"""Any number of prompts, a group at a time, so that packs are full and only one group's states are in memory.

Shapes: B prompts, D width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from echoembed.model.pooling import library_pooling
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer

FEATURE = "beside"
"""Among a module's features: the vectors ``_BD`` of each further prompt, before their calibration."""
PADDED_TEXTS = 32
"""Prompts of one padded forward, as in the library."""
PACKS = 4
"""How many packs' tokens go to the engine at once; it cuts them into packs of prompts of similar length."""


def in_groups(prompts: Sequence[Rendered], *, tokens: int | None, most: int) -> Iterator[list[int]]:
    """Yield the indices of prompts, longest first, as many at a time as one forward takes.

    Args:
        prompts: B prompts.
        tokens: The most tokens that go to the engine at once. As its states are padded, these are the number of prompts
            times the tokens of the longest. None where the forward is padded.
        most: The most prompts of a padded forward.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
    start = 0
    while start < len(order):
        longest = len(prompts[order[start]].ids)
        stop = start + (most if tokens is None else max(1, tokens // longest))
        yield order[start:stop]
        start = stop


def pool_in_groups(
    transformer: EchoTransformer, prompts: Sequence[Rendered], *, tokens: int | None, most: int
) -> dict[str, Any]:
    """Compute the pooled states of prompts, a group at a time, so that only one group's states are in memory.

    Args:
        transformer: The module that computes the states of a group.
        prompts: B prompts.
        tokens: As for ``in_groups``.
        most: As for ``in_groups``.

    Returns:
        ``token_embeddings``, ``_B1D``, which each of the library's poolings leaves unchanged; ``attention_mask``,
        ``_B1``; and the vectors of further prompts, if the recipe has some (see ``beside.py``).
    """
    pooling = library_pooling(transformer, transformer.recipe.pooling)
    vectors: list[Tensor] = []  # ``_BD`` of each prompt
    for group in in_groups(prompts, tokens=tokens, most=most):
        states = transformer({"prompts": [prompts[index] for index in group]})
        group_vectors = [pooling(states)["sentence_embedding"], *states.get(FEATURE, ())]
        if not vectors:
            vectors = [vectors_GD.new_empty(len(prompts), vectors_GD.shape[-1]) for vectors_GD in group_vectors]
        for vectors_BD, vectors_GD in zip(vectors, group_vectors, strict=True):
            vectors_BD[torch.tensor(group, device=vectors_GD.device)] = vectors_GD
    vectors_BD, *others = vectors  # nobody asks for the vectors of no prompts
    features: dict[str, Any] = {
        "token_embeddings": vectors_BD[:, None],
        "attention_mask": torch.ones(len(prompts), 1, dtype=torch.long, device=vectors_BD.device),
    }
    return features | ({FEATURE: others} if others else {})
