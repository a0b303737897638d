"""Linear layers in eight bits, on a CPU: a quarter of the memory, and faster products in wide models.

Weights have one scale for each output channel, activations one for each token, found as they come. PyTorch's own
dynamic quantisation has one for all tokens of a call, so that a text's vector would depend on its neighbours; it is
not used for that reason. The product itself, with exact int32 sums, is PyTorch's (oneDNN): where the processor has
VNNI, in one pass with the scales of the weights, which it wants packed and the activations' codes unsigned; elsewhere
int8 times int8. Both give the same bits.
A few columns of a language model's states are many times larger than the rest; one scale for a whole token would
leave the rest few levels. Columns that stand out on a handful of probe prompts are therefore multiplied in floating
point, with their own columns of the weights (Dettmers et al. 2022, LLM.int8(), section 3.2): 1.5 in 100 of
SmolLM2-135M's, 9 in 100 of Gemma 3 270M's.

Layers that are given the same states one after the other (queries, keys and values; gate and up) share one rounding.
Embeddings, norms, attention and what is no ``nn.Linear`` (the experts of a mixture) stay in float32.

Shapes: R rows (tokens), K inputs, N outputs, J inputs that stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.prompts.template import Rendered

CHUNK = 256
"""Rows of a product at a time: what is in between stays in the processor's cache."""
_LEVELS = 127
_OFFSET = 128
"""What is added to a code to make it unsigned."""
STANDS_OUT = (4.0, 3.0, 2.0)
"""A column stands out if its largest number is above this many times the median of all columns' largest: the first of
these by which the probe prompts' vectors come close enough."""
CLOSE = 0.9994
"""Mean cosine of the probe prompts' vectors to floating point that is close enough."""


@cache
def fused() -> bool:
    """Whether products and scales of weights are one pass here: with VNNI, if a probe of extremes comes out exact."""
    if not (torch.cpu._is_vnni_supported() and torch._C._has_mkldnn):
        return False
    signs_NK = torch.where(torch.arange(32 * 64).view(32, 64) % 3 == 0, -_LEVELS, _LEVELS).to(torch.int8)
    codes_RK = torch.stack([torch.zeros(64), torch.full((64,), 255.0), torch.arange(64.0) * 4]).to(torch.uint8)
    wanted_RN = (codes_RK.double() - _OFFSET) @ signs_NK.double().t()
    try:
        with torch.no_grad():
            found_RN = _product(codes_RK, _pack(signs_NK), torch.ones(32))
    except (AttributeError, RuntimeError):  # another PyTorch, without the operation
        return False
    return torch.equal(found_RN.double(), wanted_RN)


def _pack(weight_NK: Tensor) -> Tensor:
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight_NK.contiguous(), [CHUNK, weight_NK.shape[1]])
    return packed


def _product(codes_RK: Tensor, packed: Tensor, scale_N: Tensor) -> Tensor:
    """Unsigned codes times packed weights times the weights' scales, ``_RN`` in float32."""
    zero_N = torch.zeros(len(scale_N), dtype=torch.int32)
    out_RN: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes_RK, 1.0, _OFFSET, packed, scale_N, zero_N, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return out_RN


class _Rounded:
    """The states that were rounded last, and what became of them. Copies and pickles of a model begin with none."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int | None, Tensor, Tensor, Tensor] | None = None

    def __call__(self, states: Tensor, rows_RK: Tensor, outlier_J: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of ``rows_RK``, which is ``states`` as a matrix, with the columns that stand out as zeros.

        Computed again unless the states and the columns are the same.
        """
        last = self._last  # read once: another thread may put its own there
        written = None if states.is_inference() else states._version  # how often it was changed in place
        if last is None or last[0] is not states or last[1] != written or not torch.equal(last[2], outlier_J):
            even_RK = rows_RK.index_fill(1, outlier_J, 0) if len(outlier_J) else rows_RK
            last = self._last = (states, written, outlier_J, *_round(even_RK))
        return last[3], last[4]

    def forget(self) -> None:
        """Let the states go."""
        self._last = None

    def __reduce__(self) -> tuple[type[_Rounded], tuple[()]]:
        return _Rounded, ()


def _round(rows_RK: Tensor) -> tuple[Tensor, Tensor]:
    # Two reductions: aminmax, which would be one, is not vectorised along a row and takes ten times as long.
    scale_R1 = torch.maximum(rows_RK.amax(dim=1, keepdim=True), rows_RK.amin(dim=1, keepdim=True).neg_())
    scale_R1 = scale_R1.float().clamp_min_(1e-30).mul_(1 / _LEVELS)
    unsigned = fused()
    codes_RK = torch.empty(rows_RK.shape, dtype=torch.uint8 if unsigned else torch.int8, device=rows_RK.device)
    for start in range(0, len(rows_RK), CHUNK):
        here = slice(start, start + CHUNK)
        levels_RK = torch.div(rows_RK[here], scale_R1[here]).round_()
        codes_RK[here] = levels_RK.add_(_OFFSET) if unsigned else levels_RK
    return codes_RK, scale_R1


