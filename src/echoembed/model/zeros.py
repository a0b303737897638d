"""A guard against zero vectors, which later modules, or a cut to the first dimensions, can make of pooled states.

Shapes: B texts in a batch, D width of their vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from echoembed import errors


def guard(model: SentenceTransformer) -> None:
    """Make a model refuse zero vectors."""
    if _refuse_zero not in model._forward_hooks.values():
        model.register_forward_hook(_refuse_zero)


def guard_caller(transformer: nn.Module) -> None:
    """Guard a model that the library has loaded itself, and which we know only as our caller.

    Args:
        transformer: The first module, which is about to read texts.
    """
    if not torch.is_inference_mode_enabled():
        return
    for frame in _callers():
        model = frame.f_locals.get("self")
        if isinstance(model, SentenceTransformer) and len(model) and model[0] is transformer:
            guard(model)
            return


def _refuse_zero(model: nn.Module, _: object, features: dict[str, Tensor]) -> None:
    """Refuse vectors that are zero as ``encode`` returns them: whole, or cut to their first dimensions."""
    vectors_BD = features.get("sentence_embedding")
    if model.training or vectors_BD is None or bool((vectors_BD[:, 0] != 0).all()):
        return
    kept = _dimensions(model)
    if bool((vectors_BD[:, :kept] == 0).all(dim=-1).any()):
        raise errors.vector_zero(vectors_BD.shape[-1] if kept is None else kept)


def _dimensions(model: nn.Module) -> int | None:
    """Return how many dimensions ``encode`` will keep, read from its frame, as it passes the number to no module."""
    for frame in _callers():
        if frame.f_locals.get("self") is model and "truncate_dim" in frame.f_locals:
            return frame.f_locals["truncate_dim"]  # type: ignore[no-any-return]
    return getattr(model, "truncate_dim", None)


def _callers() -> Iterator[FrameType]:
    """Yield the frames of our caller's callers, the innermost first."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        frame = frame.f_back
        yield frame
