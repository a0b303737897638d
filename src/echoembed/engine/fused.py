"""Norms, gates and rotary positions in fewer passes over memory than the model's own code takes.

Beside its matrix products, a packed forward on a CPU spends its time on reading and writing activations. Three pieces
that most model families share are therefore replaced during a packed forward: RMSNorm, the SiLU-gated feed-forward, and
the function that rotates queries and keys. The replacements compute the same with fewer passes. A name does not prove
what a piece computes: each replacement is compared with the model's own piece on random states, and dropped where the
two differ.

In bfloat16 the replacements sum in float32 and round once, at the end; the model's own pieces round more often.

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
"""The name, in each model family's file, of the function that rotates queries and keys."""
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""The largest difference that counts as rounding, relative to the largest number: in float32 from another order of
sums, in bfloat16 from a few roundings."""
_Piece = Callable[[Tensor], Tensor]
_ROTATIONS: dict[Callable[..., Any], Callable[..., Any] | None] = {}


def forwards(model: nn.Module) -> list[tuple[nn.Module, _Piece]]:
    """Return the model's norms and gates on a CPU, each with a forward that takes fewer passes."""
    pairs = []
    for module in model.modules():
        if type(module).__name__.endswith(("RMSNorm", "MLP")) and "forward" not in module.__dict__:
            make = _maker(module)
            pairs += [] if make is None else [(module, make(module))]
    return pairs


def rotations(model: nn.Module) -> list[tuple[ModuleType, Callable[..., Any]]]:
    """Return the Python modules that define this model's attention, each with its replacement rotation."""
    homes = {type(module).__module__ for module in model.modules() if type(module).__name__.endswith("Attention")}
    pairs = []
    for home in (sys.modules[name] for name in sorted(homes)):
        original = getattr(home, ROTATION, None)
        if callable(original) and not hasattr(original, "replaces"):
            if original not in _ROTATIONS:
                _ROTATIONS[original] = _rotation_like(original) if _rotates_halves(original) else None
            if (rotation := _ROTATIONS[original]) is not None:
                pairs.append((home, rotation))
    return pairs


def _maker(module: nn.Module) -> Callable[[nn.Module], _Piece] | None:
    """Return the function that makes a module's replacement forward; None if no replacement computes the same."""
    makes: tuple[Callable[[nn.Module], _Piece], ...]
    if _is_norm(module):
        makes, width = (_norm, _norm_plus_one), len(module.weight)  # type: ignore[arg-type]
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
    """Return the dtype that a piece computes in: that of its floating-point weights, or float32 if all are in int8."""
    weight = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    return torch.float32 if weight is None else weight.dtype


def _same(states: Tensor, expected: Tensor) -> bool:
    if states.shape != expected.shape or states.dtype != expected.dtype:
        return False
    most = _ROUNDING.get(expected.dtype, 0.0) * expected.abs().max()
    return bool((states - expected).abs().max() <= most)


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("RMSNorm")
        and isinstance(weight, Tensor)
        and weight.ndim == 1
        and weight.dtype in _ROUNDING
        and weight.device.type == "cpu"
    )


def _norm_plus_one(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """RMSNorm in families, such as Gemma, that scale by 1 + weight."""
    return _norm(module, plus_one=True)


def _norm(module: nn.Module, *, plus_one: bool = False) -> Callable[[Tensor], Tensor]:
    epsilon = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
    original = type(module).forward

    def weight() -> Tensor:
        current = module.weight  # read at each call: the module may have moved
        assert isinstance(current, Tensor)
        return 1.0 + current.float() if plus_one else current.float()

    def forward(states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or states.dtype not in _ROUNDING:  # another thread's training
            result: Tensor = original(module, states)
            return result
        exact = states.float()
        inverse = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        inverse.square_().mul_(1 / states.shape[-1]).add_(epsilon).rsqrt_()  # 1 / sqrt(mean(x²) + ε)
        normed: Tensor = (exact * inverse).mul_(weight()) if exact is states else exact.mul_(inverse).mul_(weight())
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
    original = type(module).forward

    def forward(states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or states.dtype not in _ROUNDING:  # another thread's training
            result: Tensor = original(module, states)
            return result
        inner = nn.functional.silu(module.gate_proj(states), inplace=True)  # type: ignore[operator]
        result = module.down_proj(inner.mul_(module.up_proj(states)))  # type: ignore[operator]
        return result

    return forward


def _rotation_like(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make a family's replacement rotation; outside packed forwards it calls the family's own function."""

    def rotation(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = not args and not kwargs and cos.ndim == 3 and cos.shape[-1] == query.shape[-1] == key.shape[-1]
        if ACTIVE.get() is None or torch.is_grad_enabled() or not plain or query.dtype not in _ROUNDING:
            return original(query, key, cos, sin, *args, **kwargs)
        cos, sin = cos[:, None], sin[:, None]
        return rotated(query, cos, sin), rotated(key, cos, sin)

    rotation.replaces = original  # type: ignore[attr-defined]
    return rotation


def _rotates_halves(original: Callable[..., Any]) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 3, 8, generator=generator)
    cos, sin = torch.randn(2, 1, 3, 8, generator=generator)
    try:
        expected = original(query, key, cos, sin)
    except Exception:  # a function of another kind under the same name
        return False
    states = (rotated(query, cos[:, None], sin[:, None]), rotated(key, cos[:, None], sin[:, None]))
    return all(map(_same, states, expected))


def rotated(states_1HTE: Tensor, cos_11TE: Tensor, sin_11TE: Tensor) -> Tensor:
    """Rotate queries or keys by their positions' angles: the first half of a head's width against the second."""
    half = states_1HTE.shape[-1] // 2
    out_1HTE = states_1HTE * cos_11TE
    out_1HTE[..., :half].addcmul_(states_1HTE[..., half:], sin_11TE[..., :half], value=-1)
    out_1HTE[..., half:].addcmul_(states_1HTE[..., :half], sin_11TE[..., half:])
    return out_1HTE