class Int8Linear(nn.Module):
    """A linear layer with weights in int8; made from one in floating point, for inference.

    Args:
        linear: The layer.
        rounded: Shared by layers of a model, so that the same states are rounded once.
        outlier_J: Numbers of the columns that stand out; None for none.

    Attributes:
        in_features: K.
        out_features: N.
        exact: The layer on the columns that stand out, in floating point; None where there are none.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    outlier_J: Tensor

    def __init__(self, linear: nn.Linear, rounded: _Rounded | None = None, outlier_J: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rounded = rounded or _Rounded()
        with torch.no_grad():
            weight_NK = linear.weight.float()
            self.register_buffer("outlier_J", torch.empty(0, dtype=torch.long) if outlier_J is None else outlier_J)
            self.exact = _columns_of(weight_NK, self.outlier_J) if len(self.outlier_J) else None
            weight_NK = weight_NK.index_fill(1, self.outlier_J, 0)
            scale_N = weight_NK.abs().amax(dim=1).clamp_min_(1e-30) / _LEVELS
            codes_NK = (weight_NK / scale_N[:, None]).round_().to(torch.int8)
            self.register_buffer("weight", _pack(codes_NK) if fused() else codes_NK)
            self.register_buffer("scale", scale_N)
            self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, states: Tensor) -> Tensor:
        """The product, in the dtype of ``states``."""
        rows_RK = states.reshape(-1, self.in_features)
        codes_RK, scale_R1 = self.rounded(states, rows_RK, self.outlier_J)
        if self.weight.is_mkldnn:
            out_RN = _product(codes_RK, self.weight, self.scale).mul_(scale_R1)
        else:
            out_RN = torch.empty(len(codes_RK), self.out_features, device=states.device)
            for start in range(0, len(codes_RK), CHUNK):
                here = slice(start, start + CHUNK)
                rows_RN = out_RN[here].copy_(torch._int_mm(codes_RK[here], self.weight.t()))
                rows_RN.mul_(self.scale).mul_(scale_R1[here])
        if self.exact is not None:  # as a batch of one, which is how the engine's products take it
            out_RN.add_(self.exact(rows_RK.index_select(1, self.outlier_J).float()[None])[0])
        if self.bias is not None:
            out_RN.add_(self.bias)
        return out_RN.view(*states.shape[:-1], self.out_features).to(states.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: packed weights as a plain matrix, which another processor reads too."""
        state = dict(self.__dict__)
        weight = self.weight.to_dense().t().contiguous() if self.weight.is_mkldnn else self.weight
        state["_buffers"] = {**self._buffers, "weight": weight}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take such a state, and pack the weights where that is of use."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if fused():
            self._buffers["weight"] = _pack(self.weight)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def forget(model: nn.Module) -> None:
    """Let go of the states that the model's layers rounded last: beside a large model they are large."""
    layer = next((module for module in model.modules() if isinstance(module, Int8Linear)), None)
    if layer is not None:  # it shares them with all others
        layer.rounded.forget()


def _columns_of(weight_NK: Tensor, outlier_J: Tensor) -> nn.Linear:
    linear = nn.Linear(len(outlier_J), len(weight_NK), bias=False)
    linear.weight = nn.Parameter(weight_NK[:, outlier_J].contiguous(), requires_grad=False)
    return linear


def float_layers(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers that can be put into eight bits, each with the module that holds it and its name there."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]


@torch.no_grad()
def quantize(model: nn.Module, prompts: Sequence[Rendered] = ()) -> int:
    """Put the model's linear layers into eight bits, in place.

    Args:
        model: The language model, without its head, in floating point on a CPU.
        prompts: Probe prompts that show which columns of the states stand out; none: no column does.

    Returns:
        How many layers there were.
    """
    # 1. What the probe prompts show of the model in floating point: its vectors, and the columns of its states.
    vectors_PD = _vectors(model, prompts)
    largest = _largest_columns(model, prompts)
    layers = float_layers(model)
    # 2. Eight bits, with as few columns in floating point as bring the probe prompts' vectors close enough.
    for threshold in STANDS_OUT:
        rounded = _Rounded()
        for parent, name, linear in layers:
            largest_K = largest.get(linear)
            outlier_J = None if largest_K is None else torch.nonzero(largest_K > threshold * largest_K.median())[:, 0]
            setattr(parent, name, Int8Linear(linear, rounded, outlier_J))
        if not prompts or torch.cosine_similarity(vectors_PD, _vectors(model, prompts)).mean() >= CLOSE:
            break
    forget(model)
    return len(layers)


def _vectors(model: nn.Module, prompts: Sequence[Rendered]) -> Tensor:
    """The mean state of each prompt's span, by the model's own forward; ``_PD``, P prompts and width D."""
    vectors = [
        model(input_ids=torch.tensor([prompt.ids]), use_cache=False).last_hidden_state[0, slice(*prompt.span)].mean(0)
        for prompt in prompts
    ]
    return torch.stack(vectors).float() if vectors else torch.empty(0, 0)


def _largest_columns(model: nn.Module, prompts: Sequence[Rendered]) -> dict[nn.Module, Tensor]:
    """The largest absolute number of each column of each linear layer's input, ``_K``, over the probe prompts."""
    largest: dict[nn.Module, Tensor] = {}

    def watching(module: nn.Module) -> Callable[..., None]:
        def watch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            largest_K = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).abs().amax(dim=0).float()
            largest[module] = torch.maximum(largest[module], largest_K) if module in largest else largest_K

        return watch

    hooks = [
        module.register_forward_pre_hook(watching(module))
        for module in model.modules()
        if type(module) is nn.Linear and prompts
    ]
    try:
        for prompt in prompts:
            model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return largest
