"""Matrix products with oneDNN, where it is faster than MKL.

PyTorch sends float32 products on a CPU to MKL. On processors of other makers than Intel, MKL is less than half as fast
as oneDNN, which is in the same wheel (measured with AVX-512 on an AMD EPYC: 90 against 200 GFLOP/s on one core). There,
the model's ``nn.Linear`` layers call oneDNN during a packed forward. It takes the weights as they are, without a copy.
On Intel's processors, MKL is a tenth faster than oneDNN.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn


def available() -> bool:
    """Return whether this PyTorch has oneDNN's product, and the product works."""
    if not torch._C._has_mkldnn:
        return False
    try:
        with torch.no_grad():
            probe = _product(torch.ones(1, 2, 3), torch.ones(4, 3), None)
    except (AttributeError, RuntimeError):
        return False
    return probe.shape == (1, 2, 4) and bool((probe == 3).all())


def wanted() -> bool:
    """Return whether oneDNN works and is faster; the processor's maker decides, so that bits depend on no timing."""
    return available() and not _is_intel()


@cache
def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # another system than Linux
        return "Intel" in platform.processor()


def _product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return product


def forwards(model: nn.Module) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """Return the model's float32 linear layers, each with a forward that calls oneDNN where no gradient is needed."""
    return [
        (module, _forward_of(module))
        for module in model.modules()
        if type(module) is nn.Linear and _fits(module.weight)
    ]


def _fits(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()


def _forward_of(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    def forward(states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or states.dtype != torch.float32:  # another thread's training
            return nn.functional.linear(states, module.weight, module.bias)
        if states.numel() == module.in_features:  # a single row would go to another kernel, with other last bits
            return _product(states.repeat(*[1] * (states.ndim - 2), 2, 1), module.weight, module.bias)[..., :1, :]
        return _product(states, module.weight, module.bias)

    return forward
