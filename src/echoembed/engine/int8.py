"""Linear layers in eight bits, on a CPU: a quarter of the memory, and faster products in wide models.

Weights have one scale for each output channel, activations one for each token, found as they come. PyTorch's own
dynamic quantisation has one for all tokens of a call, so that a text's vector would depend on its neighbours; it is
not used for that reason. The product itself, int8 times int8 with exact int32 sums, is PyTorch's (oneDNN, VNNI).
Embeddings, norms, attention and what is no ``nn.Linear`` (the experts of a mixture) stay in float32.

Shapes: R rows (tokens), K inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHUNK = 256
"""Rows at a time: what is in between stays in the processor's cache."""
_LEVELS = 127


class Int8Linear(nn.Module):
    """A linear layer with weights in int8; made from one in floating point, for inference.

    Attributes:
        in_features: K.
        out_features: N.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with torch.no_grad():
            weight_NK = linear.weight.float()
            scale_N = weight_NK.abs().amax(dim=1).clamp_min_(1e-30) / _LEVELS
            self.register_buffer("weight", (weight_NK / scale_N[:, None]).round_().to(torch.int8))
            self.register_buffer("scale", scale_N)
            self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, states: Tensor) -> Tensor:
        """The product, in the dtype of ``states``."""
        rows_RK = states.reshape(-1, self.in_features)
        out_RN = torch.empty(len(rows_RK), self.out_features, device=states.device)
        for start in range(0, len(rows_RK), CHUNK):
            self._product(rows_RK[start : start + CHUNK], out_RN[start : start + CHUNK])
        return out_RN.view(*states.shape[:-1], self.out_features).to(states.dtype)

    def _product(self, rows_RK: Tensor, out_RN: Tensor) -> None:
        low_R1, high_R1 = torch.aminmax(rows_RK, dim=1, keepdim=True)
        scale_R1 = torch.maximum(high_R1, -low_R1).float().clamp_min_(1e-30).mul_(1 / _LEVELS)
        codes_RK = torch.div(rows_RK, scale_R1).round_().to(torch.int8)
        torch.mul(torch._int_mm(codes_RK, self.weight.t()), scale_R1, out=out_RN)
        out_RN.mul_(self.scale)
        if self.bias is not None:
            out_RN.add_(self.bias)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize(model: nn.Module) -> int:
    """Put the model's linear layers into eight bits, in place, one after the other.

    Returns:
        How many there were.
    """
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child))
                count += 1
    return count
