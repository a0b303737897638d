"""Other forwards for some of a model's modules while a pack runs.

What is replaced, and by what, is prepared once for each model and worn pack by pack. A model that was changed since
(a layer put into eight bits, an adapter, another dtype or device) is prepared anew.
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
    """What is worn.

    Attributes:
        state: The model as it was when this was prepared: its modules, and the type and place of its weights.
        forwards: Modules, each with its other forward.
        rotations: Modules of transformers' code, each with its other function that rotates queries and keys.
    """

    state: tuple[object, ...]
    forwards: tuple[tuple[nn.Module, Forward], ...]
    rotations: tuple[tuple[ModuleType, Forward], ...]


_PREPARED: WeakKeyDictionary[nn.Module, dict[tuple[bool, bool], _Patches]] = WeakKeyDictionary()


@contextmanager
def patched(model: nn.Module, *, fast_linear: bool = True, light: bool = True) -> Iterator[None]:
    """Let the model's modules run with other forwards for a while; a module that has one already keeps it.

    Args:
        model: The language model.
        fast_linear: Whether float32 products go to oneDNN.
        light: Whether norms, gates and rotations take fewer passes over memory.
    """
    patches = _prepared(model, fast_linear, light)
    with worn(patches.forwards, patches.rotations):
        yield


@contextmanager
def worn(
    forwards: Sequence[tuple[nn.Module, Forward]], rotations: Sequence[tuple[ModuleType, Forward]]
) -> Iterator[None]:
    """Let modules run with other forwards, and families' code with other rotations, for a while."""
    forwards = [(module, forward) for module, forward in forwards if "forward" not in module.__dict__]
    own = [(home, getattr(home, fused.ROTATION)) for home, _ in rotations]
    try:
        for module, forward in forwards:
            module.__dict__["forward"] = forward
        for home, rotation in rotations:
            setattr(home, fused.ROTATION, rotation)
        yield
    finally:
        for home, rotation in own:
            setattr(home, fused.ROTATION, rotation)
        for module, _ in forwards:
            module.__dict__.pop("forward", None)


@contextmanager
def replaced(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Let another function be one module's forward for a while, over whatever stands in for it already."""
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
def _prepared(model: nn.Module, fast_linear: bool, light: bool) -> _Patches:
    weight = next(model.parameters())
    state = (*map(id, model.modules()), weight.dtype, weight.device)
    known = _PREPARED.setdefault(model, {})
    patches = known.get((fast_linear, light))
    if patches is None or patches.state != state:
        forwards = onednn.forwards(model) if fast_linear else []
        forwards += fused.forwards(model) if light else []
        rotations = fused.rotations(model) if light else []
        patches = known[fast_linear, light] = _Patches(state, tuple(forwards), tuple(rotations))
    return patches
