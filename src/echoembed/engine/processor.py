"""What this processor multiplies fast: the features by which ``dtype="auto"`` is decided, never a stopwatch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables by which a user keeps oneDNN from newer instructions; the first one that is set counts."""
_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Their values under which oneDNN multiplies eight bits without VNNI."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Features of a processor, as far as oneDNN may use them.

    Attributes:
        amx: Products of bfloat16 matrices (AMX-BF16), several times as fast as in float32.
        vnni: Products of 8-bit integers (AVX-512 VNNI), about twice as fast as in float32.
    """

    amx: bool
    vnni: bool

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Processor:
        """What PyTorch sees of this machine, less what the environment keeps oneDNN from.

        Args:
            environment: Where ``ONEDNN_MAX_CPU_ISA`` may be set.
        """
        limit = next((environment[name].upper() for name in _LIMITS if environment.get(name)), "ALL")
        unlimited = limit in ("ALL", "DEFAULT")
        onednn = bool(torch._C._has_mkldnn)
        return cls(
            amx=onednn and _has("amx_tile") and _has("amx_bf16") and (unlimited or "AMX" in limit),
            vnni=onednn and _has("avx512_vnni") and limit not in _WITHOUT_VNNI,
        )

    @property
    def fast(self) -> tuple[str, ...]:
        """Dtypes that are faster here than float32, the fastest first."""
        return ("bfloat16",) * self.amx + ("int8",) * self.vnni

    def __str__(self) -> str:
        has = {"AMX": self.amx, "VNNI": self.vnni}
        present, missing = ([name for name, there in has.items() if there is wanted] for wanted in (True, False))
        parts = [f"with {' and '.join(present)}"] * bool(present) + [f"without {' or '.join(missing)}"] * bool(missing)
        return f"a processor {' and '.join(parts)}"


def _has(feature: str) -> bool:
    """Whether the processor has a feature; PyTorch has two ways to say so, of which older versions have one."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get(feature, False))
    names = {"amx_bf16": "amx_tile", "avx512_vnni": "vnni"}
    ask = getattr(torch.cpu, f"_is_{names.get(feature, feature)}_supported", None)
    return bool(ask()) if ask is not None else False
