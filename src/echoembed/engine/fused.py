"""Norms, gates and rotary positions in fewer passes over memory than the model's own code takes for them.

A packed forward on a CPU spends what its matrix products leave on reading and writing activations. Three pieces that
most families share are, for the time of it, replaced by ones that compute the same with fewer passes: RMSNorm, the
SiLU-gated feed-forward, and the function that rotates queries and keys. Whether a model's piece is what it looks
like is not read off its name: each is tried against the model's own on random states, and left alone where the two
differ.

In bfloat16 the pieces add up in float32 and round once, at their end; the model's own round more often.

Shapes: T tokens of the pack, D width of the model, H heads, E width of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.engine.attention import ACTIVE

ROTATION = "apply_rotary_pos_emb"
"""What transformers calls the function that rotates queries and keys, in every family's file."""
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Of the largest number: two orders of adding up in float32, and a few roundings to bfloat16."""
_Piece = Callable[[Tensor], Tensor]
_ROTATIONS: dict[Callable[..., Any], Callable[..., Any] | None] = {}


def forwards(model: nn.Module) -> list[tuple[nn.Module, _Piece]]:
    """The model's norms and gates, each with a forward of fewer passes, on a CPU."""
    pairs = []
    for module in model.modules():
        if type(module).__name__.endswith(("RMSNorm", "MLP")) and "forward" not in module.__dict__:
            make = _maker(module)
            pairs += [] if make is None else [(module, make(module))]
    return pairs


def rotations(model: nn.Module) -> list[tuple[ModuleType, Callable[..., Any]]]:
    """The modules of transformers' code that this model's attention is from, each with its other rotation."""
    homes = {type(module).__module__ for module in model.modules() if type(module).__name__.endswith("Attention")}
    pairs = []
    for home in (sys.modules[name] for name in sorted(homes)):
        own = getattr(home, ROTATION, None)
        if callable(own) and not hasattr(own, "replaces"):
            if own not in _ROTATIONS:
                _ROTATIONS[own] = _rotation_like(own) if _rotates_halves(own) else None
            if (rotation := _ROTATIONS[own]) is not None:
                pairs.append((home, rotation))
    return pairs


def _maker(module: nn.Module) -> Callable[[nn.Module], _Piece] | None:
    """What makes the replacement of a module, if there is one that does the same."""
    makes: tuple[Callable[[nn.Module], _Piece], ...]
    if _is_norm(module):
        makes, width = (_norm, _norm_of_one_more), len(module.weight)  # type: ignore[arg-type]
    elif _is_gate(module):
        makes, width = (_gate,), int(module.gate_proj.in_features)  # type: ignore[arg-type, union-attr]
    else:
        return None
    states = (torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0)) * 3).to(_dtype(module))
    for make in makes:
        with torch.no_grad():
            try:
                if _same(make(module)(states), module.forward(states.clone())):
                    return make
            except Exception:  # a piece of another kind under the same name
                return None
    return None


def _dtype(module: nn.Module) -> torch.dtype:
    """What a piece computes in: its floating weights' dtype; float32 where they are in eight bits."""
    weight = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    return torch.float32 if weight is None else weight.dtype


def _same(got: Tensor, wanted: Tensor) -> bool:
    most = _ROUNDING.get(wanted.dtype, 0.0) * wanted.abs().max()
    return got.shape == wanted.shape and got.dtype == wanted.dtype and bool((got - wanted).abs().max() <= most)


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and isinstance(weight, Tensor)
        and weight.ndim == 1
        and weight.dtype in _ROUNDING
        and weight.device.type == "cpu"
    )


def _norm_of_one_more(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The norms of families whose weights are what is added to 1."""
    return _norm(module, one_more=True)


def _norm(module: nn.Module, *, one_more: bool = False) -> Callable[[Tensor], Tensor]:
    epsilon = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
    own = type(module).forward

    def weight() -> Tensor:
        current = module.weight  # read at each call: the module may have moved
        assert isinstance(current, Tensor)
        return 1.0 + current.float() if one_more else current.float()

    def forward(states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or states.dtype not in _ROUNDING:  # another thread's training
            result: Tensor = own(module, states)
            return result
        exact = states.float()
        size = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        size.square_().mul_(1 / states.shape[-1]).add_(epsilon).rsqrt_()
        normed: Tensor = (exact * size).mul_(weight()) if exact is states else exact.mul_(size).mul_(weight())
        return normed.to(states.dtype)

    return forward


def _is_gate(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    gate_proj = parts[0]
    if not all(isinstance(part, nn.Module) for part in parts) or not isinstance(gate_proj, nn.Module):
        return False
    weight = getattr(gate_proj, "weight", None)
    return isinstance(weight, Tensor) and weight.device.type == "cpu" and weight.dtype in (*_ROUNDING, torch.int8)


def _gate(module: nn.Module) -> Callable[[Tensor], Tensor]:
    own = type(module).forward

    def forward(states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or states.dtype not in _ROUNDING:  # another thread's training
            result: Tensor = own(module, states)
            return result
        inner = nn.functional.silu(module.gate_proj(states), inplace=True)  # type: ignore[operator]
        result = module.down_proj(inner.mul_(module.up_proj(states)))  # type: ignore[operator]
        return result

    return forward


def _rotation_like(own: Callable[..., Any]) -> Callable[..., Any]:
    """Another rotation for a family's code; a forward that is not packed goes on to the family's own."""

    def rotation(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = not args and not kwargs and cos.ndim == 3 and cos.shape[-1] == query.shape[-1] == key.shape[-1]
        if ACTIVE.get() is None or torch.is_grad_enabled() or not plain or query.dtype not in _ROUNDING:
            return own(query, key, cos, sin, *args, **kwargs)
        cos, sin = cos[:, None], sin[:, None]
        return rotated(query, cos, sin), rotated(key, cos, sin)

    rotation.replaces = own  # type: ignore[attr-defined]
    return rotation


def _rotates_halves(own: Callable[..., Any]) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 3, 8, generator=generator)
    cos, sin = torch.randn(2, 1, 3, 8, generator=generator)
    try:
        wanted = own(query, key, cos, sin)
    except Exception:  # a function of another kind under the same name
        return False
    got = (rotated(query, cos[:, None], sin[:, None]), rotated(key, cos[:, None], sin[:, None]))
    return all(map(_same, got, wanted))


def rotated(states_1HTE: Tensor, cos_11TE: Tensor, sin_11TE: Tensor) -> Tensor:
    """Queries or keys turned by their positions' angles, one half of a head's width against the other."""
    half = states_1HTE.shape[-1] // 2
    out_1HTE = states_1HTE * cos_11TE
    out_1HTE[..., :half].addcmul_(states_1HTE[..., half:], sin_11TE[..., :half], value=-1)
    out_1HTE[..., half:].addcmul_(states_1HTE[..., :half], sin_11TE[..., half:])
    return out_1HTE
