"""The head of a language model without its body: from states to logits.

``echoembed.load`` leaves out the head, as embeddings do not need it. Here it is read from the same checkpoint. Families
scale or soft-cap their logits, so that their own code must run: the family's causal language model is loaded, and a
stand-in that returns given states takes the place of its body.

Shapes: N states, D width of the model, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from echoembed import errors
from echoembed.model.backbone import quiet
from echoembed.model.trust import safe_config

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer


class LanguageModelHead(nn.Module):
    """Computes logits from states. Its own weights are frozen; a tied head uses the model's embeddings as they are now.

    Args:
        transformer: A loaded model with all of its layers.

    Raises:
        ModelError: If the model is no causal language model, or its checkpoint has lost the head.
    """

    def __init__(self, transformer: EchoTransformer) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__()
        check_kind(transformer.name, transformer.model.config.model_type)
        with quiet(bar=False):
            # In the checkpoint's own dtype, as this second copy of the body takes memory until it is dropped below.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                transformer.weights_folder,
                config=safe_config(transformer.weights_folder, transformer.name),
                dtype="auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        whole, info = loaded
        output = whole.get_output_embeddings()
        setattr(whole, whole.base_model_prefix, _GivenStates())
        weight = next(name for name, module in whole.named_modules() if module is output) + ".weight"
        # In a list, and so no submodule: the body's weights already belong to the trainer's model.
        self._body = [transformer.model]
        self._tied = weight if transformer.model.config.get_text_config().tie_word_embeddings else None
        if self._tied:
            output.weight = None
        if lost := sorted(set(dict(whole.named_parameters())) & set(map(str, info["missing_keys"]))):
            raise errors.head_missing(transformer.name, lost[0])
        self.whole = whole.to(transformer.model.device, transformer.model.dtype).requires_grad_(False)

    def forward(self, states_ND: Tensor) -> Tensor:
        """Compute ``logits_NV`` from ``states_ND`` after the last norm."""
        ids_1N = torch.zeros(1, len(states_ND), dtype=torch.long, device=states_ND.device)
        body = getattr(self.whole, self.whole.base_model_prefix)
        body.states_1ND = states_ND[None]
        try:
            tied: Any = self._body[0].get_input_embeddings()
            weights = {self._tied: tied.weight} if self._tied else {}
            output = functional_call(self.whole, weights, kwargs={"input_ids": ids_1N, "use_cache": False})
        finally:
            body.states_1ND = None
        logits_NV: Tensor = output.logits[0]
        return logits_NV


def check_kind(name: str, kind: str) -> None:
    """Refuse a model of a kind that does not predict the next token.

    Raises:
        ModelError: If it is no causal language model.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        allowed = "a causal language model; a masked one has learned this already"
        raise errors.mntp_model_unfit(name, f"{kind!r} is no causal language model", allowed)


class _GivenStates(nn.Module):
    """Takes the place of the body, and returns the states that it was given."""

    states_1ND: Tensor | None = None

    @property
    def decoder(self) -> _GivenStates:  # OPT asks for the body's decoder
        return self

    def forward(self, *_: object, **__: object) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.states_1ND)
