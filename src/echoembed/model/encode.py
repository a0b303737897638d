"""Prompts to vectors in one call, for callers that render first: they see what is cut, and share prompts.

``model.encode`` is the library's, a batch of texts at a time. Here the number of prompts per forward is the engine's
business, so that its packs fill whatever the number of texts that a caller reads at once.

Shapes: N prompts, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from echoembed.engine import tokens_in_flight
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

PADDED_TEXTS = 32
"""Prompts of one padded forward, as in the library."""
PACKS = 4
"""Packs' worth of tokens that go to the engine at once: it cuts them into packs of about equal length."""


@torch.inference_mode()
def encode_prompts(
    model: SentenceTransformer,
    prompts: Sequence[Rendered],
    *,
    batch_size: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.float32]:
    """What ``model.encode`` gives for the texts that these prompts were rendered from.

    Args:
        model: From ``load``.
        prompts: N prompts from the model's reader.
        batch_size: Most prompts in one forward; None for what suits the engine.
        progress: Called after each forward with the number of prompts it took.

    Returns:
        ``vectors_ND``, float32, in the order of the prompts.

    Raises:
        ModelError: If a state is not finite.
    """
    import numpy as np
    from sentence_transformers.util import batch_to_device, truncate_embeddings

    transformer = transformer_of(model)
    model.eval()
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
    vectors_ND: NDArray[np.float32] | None = None
    for group in _groups(model, prompts, order, batch_size):
        features = batch_to_device(transformer.features([prompts[index] for index in group]), model.device)
        vectors_GD = model(features)["sentence_embedding"]
        if model.truncate_dim is not None:
            vectors_GD = truncate_embeddings(vectors_GD, model.truncate_dim)
        if vectors_ND is None:
            vectors_ND = np.empty((len(prompts), vectors_GD.shape[-1]), dtype=np.float32)
        vectors_ND[group] = vectors_GD.float().cpu().numpy()
        if progress is not None:
            progress(len(group))
    if vectors_ND is None:
        return np.empty((0, model.get_embedding_dimension() or 0), dtype=np.float32)
    return vectors_ND


def _groups(
    model: SentenceTransformer, prompts: Sequence[Rendered], order: Sequence[int], batch_size: int | None
) -> Iterator[list[int]]:
    """Numbers of prompts, longest first, as many at a time as one forward takes."""
    transformer = transformer_of(model)
    packed = transformer.selector.choice(transformer.model).engine is not None
    tokens = PACKS * tokens_in_flight(transformer.model)
    group: list[int] = []
    total = 0
    for index in order:
        full = total + len(prompts[index].ids) > tokens if packed and batch_size is None else False
        if group and (full or len(group) >= (batch_size or (len(order) if packed else PADDED_TEXTS))):
            yield group
            group, total = [], 0
        group.append(index)
        total += len(prompts[index].ids)
    if group:
        yield group
