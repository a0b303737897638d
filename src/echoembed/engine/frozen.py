"""Cheaper forwards and gradients for the modules of a model whose own weights are frozen.

A frozen weight needs no gradient, and its products may be in the dtype that the processor multiplies fastest. The
trained weights, LoRA's two small matrices, stay in float32, and so does the residual stream. On a CPU, bfloat16 is for
the backward pass alone: the temperature of a contrastive loss magnifies each error of the forward pass twenty or fifty
times, while an error of the backward pass stays as small as it is. The modules are:

- a linear layer with LoRA, as one operation: y = W x + s B (A x)
- RMSNorm, whose result is in the dtype of the products that follow
- the product of a SiLU gate, which stores its two inputs and computes the rest again in the backward pass
- the rotation of queries and keys

A name does not prove what a module computes: each forward is compared with the model's own, and dropped where the two
differ. Shapes: T tokens of the pack, I inputs and O outputs of a layer, R LoRA's rank, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.engine import fused
from echoembed.engine.attention import ACTIVE
from echoembed.engine.frozen_linear import Dtypes, Forward, has_lora, linear, lora

_ROUNDING = 1e-5  # in float32, relative to the largest number


def forwards(model: nn.Module, dtypes: Dtypes) -> list[tuple[nn.Module, Forward]]:
    """Return a model's linear layers, norms and gates, each with a forward for training.

    Args:
        model: A model with frozen weights and LoRA on some layers.
        dtypes: The dtypes of products; frozen weights in another dtype are copied into it.
    """
    pairs: list[tuple[nn.Module, Forward]] = []
    exact = Dtypes(torch.float32, torch.float32)
    within = [part for stack in model.modules() if isinstance(stack, nn.ModuleList) for part in stack.modules()]
    inside = {id(module.base_layer) for module in model.modules() if has_lora(module)}
    for module in model.modules():
        make: Callable[..., Forward] | None = None
        if has_lora(module):
            make = lora
        elif type(module) is nn.Linear and id(module) not in inside and not module.weight.requires_grad:
            make = linear
        elif type(module).__name__.endswith("RMSNorm") and _frozen_vector(module):
            make = _norm
        elif type(module).__name__.endswith("MLP") and _has_gate(module):
            make = _gate
        if make is None or "forward" in module.__dict__:
            continue
        if make in (lora, linear) or _agrees(module, make(module, exact)):
            inner = make is not _norm or any(module is part for part in within)  # the last norm's states are pooled
            pairs.append((module, make(module, dtypes if inner else exact)))
    return pairs


def rotation_like(original: Forward, dtype: torch.dtype) -> Forward:
    """Make a replacement, with results in ``dtype``, for a family's function that rotates queries and keys."""

    def rotation(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = not args and not kwargs and cos.ndim == 3 and cos.shape[-1] == query.shape[-1] == key.shape[-1]
        if ACTIVE.get() is None or not plain:  # another thread's forward, or another kind of rotation
            return original(query, key, cos, sin, *args, **kwargs)
        cos, sin = cos[:, None], sin[:, None]
        rotated = [_Rotate.apply(states, cos, sin, dtype) for states in (query, key)]  # type: ignore[no-untyped-call]
        return tuple(rotated)

    rotation.replaces = original  # type: ignore[attr-defined]
    return rotation


def _agrees(module: nn.Module, forward: Forward) -> bool:
    """Return whether a replacement forward of a norm or a gate gives the results of the module's own forward."""
    width = len(module.weight) if _frozen_vector(module) else int(module.gate_proj.in_features)  # type: ignore[arg-type, union-attr]
    generator = torch.Generator().manual_seed(0)
    weight = next(module.parameters())
    states = (torch.randn(1, 5, width, generator=generator) * 3).to(weight.device)
    with torch.no_grad():
        try:
            expected, result = module.forward(states.clone()), forward(states)
        except Exception:  # a piece of another kind under the same name
            return False
    if result.shape != expected.shape:
        return False
    return bool((result.float() - expected).abs().max() <= _ROUNDING * expected.abs().max())


def _frozen_vector(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1 and not weight.requires_grad


def _has_gate(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    return all(isinstance(part, nn.Module) for part in parts) and isinstance(
        getattr(parts[0], "in_features", None), int
    )


def _norm(module: Any, dtypes: Dtypes) -> Forward:
    epsilon = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
    weight_D = module.weight.detach().float()
    with torch.no_grad():  # Gemma's norms scale by 1 + weight
        ones = torch.ones(1, 1, len(weight_D), device=weight_D.device)
        scale = module.forward(ones) - weight_D
        more = bool((scale - 1).abs().max() < scale.abs().max())
    scale_D = weight_D + 1 if more else weight_D

    def forward(states: Tensor) -> Tensor:
        result: Tensor = _Norm.apply(states, scale_D, epsilon, dtypes.forward)  # type: ignore[no-untyped-call]
        return result

    return forward


class _Norm(torch.autograd.Function):
    """RMSNorm with a frozen scale: y = x / sqrt(mean(x²) + ε) × scale."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, scale_D: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        states_float = states.float()
        inverse = torch.linalg.vector_norm(states_float, dim=-1, keepdim=True)
        inverse.square_().mul_(1 / states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, scale_D, inverse)
        normed: Tensor = (states_float * inverse).mul_(scale_D).to(dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        states, scale_D, inverse = ctx.saved_tensors
        normed = states.float() * inverse
        scaled = gradient * scale_D  # float32, as the scale is
        along = (scaled * normed).mean(dim=-1, keepdim=True)
        return scaled.sub_(normed.mul_(along)).mul_(inverse).to(states.dtype), None, None, None


def _gate(module: Any, dtypes: Dtypes) -> Forward:
    def forward(states: Tensor) -> Tensor:
        states = states.to(dtypes.forward)
        gated: Tensor = _Gate.apply(module.gate_proj(states), module.up_proj(states), dtypes.backward)  # type: ignore[no-untyped-call]
        result: Tensor = module.down_proj(gated)
        return result

    return forward


class _Gate(torch.autograd.Function):
    """silu(gate) × up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(gate.to(dtype), up.to(dtype))
        ctx.dtype = gate.dtype
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        gradient = gradient.to(gate.dtype)
        up_gradient = nn.functional.silu(gate).mul_(gradient)
        gate_gradient: Tensor = torch.ops.aten.silu_backward(gradient * up, gate)
        return gate_gradient.to(ctx.dtype), up_gradient.to(ctx.dtype), None


class _Rotate(torch.autograd.Function):
    """Rotate queries or keys by their positions' angles, and the gradient by the opposite angles."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = states.dtype
        return fused.rotated(states.float(), cos, sin).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        half = gradient.shape[-1] // 2
        rotated = gradient.float() * cos
        rotated[..., :half].addcmul_(gradient[..., half:], sin[..., half:])
        rotated[..., half:].addcmul_(gradient[..., :half], sin[..., :half], value=-1)
        return rotated.to(ctx.dtype), None, None, None
