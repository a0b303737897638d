"""From many prompts to vectors, with as many prompts in each forward as fill the engine's packs.

``encode_prompts`` is for callers that render prompts first, so that they see what was cut. For texts there is
``encode`` of the model (``model/sentence_transformers.py``).

Shapes: N prompts, G prompts of a group, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling
from sentence_transformers.util import batch_to_device, truncate_embeddings

from echoembed.model.groups import PACKS, PADDED_TEXTS, in_groups
from echoembed.model.pooling import LIBRARY_MODE
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pools_as_recipe(model: SentenceTransformer) -> bool:
    """Return whether the recipe's pooling follows our module, so that states may be pooled before it."""
    pooling = model[1] if len(model) > 1 else None
    mode = LIBRARY_MODE[transformer_of(model).recipe.pooling]
    return isinstance(pooling, LibraryPooling) and pooling.pooling_mode == mode


@torch.inference_mode()
def encode_prompts(
    model: SentenceTransformer,
    prompts: Sequence[Rendered],
    *,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Encode prompts to the vectors that ``model.encode`` returns for their texts.

    Args:
        model: From ``load``.
        prompts: N prompts from the model's reader.
        batch_size: Prompts of a padded forward; None for the library's 32. It does not limit packs.

    Returns:
        ``vectors_ND``, float32, in the order of the prompts.

    Raises:
        ModelError: If a state is not finite.
    """
    transformer = transformer_of(model)
    model.eval()
    vectors_ND: NDArray[np.float32] | None = None
    most = batch_size or PADDED_TEXTS
    engine = transformer.choice().engine
    tokens = None if engine is None else PACKS * engine.most_tokens(transformer.model)
    pooled: dict[str, Any] = {"texts_a_forward": most} if pools_as_recipe(model) else {}
    for group in in_groups(prompts, tokens=tokens, most=most):
        features = transformer.features([prompts[index] for index in group], padded=not pooled)
        vectors_GD = model(batch_to_device(features, model.device), **pooled)["sentence_embedding"]
        if model.truncate_dim is not None:
            vectors_GD = truncate_embeddings(vectors_GD, model.truncate_dim)
        if vectors_ND is None:
            vectors_ND = np.empty((len(prompts), vectors_GD.shape[-1]), dtype=np.float32)
        vectors_ND[group] = vectors_GD.float().cpu().numpy()
    if vectors_ND is None:
        return np.empty((0, model.get_embedding_dimension() or 0), dtype=np.float32)
    return vectors_ND
