"""Linear layers in int8, on a CPU: a quarter of the memory, and faster products in wide models.

Weights have one scale per output channel, activations one per token (see ``rounding.py``). PyTorch's own dynamic
quantisation has one scale for all tokens of a call, so that a text's vector would depend on the other texts; for that
reason it is not used. The product itself, with exact int32 sums, is PyTorch's (oneDNN). Where the processor has VNNI,
one pass multiplies and applies the weights' scales; it needs packed weights and unsigned codes of the activations.
Elsewhere the product is int8 times int8. Both give the same bits.

A few columns of a language model's states are many times larger than the rest, so that one scale for a whole token
would leave the rest few levels. These outlier columns are found with a few probe prompts and multiplied in floating
point, with the columns of the weights that belong to them (Dettmers et al. 2022, LLM.int8(), section 3.2). They are 2 %
of the columns of SmolLM2-135M, and 6 % of Gemma 3 270M's.

Consecutive layers with the same input (queries, keys and values; gate and up) share one rounding. Embeddings, norms,
attention, and weights outside ``nn.Linear`` (such as the experts of a mixture) stay in float32.

Shapes: R rows (tokens), K inputs, N outputs, J outlier columns of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from echoembed.engine.rounding import CHUNK, LEVELS, Rounded, fused, pack, product
from echoembed.prompts.template import Rendered

STANDS_OUT = (3.0, 2.0)
"""Thresholds for outlier columns, tried in this order until the probe prompts' vectors come close enough. A column is
an outlier if its largest number is above the threshold times the median of all columns' largest numbers."""
CLOSE = 0.9993
"""The probe prompts' vectors come close enough if their cosine to those in floating point is at least this."""


class Int8Linear(nn.Module):
    """A linear layer with weights in int8, made from a layer in floating point, for inference.

    Args:
        linear: The layer in floating point.
        rounded: The states rounded last. All layers of a model share it, so that the same states are rounded once.
        outlier_J: Indices of the outlier columns; None for none.

    Attributes:
        in_features: K.
        out_features: N.
        exact: The layer on its outlier columns, in floating point; None where there are none.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    outlier_J: Tensor

    def __init__(self, linear: nn.Linear, rounded: Rounded | None = None, outlier_J: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rounded = rounded or Rounded()
        with torch.no_grad():
            weight_NK = linear.weight.float()
            self.register_buffer("outlier_J", torch.empty(0, dtype=torch.long) if outlier_J is None else outlier_J)
            self.exact = _columns_of(weight_NK, self.outlier_J) if len(self.outlier_J) else None
            weight_NK = weight_NK.index_fill(1, self.outlier_J, 0)
            scale_N = weight_NK.abs().amax(dim=1).clamp_min_(1e-30) / LEVELS
            codes_NK = (weight_NK / scale_N[:, None]).round_().to(torch.int8)
            self.register_buffer("weight", pack(codes_NK) if fused() else codes_NK)
            self.register_buffer("scale", scale_N)
            self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, states: Tensor) -> Tensor:
        """Return the product, in the dtype of ``states``."""
        rows_RK = states.reshape(-1, self.in_features)
        rounded = self.rounded(states, rows_RK, self.outlier_J)
        if self.weight.is_mkldnn:
            out_SN = product(rounded.codes, self.weight, self.scale).mul_(rounded.scale)
        else:
            out_SN = torch.empty(len(rounded.codes), self.out_features, device=states.device)
            for start in range(0, len(rounded.codes), CHUNK):
                chunk = slice(start, start + CHUNK)
                rows_SN = out_SN[chunk].copy_(torch._int_mm(rounded.codes[chunk], self.weight.t()))
                rows_SN.mul_(self.scale).mul_(rounded.scale[chunk])
        out_RN = out_SN[: len(rows_RK)]
        if len(rounded.peaked):
            out_RN.index_add_(0, rounded.peaked, out_SN[len(rows_RK) : len(rows_RK) + len(rounded.peaked)])
        if self.exact is not None:  # not by oneDNN, which would prepare a product for each number of columns
            out_RN.addmm_(rounded.exact, self.exact.weight.t())
        if self.bias is not None:
            out_RN.add_(self.bias)
        return out_RN.view(*states.shape[:-1], self.out_features).to(states.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles: packed weights as a plain matrix, which any processor can read."""
        state = dict(self.__dict__)
        weight = self.weight.to_dense().t().contiguous() if self.weight.is_mkldnn else self.weight
        state["_buffers"] = {**self._buffers, "weight": weight}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore such a state, and pack the weights where the processor has VNNI."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if fused():
            self._buffers["weight"] = pack(self.weight)

    def extra_repr(self) -> str:
        """Describe the layer for ``print``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def forget(model: nn.Module) -> None:
    """Release the states that the model's layers rounded last, which take much memory in a large model."""
    layer = next((module for module in model.modules() if isinstance(module, Int8Linear)), None)
    if layer is not None:  # all layers share the same ``Rounded``
        layer.rounded.forget()


