"""Weights in memory: have they changed since they were loaded, and what is saved of them."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE = 1024


def sketch(model: nn.Module) -> str:
    """A quick hash over up to ``SAMPLE`` evenly spaced numbers of every weight.

    Training moves nearly all of them, so it shows; a change of a few numbers by hand may not.
    """
    return _digest(model, SAMPLE)


def digest(model: nn.Module) -> str:
    """A hash over all weights, 40 hexadecimal digits."""
    return _digest(model, None)


@torch.no_grad()
def _digest(model: nn.Module, most: int | None) -> str:
    total = hashlib.sha1(usedforsecurity=False)
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        step = 1 if most is None else max(1, len(flat) // most)
        total.update(f"{name} {tuple(weight.shape)}\n".encode())
        total.update(flat[::step].float().cpu().numpy().tobytes())
    return total.hexdigest()


def to_save(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters merged in: itself where it has none, else a copy.

    An adapter saved by itself would be a folder that no model can be loaded from.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(merged.get_submodule(parent), child, module.get_base_layer())
    merged._hf_peft_config_loaded = False
    return merged
