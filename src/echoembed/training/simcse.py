"""Unsupervised SimCSE: a text is its own positive; its two vectors differ by dropout alone.

Gao et al. 2021, SimCSE; BehnamGhader et al. 2024, LLM2Vec, section 2 (its third step, dropout 0.3). Every text of a
batch is embedded twice; the loss is InfoNCE between the two vectors, with the other texts as negatives (SimCSE's τ is
0.05). Today's language models are trained without dropout, so it is switched on here: in attention, and on LoRA's
inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from echoembed import errors
from echoembed.engine.gradients import kept_modes
from echoembed.model.backbone import PROBE_LENGTH
from echoembed.model.transformer import transformer_of


def prepare(model: SentenceTransformer, dropout: float) -> None:
    """Switch on dropout in attention and on LoRA's inputs; it acts in training mode only.

    Args:
        model: From ``echoembed.load``, with LoRA already added if it is used; changed in place.
        dropout: The probability with which an attention weight, or an input of LoRA, is dropped.

    Raises:
        ModelError: If dropout is not between 0 and 1, or the model's attention has none.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 < dropout < 1:
        allowed = "a number between 0 and 1, both excluded: SimCSE compares two readings that differ by dropout alone"
        raise errors.ModelError.bad_value("dropout", dropout, allowed)
    transformer = transformer_of(model)
    for module in list(transformer.model.modules()):
        if "attention" in type(module).__name__.lower():
            _drop_attention(module, float(dropout))
        elif isinstance(inputs := getattr(module, "lora_dropout", None), nn.ModuleDict):
            inputs.update({name: nn.Dropout(float(dropout)) for name in inputs})
    for config in getattr(transformer.model, "peft_config", {}).values():
        config.lora_dropout = float(dropout)
    if not _acts(transformer.model):
        raise errors.dropout_without_effect(transformer.name)


def _drop_attention(module: nn.Module, dropout: float) -> None:
    """Set the dropout of attention weights, which families keep as a number, in a name with "dropout", or a module."""
    parts = [*vars(module).items(), *module.named_children()]
    for name, value in parts:
        if any(other in name for other in ("resid", "hidden", "output")):  # not of attention weights
            continue
        if isinstance(value, nn.Dropout):
            value.p = dropout
        elif "dropout" in name and isinstance(value, (int, float)):
            setattr(module, name, dropout)


@torch.no_grad()
def _acts(model: nn.Module) -> bool:
    """Return whether two forwards differ in training mode; torch's random state does not change."""
    config: Any = model.config
    device = next(model.parameters()).device
    ids = torch.arange(PROBE_LENGTH, device=device)[None] % int(config.vocab_size)
    mask = torch.ones_like(ids)
    with kept_modes(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.train()
        torch.manual_seed(0)
        states_BTD, again_BTD = (model(input_ids=ids, attention_mask=mask, use_cache=False)[0] for _ in range(2))
    return not torch.equal(states_BTD, again_BTD)


class SimcseLoss(nn.Module):
    """Gives the same column of texts twice to a loss between two columns.

    Args:
        loss: sentence-transformers' InfoNCE, with a model that was prepared by ``prepare``.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @property
    def model(self) -> Any:
        """The model in training, which the trainer looks for before it puts a wrapped model into the inner loss."""
        return self.loss.model

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch, a scalar: the mean over its texts, in nats. ``labels`` are not used."""
        [features] = sentence_features
        loss: Tensor = self.loss([features, dict(features)], labels)
        return loss
