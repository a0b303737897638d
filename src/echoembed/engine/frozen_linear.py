"""Linear layers whose own weights are frozen, with and without LoRA, as single operations with cheap gradients.

Shapes: T tokens of the pack, I inputs and O outputs of a layer, R LoRA's rank, B inputs of a block.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.engine import onednn

Forward = Callable[..., Any]
_BLOCK = 192  # inputs that are added up one after another in a float32 product


@dataclass(slots=True)
class Dtypes:
    """The dtypes of the products with frozen weights.

    Attributes:
        forward: The dtype of the forward pass.
        backward: The dtype of the backward pass, and of the states that are kept for it.
    """

    forward: torch.dtype
    backward: torch.dtype
    _last: tuple[weakref.ref[Tensor], int, Tensor] | None = None

    def kept(self, states: Tensor) -> Tensor:
        """Return ``states`` as the matrix that the backward pass needs; layers that read the same states share it."""
        last = self._last
        if last is None or last[0]() is not states or last[1] != states._version:  # changed in place since
            states_TI = states.detach().reshape(-1, states.shape[-1]).to(self.backward)
            last = self._last = (weakref.ref(states), states._version, states_TI)
        return last[2]


def has_lora(module: nn.Module) -> bool:
    """Return whether a module is peft's linear layer with a single active, plain LoRA on a frozen ``nn.Linear``."""
    names = getattr(module, "active_adapters", None)
    if not (isinstance(getattr(module, "lora_A", None), nn.ModuleDict) and isinstance(names, list) and len(names) == 1):
        return False
    base = getattr(module, "base_layer", None)
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and names[0] in module.lora_A  # type: ignore[operator]
        and names[0] not in getattr(module, "lora_variant", {})
        and module.lora_B[names[0]].bias is None  # type: ignore[index, union-attr]
        and not module.merged
        and not module.disable_adapters
    )


def product(states_TI: Tensor, weight_OI: Tensor, bias: Tensor | None = None, *, block: int | None = None) -> Tensor:
    """Multiply without gradients, by oneDNN where that is faster than PyTorch's own product.

    Args:
        states_TI: States.
        weight_OI: The weights, in the same dtype.
        bias: What is added to each row; None for nothing.
        block: How many inputs oneDNN adds up one after another; None for all. More inputs are faster and round more.
    """
    if not (states_TI.dtype == torch.float32 and states_TI.device.type == "cpu" and onednn.wanted()):
        return nn.functional.linear(states_TI, weight_OI, bias)
    inputs = states_TI.shape[-1]
    out_TO: Tensor | None = None
    for start in range(0, inputs, block or inputs):
        own = slice(start, start + (block or inputs))
        states_TB, weight_OB = states_TI[..., own], weight_OI[:, own]
        if not weight_OB.t().is_contiguous():  # oneDNN needs minutes for a matrix that is cut out of rows
            weight_OB = weight_OB.contiguous()
        part_TO = torch.ops.mkldnn._linear_pointwise(states_TB, weight_OB, bias, "none", [], "")
        out_TO, bias = (part_TO if out_TO is None else out_TO.add_(part_TO)), None
    assert out_TO is not None
    return out_TO


def draw_kept(states: Tensor, rate: float) -> Tensor:
    """Draw which elements of a tensor are kept, each with the probability ``1 - rate``, from torch's generator.

    On a CPU, ``nn.functional.dropout`` draws by ``bernoulli_``, which takes four times as long as ``rand``.

    Args:
        states: A tensor; only its shape and device matter.
        rate: The probability with which an element is dropped.

    Returns:
        Booleans in the shape of ``states``.
    """
    return torch.rand(states.shape, device=states.device) >= rate


def _weights(layer: nn.Linear, dtypes: Dtypes) -> tuple[Tensor, Tensor, Tensor | None, int | None]:
    """Return a frozen layer's weights and bias for the forward pass, its weights for the other, and its block."""
    weight_OI = layer.weight.detach().to(dtypes.forward)
    bias = None if layer.bias is None else layer.bias.detach().to(dtypes.forward)
    return weight_OI, weight_OI.to(dtypes.backward), bias, _BLOCK if dtypes.backward == torch.float32 else None


