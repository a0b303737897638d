"""One kernel for a whole pack gives what the calls by run give: here under a plain kernel, on a GPU under PyTorch's."""

import inspect
from dataclasses import replace

import pytest
import torch

from echoembed.engine import PackedEngine, varlen
from packs import LENGTHS, assert_equal, load, padded, prompts, spans_of

CALLS = []


def plain_kernel(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """Text by text, with the scores written out; the last query sees the last key."""
    CALLS.append((len(cu_seq_q) - 1, max_q, max_k))
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert all(states.is_contiguous() for states in (query, key, value))
    rows = []
    for text in range(len(cu_seq_q) - 1):
        q, k, v = (
            states[bounds[text] : bounds[text + 1]].double().repeat_interleave(query.shape[1] // states.shape[1], dim=1)
            for states, bounds in ((query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k))
        )
        assert 0 < len(q) <= max_q
        assert len(q) <= len(k) <= max_k
        scores = torch.einsum("qhe,khe->hqk", q, k) * scale
        if window_size == (-1, 0):
            hidden = torch.ones(len(q), len(k), dtype=torch.bool).triu(len(k) - len(q) + 1)
            scores = scores.masked_fill(hidden, -torch.inf)
        rows.append(torch.einsum("hqk,khe->qhe", scores.softmax(dim=-1), v))
    return torch.cat(rows).to(query.dtype)


def older_kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """PyTorch 2.11's, in which each query head needs keys and values of its own."""
    assert query.shape[1] == key.shape[1] == value.shape[1]
    return plain_kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.fixture(params=[plain_kernel, older_kernel])
def plain(monkeypatch, request):
    CALLS.clear()
    monkeypatch.setattr(varlen, "kernel", lambda: request.param)
    monkeypatch.setattr(varlen, "supported", lambda _query: True)


@pytest.mark.skipif(varlen.kernel() is None, reason="this PyTorch has no kernel for unequal lengths")
def test_the_plain_kernel_takes_what_pytorchs_takes():
    found = inspect.signature(varlen.kernel()).parameters
    wanted = inspect.signature(plain_kernel if "enable_gqa" in found else older_kernel).parameters
    assert [(name, found[name].kind) for name in wanted] == [(name, one.kind) for name, one in wanted.items()]


@pytest.mark.parametrize("kind", ["echo", "middle", "last", "whole"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gpt2"])
def test_one_kernel_gives_the_padded_states(plain, family, attention, kind):
    model = load(family, attention)
    for settings in ({}, {"share_prefix": False}, {"trim": False}, {"tokens": 24}):
        CALLS.clear()
        engine = replace(PackedEngine(causal=attention == "causal"), **settings)
        batch = prompts(LENGTHS, spans_of(kind, LENGTHS))
        assert_equal(engine.states(model, batch), padded(model, batch))
        assert CALLS
        if not settings:  # all texts at once, and the shared beginning as one more where it is computed by itself
            shared = attention == "causal" and kind != "whole"
            assert max(texts for texts, *_ in CALLS) == len(LENGTHS) + shared


def test_what_the_kernel_lacks_goes_by_runs(plain):
    """Soft-caps, and texts beyond a sliding window."""
    for family, settings in (("gemma2", {}), ("mistral", {"sliding_window": 5})):
        model = load(family, "causal", **settings)
        batch = prompts(LENGTHS, spans_of("echo", LENGTHS))
        assert_equal(PackedEngine(causal=True).states(model, batch), padded(model, batch))
        assert not CALLS


def test_a_cpu_goes_by_runs():
    assert not varlen.supported(torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_real_kernel_gives_the_padded_states(family, attention):
    model = load(family, attention, head_dim=16).to("cuda", torch.bfloat16)
    batch = prompts(LENGTHS, spans_of("echo", LENGTHS))
    assert varlen.supported(torch.zeros(1, 2, 3, 16, dtype=torch.bfloat16, device="cuda"))
    engine = PackedEngine(causal=attention == "causal")
    assert_equal(engine.states(model, batch), padded(model, batch), tolerance=0.03)
