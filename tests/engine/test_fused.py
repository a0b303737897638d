"""Fused pieces compute what the model's own do, and pieces that only look alike are left alone."""

import sys
import threading

import pytest
import torch

import tiny_models
from echoembed.engine import attention, fused, patches
from echoembed.model import backbone


def load(family, dtype=torch.float32):
    folder = tiny_models.folder(family)
    return backbone.load_model(folder, family, backbone.read_config(folder, family, "causal"), dtype)


def home_of(model):
    name = type(model.layers[0].self_attn).__module__
    return sys.modules[name]


def replaced(model):
    return {type(module).__name__ for module in model.modules() if "forward" in module.__dict__}


@pytest.mark.parametrize(
    ("family", "pieces", "rotation"),
    [
        ("llama", {"LlamaRMSNorm", "LlamaMLP"}, True),
        ("qwen3", {"Qwen3RMSNorm", "Qwen3MLP"}, True),
        ("olmo2", {"Olmo2RMSNorm", "Olmo2MLP"}, True),
        ("gemma2", {"Gemma2RMSNorm"}, True),  # which multiplies by 1 + weight; its gates are not SiLU
        ("phi3", {"Phi3RMSNorm"}, True),  # gate and up are one layer
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_replaced_and_put_back(family, pieces, rotation, dtype):
    model = load(family, dtype)
    own = home_of(model).apply_rotary_pos_emb
    with patches.patched(model, fast_linear=False):
        assert replaced(model) == pieces
        assert (home_of(model).apply_rotary_pos_emb is not own) == rotation
    assert not replaced(model)
    assert home_of(model).apply_rotary_pos_emb is own


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2", "phi3", "gemma2", "gemma3"])
@torch.no_grad()
def test_pieces_give_the_own_results(family):
    model = load(family)
    states = torch.randn(1, 7, 32) * 10 ** torch.linspace(-3, 3, 7)[:, None]
    modules = [module for module in model.modules() if type(module).__name__.endswith(("RMSNorm", "MLP"))]
    modules = [module for module in modules if getattr(module, "weight", torch.empty(32)).shape == (32,)]
    wanted = [module(states) for module in modules]
    query, key, cos, sin = torch.randn(4, 1, 4, 7, 8)
    rotated = home_of(model).apply_rotary_pos_emb(query, key, cos[:, 0], sin[:, 0])
    token = attention.ACTIVE.set(object())
    try:
        with patches.patched(model, fast_linear=False):
            got = [module(states) for module in modules]
            got += home_of(model).apply_rotary_pos_emb(query, key, cos[:, 0], sin[:, 0])
    finally:
        attention.ACTIVE.reset(token)
    for one, other in zip(got, [*wanted, *rotated], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@torch.no_grad()
def test_pieces_in_bfloat16_are_no_further_from_float32_than_the_own(family):
    """The same weights and states, as bfloat16 holds them, by float32's own pieces: the oracle."""
    model, exact = load(family, torch.bfloat16), load(family)
    for one, other in zip(model.parameters(), exact.parameters(), strict=True):
        other.copy_(one)
    states = (torch.randn(1, 200, 32) * 10 ** torch.linspace(-2, 2, 200)[:, None]).bfloat16()
    query, key, cos, sin = torch.randn(4, 1, 4, 200, 8).bfloat16()

    def run(model, dtype):
        norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
        norms = [norm for norm in norms if norm.weight.shape == (32,)]
        results = [module(states.to(dtype)) for module in (*norms, model.layers[0].mlp)]
        arguments = (part.to(dtype) for part in (query, key, cos[:, 0], sin[:, 0]))
        return [*results, *home_of(model).apply_rotary_pos_emb(*arguments)]

    wanted, own = run(exact, torch.float32), run(model, torch.bfloat16)
    token = attention.ACTIVE.set(object())
    try:
        with patches.patched(model, fast_linear=False):
            got = run(model, torch.bfloat16)
    finally:
        attention.ACTIVE.reset(token)
    for fused_one, own_one, wanted_one in zip(got, own, wanted, strict=True):
        assert fused_one.dtype == torch.bfloat16
        assert (fused_one - wanted_one).norm() <= 1.01 * (own_one - wanted_one).norm()


def test_interleaved_rotation_is_left_alone():
    model = load("cohere")
    own = home_of(model).apply_rotary_pos_emb
    with patches.patched(model, fast_linear=False):
        assert home_of(model).apply_rotary_pos_emb is own


def test_gradients_flow_through_the_own_pieces_meanwhile():
    model = load("llama")
    states = torch.randn(1, 3, 32, requires_grad=True)
    with patches.patched(model, fast_linear=False):
        for piece in (model.layers[0].mlp, model.layers[0].input_layernorm):
            (gradient,) = torch.autograd.grad(piece(states).sum(), states)
            assert gradient.abs().max() > 0


@torch.no_grad()
def test_another_thread_runs_the_own_rotation_meanwhile():
    model, other = load("llama"), load("llama")
    ids = torch.arange(5, 15)[None]
    wanted = other(input_ids=ids).last_hidden_state
    own = home_of(model).apply_rotary_pos_emb
    calls, results = [], []
    fused._ROTATIONS[own] = fused._rotation_like(own)

    def run():
        with torch.no_grad():  # grad mode, like the pass that is under way, is a thread's own
            results.append(other(input_ids=ids).last_hidden_state)

    def rotated(*states):
        calls.append(states)
        return states[0]

    before, fused.rotated = fused.rotated, rotated
    token = attention.ACTIVE.set(object())
    try:
        with patches.patched(model, fast_linear=False):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            assert not calls
            home_of(model).apply_rotary_pos_emb(*torch.randn(2, 1, 2, 3, 8), *torch.randn(2, 1, 3, 8))
            assert len(calls) == 2  # here, inside a packed forward, it is the other one
    finally:
        attention.ACTIVE.reset(token)
        fused.rotated = before
    assert torch.equal(results[0], wanted)


def test_a_model_that_goes_is_let_go():
    model = load("llama")
    with patches.patched(model, fast_linear=False):
        pass
    known = len(patches._PREPARED)
    assert known
    del model
    import gc

    gc.collect()
    assert len(patches._PREPARED) < known


def test_a_model_that_changed_is_prepared_anew():
    model = load("llama")
    with patches.patched(model):
        assert "forward" in model.layers[0].mlp.down_proj.__dict__
    model.layers[0].mlp.down_proj = torch.nn.Identity()
    before = model.layers[1].mlp.down_proj
    with patches.patched(model):
        assert "forward" not in model.layers[0].mlp.down_proj.__dict__
        assert "forward" in before.__dict__
    model.to(torch.float16)
    with patches.patched(model):
        assert not replaced(model)