def _columns_of(weight_NK: Tensor, outlier_J: Tensor) -> nn.Linear:
    linear = nn.Linear(len(outlier_J), len(weight_NK), bias=False)
    linear.weight = nn.Parameter(weight_NK[:, outlier_J].contiguous(), requires_grad=False)
    return linear


def parameter_count(model: nn.Module) -> int:
    """Count a model's weights, whatever their dtype."""
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    outliers = sum(
        weight.numel() for layer in layers for weight in layer.parameters()
    )  # columns kept in floating point
    coded = sum(layer.in_features * layer.out_features for layer in layers)
    biases = sum(layer.bias.numel() for layer in layers if layer.bias is not None)
    return sum(weight.numel() for weight in model.parameters()) - outliers + coded + biases


def float_layers(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Return the linear layers that can be put into int8, each after its parent module and its name there."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]


@torch.no_grad()
def quantize(model: nn.Module, prompts: Sequence[Rendered] = ()) -> int:
    """Put the model's linear layers into int8, in place.

    Args:
        model: The language model, without its head, in floating point on a CPU.
        prompts: Probe prompts that show which columns of the states are outliers; without prompts, none are.

    Returns:
        The number of layers put into int8.
    """
    # 1. With the model in floating point: the probe prompts' vectors, and the largest number of each column.
    vectors_PD = _vectors(model, prompts)
    largest = _largest_columns(model, prompts)
    layers = float_layers(model)
    # 2. Put the layers into int8, with as few outlier columns as bring the probe prompts' vectors close enough.
    for threshold in STANDS_OUT:
        rounded = Rounded()
        for parent, name, linear in layers:
            largest_K = largest.get(linear)
            outlier_J = None if largest_K is None else torch.nonzero(largest_K > threshold * largest_K.median())[:, 0]
            setattr(parent, name, Int8Linear(linear, rounded, outlier_J))
        if not prompts or torch.cosine_similarity(vectors_PD, _vectors(model, prompts)).min() >= CLOSE:
            break
    forget(model)
    return len(layers)


def _vectors(model: nn.Module, prompts: Sequence[Rendered]) -> Tensor:
    """Compute the mean state of each prompt's span by the model's own forward; ``_PD``: P prompts, width D."""
    vectors = [
        model(input_ids=torch.tensor([prompt.ids]), use_cache=False).last_hidden_state[0, slice(*prompt.span)].mean(0)
        for prompt in prompts
    ]
    return torch.stack(vectors).float() if vectors else torch.empty(0, 0)


def _largest_columns(model: nn.Module, prompts: Sequence[Rendered]) -> dict[nn.Module, Tensor]:
    """Find the largest absolute number of each column of each linear layer's input, ``_K``, over the probe prompts."""
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
