"""Unsupervised SimCSE: a text is its own positive, told apart by dropout alone.

Gao et al. 2021, SimCSE; BehnamGhader et al. 2024, LLM2Vec, section 2 (its third step, dropout 0.3). Every text of a
batch is embedded twice; the loss is InfoNCE between the two readings, the other texts the negatives (SimCSE's τ is
0.05). Language models are trained without dropout today, so it is switched on here: in attention, and on LoRA's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from echoembed import errors
from echoembed.model.backbone import PROBE_LENGTH
from echoembed.model.transformer import transformer_of


def prepare(model: SentenceTransformer, dropout: float) -> None:
    """Switch dropout on, in attention and on the inputs of LoRA; it acts in training only.

    Args:
        model: From ``echoembed.load``, with LoRA attached if there is to be any; changed in place.
        dropout: Probability with which an attention weight, and an input of LoRA, is dropped.

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
    """Families keep the probability as a number, under some name with "dropout", or as a module."""
    parts = [*vars(module).items(), *module.named_children()]
    for name, value in parts:
        if any(other in name for other in ("resid", "hidden", "output")):  # of what attention gives, not of its weights
            continue
        if isinstance(value, nn.Dropout):
            value.p = dropout
        elif "dropout" in name and isinstance(value, (int, float)):
            setattr(module, name, dropout)


@torch.no_grad()
def _acts(model: nn.Module) -> bool:
    """Whether two readings differ in training; torch's random state is left as it was."""
    config: Any = model.config
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    ids = torch.arange(PROBE_LENGTH, device=device)[None] % int(config.vocab_size)
    mask = torch.ones_like(ids)
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            first_BTD, second_BTD = (model(input_ids=ids, attention_mask=mask, use_cache=False)[0] for _ in range(2))
    finally:
        for module, training in modes.items():
            module.training = training
    return not torch.equal(first_BTD, second_BTD)


class SimcseLoss(nn.Module):
    """A loss between two columns of texts, given one column twice.

    Args:
        loss: InfoNCE as sentence-transformers has it; its model must have been through ``prepare``.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    @property
    def model(self) -> Any:
        """The model that is trained; the trainer looks for it before it puts a wrapped one in the loss below."""
        return self.loss.model

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of a batch, a scalar: mean over its texts, in nats; ``labels`` are not used."""
        [features] = sentence_features
        loss: Tensor = self.loss([features, dict(features)], labels)
        return loss
