"""What the processor multiplies fast is read off its features, and what oneDNN is kept from does not count."""

import pytest
import torch

from echoembed.engine import Processor

EVERYTHING = {"amx_tile": True, "amx_bf16": True, "avx512_vnni": True}


@pytest.fixture
def everything(monkeypatch):
    """A processor with all features, as PyTorch's public function tells them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: EVERYTHING, raising=False)


@pytest.mark.parametrize(
    ("limit", "amx", "vnni"),
    [
        ("", True, True),
        ("ALL", True, True),
        ("default", True, True),
        ("AVX512_CORE_AMX", True, True),
        ("avx10_1_512_amx_fp16", True, True),
        ("AVX512_CORE_BF16", False, True),
        ("AVX512_CORE_VNNI", False, True),
        ("AVX512_CORE", False, False),
        ("AVX2", False, False),
    ],
)
def test_instructions_that_onednn_is_kept_from_do_not_count(everything, limit, amx, vnni):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        assert Processor.here({name: limit}) == Processor(amx=amx, vnni=vnni)


@pytest.mark.parametrize("missing", EVERYTHING)
def test_each_feature_counts(monkeypatch, missing):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: EVERYTHING | {missing: False}, raising=False)
    assert Processor.here({}) == Processor(amx=missing == "avx512_vnni", vnni=missing != "avx512_vnni")


def test_amx_comes_before_vnni_and_bfloat16_needs_amx():
    assert Processor(amx=True, vnni=True).fast == ("bfloat16", "int8")
    assert Processor(amx=False, vnni=True).fast == ("int8",)
    assert Processor(amx=False, vnni=False).fast == ()


def test_it_says_what_it_has():
    assert str(Processor(amx=True, vnni=True)) == "a processor with AMX and VNNI"
    assert str(Processor(amx=False, vnni=True)) == "a processor with VNNI and without AMX"
    assert str(Processor(amx=False, vnni=False)) == "a processor without AMX or VNNI"