def linear(module: nn.Linear, dtypes: Dtypes) -> Forward:
    """Make the forward of a frozen linear layer."""
    weights = _weights(module, dtypes)

    def forward(states: Tensor) -> Tensor:
        result: Tensor = _Frozen.apply(states.to(dtypes.forward), *weights)  # type: ignore[no-untyped-call]
        return result

    return forward


def lora(module: Any, dtypes: Dtypes) -> Forward:
    """Make the forward of a frozen linear layer with LoRA (``has_lora``)."""
    name = module.active_adapters[0]
    weights = _weights(module.base_layer, dtypes)
    dropout: nn.Module = module.lora_dropout[name]
    a_RI, b_OR, scale = module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])

    def forward(states: Tensor, *_: Any, **__: Any) -> Tensor:
        states = states.to(dtypes.forward)
        if module.training and (rate := getattr(dropout, "p", 0.0)):  # LoRA's input differs from the layer's
            drawn_TI = draw_kept(states.reshape(-1, states.shape[-1]), rate)
            kept_TI, own_scale = None, scale / (1 - rate)
        else:
            kept_TI, drawn_TI, own_scale = dtypes.kept(states) if torch.is_grad_enabled() else states, None, scale
        result: Tensor = _Lora.apply(  # type: ignore[no-untyped-call]
            states, kept_TI, drawn_TI, *weights, a_RI, b_OR, own_scale
        )
        return result

    return forward


class _Frozen(torch.autograd.Function):
    """A linear layer whose weight gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight_OI: Tensor, back_OI: Tensor, bias: Tensor | None, block: int | None
    ) -> Tensor:
        ctx.save_for_backward(back_OI)
        ctx.dtype = states.dtype
        return product(states, weight_OI, bias, block=block)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (back_OI,) = ctx.saved_tensors
        states_gradient = product(gradient.to(back_OI.dtype).contiguous(), back_OI.t())
        return states_gradient.to(ctx.dtype), None, None, None, None


class _Lora(torch.autograd.Function):
    """A frozen linear layer with LoRA beside it.

    Under dropout, LoRA reads the states that ``drawn_TI`` keeps; the factor that makes up for the rest is in ``scale``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        kept_TI: Tensor | None,
        drawn_TI: Tensor | None,
        weight_OI: Tensor,
        back_OI: Tensor,
        bias: Tensor | None,
        block: int | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scale: float,
    ) -> Tensor:
        states_TI = states.reshape(-1, states.shape[-1])
        small_RI, small_OR = a_RI.to(states.dtype), (b_OR * scale).to(states.dtype)
        read_TI = states_TI if drawn_TI is None else states_TI * drawn_TI
        inner_TR = nn.functional.linear(read_TI, small_RI)
        out_TO = product(states_TI, weight_OI, bias, block=block).addmm_(inner_TR, small_OR.t())
        small = (part.to(back_OI.dtype) for part in (small_RI, small_OR, inner_TR))
        kept_TI = read_TI.to(back_OI.dtype) if kept_TI is None else kept_TI
        ctx.save_for_backward(kept_TI, drawn_TI, back_OI, *small)
        ctx.dtype, ctx.scale = states.dtype, scale
        return out_TO.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kept_TI, drawn_TI, back_OI, small_RI, small_OR, inner_TR = ctx.saved_tensors
        gradient_TO = gradient.reshape(-1, gradient.shape[-1]).to(back_OI.dtype)
        inner_gradient_TR = gradient_TO @ small_OR
        a_RI = (inner_gradient_TR.t() @ kept_TI).float()
        b_OR = (gradient_TO.t() @ inner_TR).float().mul_(ctx.scale)
        states_gradient = None
        if ctx.needs_input_grad[0]:
            states_gradient = product(gradient_TO, back_OI.t())
            if drawn_TI is None:
                states_gradient.addmm_(inner_gradient_TR, small_RI)
            else:
                states_gradient += (inner_gradient_TR @ small_RI).mul_(drawn_TI)
            states_gradient = states_gradient.view(*gradient.shape[:-1], -1).to(ctx.dtype)
        return states_gradient, None, None, None, None, None, None, a_RI, b_OR, None
