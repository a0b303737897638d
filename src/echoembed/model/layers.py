"""The pooled states of every layer, from one forward, by which a recipe's layers are chosen.

Shapes: B prompts, T tokens of the longest prompt, S tokens of the longest span, D width of the model, L layers + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor

from echoembed.model import hindsight
from echoembed.model.backbone import hooks_taken_back
from echoembed.model.pooling import check_states, gather_spans, pad
from echoembed.model.transformer import transformer_of
from echoembed.prompts.template import Rendered


@torch.inference_mode()
def layer_states(model: SentenceTransformer, prompts: Sequence[Rendered]) -> tuple[Tensor, Tensor]:
    """Compute the pooled states of every layer by the model's forward: packed where the engine passed its proof.

    All states are in memory at once, so pass only as many prompts as one forward should take.

    Args:
        model: From ``load``.
        prompts: B prompts from the model's reader.

    Returns:
        ``states_LBSD`` in float32: the token embeddings, then each layer's states, the last after the norm, padded with
        zeros on the right; and ``mask_BS`` in int64, 1 for pooled states and 0 for padding.

    Raises:
        ModelError: If a state is not finite.
    """
    transformer = transformer_of(model)
    model.eval()
    engine = transformer.choice().engine
    if engine is not None:
        states_LBSD, mask_BS = engine.states(transformer.model, prompts, layers=True)
    else:
        features = batch_to_device(pad(prompts, transformer.pad_id), model.device)
        with hooks_taken_back(transformer.model):
            output, _ = hindsight.run(
                transformer.model, transformer.recipe, prompts, features, output_hidden_states=True
            )
        pooled = [gather_spans(states_BTD, features["span_mask"]) for states_BTD in output.hidden_states]
        states_LBSD, mask_BS = torch.stack([states_BSD for states_BSD, _ in pooled]), pooled[0][1]
    check_states(states_LBSD[-1], transformer.name)
    return states_LBSD, mask_BS
