"""The head of a language model, apart from its body: states → logits.

``echoembed.load`` leaves the head out, as embedding has no use for it. Here it is read from the same checkpoint. What
a family does to its logits (scaling, soft caps) is its own code's business: its causal language model is kept without
its body, and handed states where it expects the body's.

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
    """What turns states into logits. Its own weights do not learn; a tied one is the embedding, as it is now.

    Args:
        transformer: A loaded model with all of its layers.

    Raises:
        ModelError: If the model is no causal language model, or its checkpoint has lost the head.
    """

    def __init__(self, transformer: EchoTransformer) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        )

        super().__init__()
        kind = transformer.model.config.model_type
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            allowed = "a causal language model; a masked one has learned this already"
            raise errors.mntp_model_unfit(transformer.name, f"{kind!r} is no causal language model", allowed)
        with quiet(bar=False):
            # In the checkpoint's own dtype, as it is there for a moment only beside the body that was loaded before.
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
        setattr(whole, whole.base_model_prefix, _Given())
        weight = next(name for name, module in whole.named_modules() if module is output) + ".weight"
        # Not a submodule: the body belongs to the trainer's model already, and its weights must be counted once.
        self._body = [transformer.model]
        self._tied = weight if transformer.model.config.get_text_config().tie_word_embeddings else None
        if self._tied:
            output.weight = None
        if lost := sorted(set(dict(whole.named_parameters())) & set(map(str, info["missing_keys"]))):
            raise errors.head_missing(transformer.name, lost[0])
        self.whole = whole.to(transformer.model.device, transformer.model.dtype).requires_grad_(False)

    def forward(self, states_ND: Tensor) -> Tensor:
        """``states_ND`` after the last norm → ``logits_NV``."""
        ids_1N = torch.zeros(1, len(states_ND), dtype=torch.long, device=states_ND.device)
        given = getattr(self.whole, self.whole.base_model_prefix)
        given.states_1ND = states_ND[None]
        try:
            tied: Any = self._body[0].get_input_embeddings()
            weights = {self._tied: tied.weight} if self._tied else {}
            output = functional_call(self.whole, weights, kwargs={"input_ids": ids_1N, "use_cache": False})
        finally:
            given.states_1ND = None
        logits_NV: Tensor = output.logits[0]
        return logits_NV


class _Given(nn.Module):
    """Stands where the body was and gives the states it was handed."""

    states_1ND: Tensor | None = None

    @property
    def decoder(self) -> _Given:  # OPT asks the body's inside
        return self

    def forward(self, *_: object, **__: object) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.states_1ND)
