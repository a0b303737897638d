"""One forward of a transformer: features of prompts, and their states by the engine or by the plain padded forward.

Shapes: B prompts, T tokens of the longest one, S tokens of the longest span, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor

from echoembed import errors
from echoembed.engine import PackedEngine
from echoembed.engine.gradients import TrainingEngine
from echoembed.model import hindsight
from echoembed.model.padded import in_parts
from echoembed.model.pooling import (
    are_padded,
    gather_spans,
    keep_layers,
    pad,
    padded_tensors,
    unpad,
    weighted_means,
)
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer


def features_of(transformer: EchoTransformer, prompts: Sequence[Rendered], *, padded: bool) -> dict[str, Any]:
    """Make the features of prompts, as ``EchoTransformer.features`` describes."""
    embeddings: Any = transformer.model.get_input_embeddings()
    if (largest := max(max(prompt.ids) for whole in prompts for prompt in whole.all)) >= len(embeddings.weight):
        raise errors.model_token_unknown(transformer.name, largest, len(embeddings.weight))
    if not padded or transformer.recipe.needs_prompts:
        return {"prompts": list(prompts), "dropped": torch.tensor([prompt.dropped for prompt in prompts])}
    features: dict[str, Any] = pad(prompts, transformer.pad_id)
    if torch.is_inference_mode_enabled():  # ``forward`` is next; in training the library may slice the tensors
        features["prompts"] = list(prompts)
    return features


def pooled_states(
    transformer: EchoTransformer,
    features: dict[str, Any],
    prompts: Sequence[Rendered] | None,
    engine: PackedEngine | TrainingEngine | None,
    caller: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The states that are pooled.

    Args:
        transformer: Whose model runs.
        features: ``input_ids``, ``attention_mask`` and ``span_mask`` (``_BT``), or nothing where ``prompts`` are given;
            what the library's layer losses look for is added.
        prompts: The prompts, if they are known.
        engine: What runs; None for the padded forward.
        caller: The features as they were given, where layer losses look.

    Returns:
        ``states_BSD`` in float32, on the left and zeros after them, and ``mask_BS`` in int64; of a recipe that weighs
        them, the vectors ``_B1D`` and ``mask_B1``.

    Raises:
        ModelError: If prompts are needed and not known.
    """
    recipe = transformer.recipe
    if not (recipe.looks_back or recipe.pooling == "frequency-mean"):
        return _states(transformer, features, prompts, engine, caller)
    if prompts is None:
        raise errors.ModelError.bad_value("features", None, "what preprocess gives: with 'prompts' among them")
    weights = None
    if recipe.looks_back:
        tensors = batch_to_device(pad(prompts, transformer.pad_id), transformer.model.device)
        output, weights = hindsight.run(transformer.model, recipe, prompts, tensors)
        states_BSD, mask_BS = gather_spans(output.last_hidden_state, tensors["span_mask"])
    else:
        states_BSD, mask_BS = _states(transformer, features, prompts, engine, caller)
    if recipe.pooling == "frequency-mean":
        assert transformer.frequencies is not None  # counted when the transformer was made
        weights = transformer.frequencies.weights(prompts)
    return (states_BSD, mask_BS) if weights is None else weighted_means(states_BSD, weights)


def _states(
    transformer: EchoTransformer,
    features: dict[str, Any],
    prompts: Sequence[Rendered] | None,
    engine: PackedEngine | TrainingEngine | None,
    caller: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Return the states that are pooled, as ``pooled_states`` does, of an ordinary recipe."""
    model = transformer.model
    # 1. Where the model did not pass a proof, and in training without an engine of its own: the padded forward.
    if engine is None:
        if "input_ids" not in features:
            assert prompts is not None  # features have one or the other
            features |= batch_to_device(pad(prompts, transformer.pad_id), model.device)
        ids_BT, mask_BT, span_BT = padded_tensors(features)
        output = in_parts(
            model, mask_BT, lambda *part: model(input_ids=ids_BT[part], attention_mask=mask_BT[part], use_cache=False)
        )
        if output.get("hidden_states") is not None:
            features |= keep_layers(caller, output.hidden_states, mask_BT, span_BT)
        return gather_spans(output.last_hidden_state, span_BT)
    # 2. Else the engine, which takes prompts as the reader made them.
    ids_BT, mask_BT, span_BT = padded_tensors(features)
    if prompts is None or (ids_BT is not None and not are_padded(prompts, ids_BT, mask_BT, span_BT)):
        prompts = unpad(ids_BT, mask_BT, span_BT)
    return engine.states(model, prompts)
