"""What the processor multiplies fast is read off its features, and what oneDNN is kept from does not count."""

import pytest
import torch

from echoembed.engine import Processor

EVERYTHING = {"amx_tile": True, "amx_bf16": True, "avx512_bf16": True, "avx512_vnni": True}


@pytest.fixture
def everything(monkeypatch):
    """A processor with all features, as PyTorch's public function tells them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: EVERYTHING, raising=False)


@pytest.mark.parametrize(
    ("limit", "amx", "bf16", "vnni"),
    [
        ("", True, True, True),
        ("ALL", True, True, True),
        ("default", True, True, True),
        ("AVX512_CORE_AMX", True, True, True),
        ("avx10_1_512_amx_fp16", True, True, True),
        ("AVX512_CORE_FP16", False, True, True),
        ("AVX512_CORE_BF16", False, True, True),
        ("AVX512_CORE_VNNI", False, False, True),
        ("AVX2_VNNI", False, False, True),
        ("AVX512_CORE", False, False, False),
        ("AVX2", False, False, False),
    ],
)
def test_instructions_that_onednn_is_kept_from_do_not_count(everything, limit, amx, bf16, vnni):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        assert Processor.here({name: limit}) == Processor(amx=amx, bf16=bf16, vnni=vnni)


@pytest.mark.parametrize(
    ("missing", "lost"),
    [("amx_tile", "amx"), ("amx_bf16", "amx"), ("avx512_bf16", "bf16"), ("avx512_vnni", "vnni")],
)
def test_each_feature_counts(monkeypatch, missing, lost):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: EVERYTHING | {missing: False}, raising=False)
    assert Processor.here({}) == Processor(**{name: name != lost for name in ("amx", "bf16", "vnni")})


@pytest.mark.parametrize(
    ("amx", "bf16", "vnni", "fast", "said"),
    [
        (True, True, True, ("bfloat16", "int8"), "with AMX, AVX-512 BF16 and VNNI"),
        (False, True, True, ("bfloat16", "int8"), "with AVX-512 BF16 and VNNI, without AMX"),
        (True, False, False, ("bfloat16",), "with AMX, without AVX-512 BF16 or VNNI"),
        (False, False, True, ("int8",), "with VNNI, without AMX or AVX-512 BF16"),
        (False, False, False, (), "without AMX, AVX-512 BF16 or VNNI"),
    ],
)
def test_bfloat16_comes_first_where_its_products_are_fast_and_the_processor_says_what_it_has(
    amx, bf16, vnni, fast, said
):
    processor = Processor(amx=amx, bf16=bf16, vnni=vnni)
    assert processor.fast == fast
    assert str(processor) == f"a processor {said}"
