"""Weights in memory: whether they have changed since they were loaded, their conversion, and the weights to save."""

from __future__ import annotations

import copy
import ctypes
import hashlib
import mmap
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE = 1024
_DONT_NEED = 4  # Linux's name of the advice: MADV_DONTNEED


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


def convert(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights that a file holds, in place; rotary frequencies, which no file holds, stay as they are.

    The pages of a converted weight leave this process's memory at once, so that memory does not hold both copies.
    """
    files = _mapped_files()
    converted: dict[int, torch.Tensor] = {}  # weights that are tied share one copy, and are let go once
    for weight in model.state_dict(keep_vars=True).values():
        before = weight.data
        if not before.is_floating_point() or before.dtype == dtype:
            continue
        after = converted.get(before.data_ptr())
        if after is None or after.shape != before.shape:
            after = converted[before.data_ptr()] = before.to(dtype)
            weight.data = after
            let_go(before, files)
        weight.data = after


def let_go(unused: torch.Tensor, files: list[range] | None = None) -> None:
    """Take the pages of a tensor out of this process's memory, if they are those of a mapped file.

    The file's pages stay in the system's cache, and are mapped again if they are read again. A tensor in memory of its
    own is left alone, and so is every tensor on a system other than Linux.

    Args:
        unused: A tensor that is not used again.
        files: The addresses at which files are mapped; None to look them up.
    """
    start = -(-unused.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (unused.data_ptr() + unused.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    files = _mapped_files() if files is None else files
    if start < end and unused.device.type == "cpu" and any(start in place and end - 1 in place for place in files):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)


def _mapped_files() -> list[range]:
    """Return the addresses at which this process has mapped files; none on a system other than Linux."""
    if sys.platform != "linux":
        return []
    places = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            start, end = (int(address, 16) for address in addresses.split("-"))
            places.append(range(start, end))
    return places


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
