"""Matrix products as fast as the processor has them.

PyTorch sends float32 products on a CPU to MKL, which on processors that are not Intel's runs at less than half of
what oneDNN, in the same wheel, does with the same weights (measured with AVX-512 on an AMD EPYC: 90 against 200
GFLOP/s on one core). So there, for the time of a packed forward, the model's ``nn.Linear`` layers call oneDNN, on
the weights as they are: nothing is held twice. On Intel's processors MKL is the faster of the two by a tenth.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn


def available() -> bool:
    """Whether this PyTorch has the operation and it works."""
    if not torch._C._has_mkldnn:
        return False
    try:
        with torch.no_grad():
            probe = _product(torch.ones(1, 2, 3), torch.ones(4, 3), None)
    except (AttributeError, RuntimeError):
        return False
    return probe.shape == (1, 2, 4) and bool((probe == 3).all())


def wanted() -> bool:
    """Whether it works and is the faster one: by the processor's maker, so that bits do not depend on a stopwatch."""
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
    """The model's float32 linear layers, each with a forward that calls oneDNN where no gradient is wanted."""
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
        if states.numel() == module.in_features:  # one row would go to another kernel, with other last bits
            return _product(states.repeat(*[1] * (states.ndim - 2), 2, 1), module.weight, module.bias)[..., :1, :]
        return _product(states, module.weight, module.bias)

    return forward
