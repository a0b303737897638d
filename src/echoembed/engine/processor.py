"""Which dtypes this processor multiplies fast. ``dtype="auto"`` depends on these features, never on a measured time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep oneDNN from newer instructions; the first variable that is set counts."""
_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Values of those variables under which oneDNN multiplies 8-bit integers without VNNI."""
_WITHOUT_BF16 = (*_WITHOUT_VNNI, "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI")
"""Values of those variables under which oneDNN multiplies bfloat16 numbers without AVX-512 BF16."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Those features of a processor that oneDNN may use.

    Attributes:
        amx: Whether it has AMX-BF16: products of bfloat16 matrices are several times as fast as in float32.
        bf16: Whether it has AVX-512 BF16: products of bfloat16 numbers are twice as fast as in float32.
        vnni: Whether it has AVX-512 VNNI: products of 8-bit integers are up to four times as fast as in float32, of
            which rounding takes back much.
    """

    amx: bool
    bf16: bool
    vnni: bool

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Processor:
        """Return the features that PyTorch finds on this machine, except those that the environment turns off.

        Args:
            environment: The environment variables, where ``ONEDNN_MAX_CPU_ISA`` may be set.
        """
        limit = next((environment[name].upper() for name in _LIMITS if environment.get(name)), "ALL")
        unlimited = limit in ("ALL", "DEFAULT")
        onednn = bool(torch._C._has_mkldnn)
        return cls(
            amx=onednn and _has("amx_tile") and _has("amx_bf16") and (unlimited or "AMX" in limit),
            bf16=onednn and _has("avx512_bf16") and limit not in _WITHOUT_BF16,
            vnni=onednn and _has("avx512_vnni") and limit not in _WITHOUT_VNNI,
        )

    @property
    def fast(self) -> tuple[str, ...]:
        """The dtypes that are faster than float32 on this processor, the fastest first.

        Where a processor has products of bfloat16 of either kind, whole embeddings take less time in bfloat16 than in
        int8 (measured in docs/engine.md), and bfloat16 is closer to float32.
        """
        return ("bfloat16",) * (self.amx or self.bf16) + ("int8",) * self.vnni

    def __str__(self) -> str:
        features = {"AMX": self.amx, "AVX-512 BF16": self.bf16, "VNNI": self.vnni}
        present = [name for name, has in features.items() if has]
        missing = [name for name, has in features.items() if not has]
        parts = [f"with {_listed(present, 'and')}"] if present else []
        parts += [f"without {_listed(missing, 'or')}"] if missing else []
        return f"a processor {', '.join(parts)}"


def _listed(names: list[str], word: str) -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def _has(feature: str) -> bool:
    """Return whether the processor has a feature. Older versions of PyTorch have one of the two ways to ask."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get(feature, False))
    names = {"amx_bf16": "amx_tile", "avx512_vnni": "vnni"}
    ask = getattr(torch.cpu, f"_is_{names.get(feature, feature)}_supported", None)
    return bool(ask()) if ask is not None else False
