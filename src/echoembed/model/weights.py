"""Weights in memory: whether they have changed since they were loaded, and the weights to save."""

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
    """Hash up to ``SAMPLE`` evenly spaced numbers of every weight, which is quick.

    Training changes nearly all numbers, and so the hash; a change of a few numbers by hand may go unnoticed.
    """
    return _digest(model, SAMPLE)


def digest(model: nn.Module) -> str:
    """Hash all weights to 40 hexadecimal digits."""
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
    """Return the model to save: itself if it has no adapters, else a copy with its adapters merged.

    An adapter saved alone would be a folder from which no model can be loaded.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    merged = copy.deepcopy(model)
    replaced: list[str] = []
    for name, module in list(merged.named_modules()):
        if name.startswith(tuple(f"{above}." for above in replaced)):
            continue
        if isinstance(module, AuxiliaryTrainingWrapper):  # embeddings of which some rows are trained
            whole = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        elif isinstance(module, BaseTunerLayer):
            module.merge()
            whole = module.get_base_layer()
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(merged.get_submodule(parent), child, whole)
        replaced.append(name)
    merged._hf_peft_config_loaded = False
    return merged
