"""Replacement forwards for some of a model's modules while a pack runs.

The replacements are prepared once per model and put in place for each pack. They are prepared again if the model has
changed since (a layer in int8, an adapter, another dtype or device).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from echoembed.engine import fused, onednn

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Patches:
    """The replacements for one model.

    Attributes:
        state: The model that the replacements were prepared for: its modules, and its weights' dtype and device.
        forwards: The model's modules, each with its replacement forward.
        rotations: Python modules of transformers, each with its replacement for ``apply_rotary_pos_emb``.
    """

    state: tuple[object, ...]
    forwards: tuple[tuple[nn.Module, Forward], ...]
    rotations: tuple[tuple[ModuleType, Forward], ...]


_PREPARED: WeakKeyDictionary[nn.Module, dict[tuple[bool, bool], _Patches]] = WeakKeyDictionary()


@contextmanager
def patched(model: nn.Module, *, fast_linear: bool = True, fuse: bool = True) -> Iterator[None]:
    """Let the model's modules run with replacement forwards inside a ``with`` block.

    A module whose forward is already replaced keeps that replacement.

    Args:
        model: The language model.
        fast_linear: Whether float32 products go to oneDNN.
        fuse: Whether norms, gates and rotary positions take fewer passes over memory.
    """
    patches = _prepared(model, fast_linear, fuse)
    with replacements(patches.forwards, patches.rotations):
        yield


@contextmanager
def replacements(
    forwards: Sequence[tuple[nn.Module, Forward]], rotations: Sequence[tuple[ModuleType, Forward]]
) -> Iterator[None]:
    """Put replacement forwards and rotations in place inside a ``with`` block."""
    forwards = [(module, forward) for module, forward in forwards if "forward" not in module.__dict__]
    originals = [(home, getattr(home, fused.ROTATION)) for home, _ in rotations]
    try:
        for module, forward in forwards:
            module.__dict__["forward"] = forward
        for home, rotation in rotations:
            setattr(home, fused.ROTATION, rotation)
        yield
    finally:
        for home, rotation in originals:
            setattr(home, fused.ROTATION, rotation)
        for module, _ in forwards:
            module.__dict__.pop("forward", None)


@contextmanager
def replaced(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Replace one module's forward inside a ``with`` block, even if it is replaced already."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@torch.no_grad()
def _prepared(model: nn.Module, fast_linear: bool, fuse: bool) -> _Patches:
    weight = next(model.parameters())
    state = (*map(id, model.modules()), weight.dtype, weight.device)
    prepared = _PREPARED.setdefault(model, {})
    patches = prepared.get((fast_linear, fuse))
    if patches is None or patches.state != state:
        forwards = onednn.forwards(model) if fast_linear else []
        forwards += fused.forwards(model) if fuse else []
        rotations = fused.rotations(model) if fuse else []
        patches = prepared[fast_linear, fuse] = _Patches(state, tuple(forwards), tuple(rotations))
    return patches
