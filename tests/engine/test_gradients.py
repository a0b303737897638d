"""The packed forward gives the gradients of the model's own padded forward, matrix by matrix.

The other side is plain: prompts padded by hand, the model called as transformers has it, the pooled states averaged,
and torch's own differentiation of the whole.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import echoembed
import tiny_models
from echoembed.engine import frozen, frozen_linear, gradients, padded_batch
from echoembed.engine.gradients import TrainingEngine
from echoembed.model.pooling import unpad
from echoembed.model.transformer import transformer_of
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig
from echoembed.training.loss import contrastive_loss
from echoembed.training.simcse import prepare

pytest.importorskip("peft")

QUERIES = ["the cat sat on a mat", "rain fell over the old town", "a river", "boats to harbour", "two readings"]
POSITIVES = [
    "a cat on a mat",
    "it rained where nobody waits over the town",
    "its water",
    "where the boats wait",
    "reads",
]


def trained(name, recipe="echo", **settings):
    """A model with LoRA that is not at its beginning, where half of the gradient would be 0."""
    folder = name if name == "tiny" else tiny_models.folder(name, **settings)
    model = echoembed.load(folder, recipe=recipe, engine="padded", device="cpu", overflow="ignore")
    add_adapter(model, AdapterConfig(rank=4))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(key)))
    return model


def engine_of(model, dtype=torch.float32, **more):
    transformer = transformer_of(model)
    causal = transformer.recipe.attention == "causal"
    return TrainingEngine.of(transformer.model, causal=causal, dtype=dtype, **more)


def info_nce(vectors):
    vectors = torch.nn.functional.normalize(vectors)
    half = len(vectors) // 2
    return torch.nn.functional.cross_entropy(vectors[:half] @ vectors[half:].T / 0.05, torch.arange(half))


def by_hand(model, texts):
    """Vectors by the model's own code."""
    features = model.preprocess(texts, task="query")
    states = transformer_of(model).model(
        input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
    )[0]
    span = features["span_mask"][:, :, None]
    return (states * span).sum(1) / span.sum(1)


def by_engine(model, texts, engine):
    features = model.preprocess(texts, task="query")
    prompts = unpad(features["input_ids"], features["attention_mask"], features["span_mask"])
    states, mask = engine.states(transformer_of(model).model, prompts)
    return states.sum(1) / mask.sum(1, keepdim=True)


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


FAMILIES = ["tiny", "llama", "qwen3", "gemma", "gemma2", "gpt2", "gpt-neox", "opt", "phi3", "olmo2"]


@pytest.mark.parametrize("recipe", ["echo", "classical-bidirectional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_padded_forward(family, recipe):
    model = trained(family, recipe)
    wanted = gradients_of(model, info_nce(by_hand(model, QUERIES + POSITIVES)))
    got = gradients_of(model, info_nce(by_engine(model, QUERIES + POSITIVES, engine_of(model))))
    bound = {"llama": 1e-5, "tiny": 1e-5}.get(family, 1e-4)  # the random weights of some magnify rounding
    for name, gradient in wanted.items():
        assert float((got[name] - gradient).norm()) <= bound * float(gradient.norm()), name


def test_gradients_of_products_in_bfloat16_point_the_same_way():
    """Of each LoRA matrix, on products of frozen weights that were rounded; what is trained stays in float32.

    With the forward pass in bfloat16 too, the worst cosine was 0.9993.
    """
    model = trained("tiny")
    wanted = gradients_of(model, info_nce(by_hand(model, QUERIES + POSITIVES)))
    got = gradients_of(model, info_nce(by_engine(model, QUERIES + POSITIVES, engine_of(model, torch.bfloat16))))
    for key, gradient in wanted.items():
        assert got[key].dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(got[key].flatten(), gradient.flatten(), dim=0)
        assert float(cosine) >= 0.9999, (key, float(cosine))


def test_on_a_cpu_bfloat16_leaves_the_states_of_the_forward_as_they_are():
    """A contrastive loss magnifies what the forward pass rounds."""
    model = trained("tiny")
    with torch.no_grad():
        wanted = by_hand(model, QUERIES)
        got = by_engine(model, QUERIES, engine_of(model, torch.bfloat16))
    assert float((got - wanted).norm()) <= 1e-5 * float(wanted.norm())


def test_with_both_passes_in_bfloat16_as_on_a_gpu_gradients_point_the_same_way():
    model = trained("tiny")
    wanted = gradients_of(model, info_nce(by_hand(model, QUERIES + POSITIVES)))
    both = frozen_linear.Dtypes(torch.bfloat16, torch.bfloat16)
    engine = replace(engine_of(model), forwards=tuple(frozen.forwards(transformer_of(model).model, both)))
    got = gradients_of(model, info_nce(by_engine(model, QUERIES + POSITIVES, engine)))
    for key, gradient in wanted.items():
        cosine = torch.nn.functional.cosine_similarity(got[key].flatten(), gradient.flatten(), dim=0)
        assert float(cosine) >= 0.995, (key, float(cosine))


def test_products_in_blocks_round_as_little_as_pytorchs_own():
    """Of as many inputs as a feed-forward has, plain and turned, with a bias and a number that blocks do not divide."""
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs in ((1536, 64), (1000, 48)):
        states, weight = (torch.randn(rows, inputs, generator=generator) for rows in (128, outputs))
        bias = torch.randn(outputs, generator=generator)
        exact = torch.nn.functional.linear(states.double(), weight.double(), bias.double())
        plain = float((torch.nn.functional.linear(states, weight, bias) - exact).norm())
        for matrix in (weight, weight.t().contiguous().t()):
            got = frozen_linear.product(states, matrix, bias, block=frozen_linear._BLOCK)
            assert float((got - exact).norm()) <= 1.3 * plain


@pytest.mark.parametrize(("family", "settings"), [("llama", {}), ("mistral", {"sliding_window": 64})])
def test_texts_over_the_length_at_which_scores_are_kept_give_the_same_gradients(family, settings, monkeypatch):
    """They go through PyTorch's own attention; under a window shorter than they are, too."""
    model = trained(family, "classical", **settings)
    texts = [
        " ".join([text] * times)
        for text, times in zip(QUERIES + POSITIVES, [1, 9, 2, 3, 1, 1, 8, 1, 2, 2], strict=True)
    ]
    wanted = gradients_of(model, info_nce(by_hand(model, texts)))
    monkeypatch.setattr(padded_batch, "_SHORT", 16)
    got = gradients_of(model, info_nce(by_engine(model, texts, engine_of(model))))
    for name, gradient in wanted.items():
        assert float((got[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def test_chunks_that_are_embedded_twice_give_the_gradient_of_the_batch():
    """GradCache's first pass, without gradients, must be the same forward as its second."""
    model = trained("llama").train()
    gradients.use(transformer_of(model).model, engine_of(model))
    columns = [model.preprocess(texts, task="query") for texts in (QUERIES, POSITIVES)]
    cached = gradients_of(model, contrastive_loss(model, temperature=0.05, chunk_size=2)(columns, None))
    wanted = gradients_of(model, info_nce(by_hand(model, QUERIES + POSITIVES)))
    for name, gradient in wanted.items():
        assert float((cached[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def test_a_model_whose_gradients_differ_is_trained_through_its_own_forward(monkeypatch):
    model = trained("llama")
    bare = transformer_of(model).model
    assert gradients.choose(bare, causal=True, dtype=torch.float32).engine is not None
    forward = padded_batch._Pad.backward

    def half(ctx, gradient):
        given, *rest = forward(ctx, gradient)
        return (given / 2, *rest)

    monkeypatch.setattr(padded_batch._Pad, "backward", half)
    choice = gradients.choose(bare, causal=True, dtype=torch.float32)
    assert choice.engine is None
    assert "differ" in choice.reason


def test_gradients_that_are_no_numbers_do_not_pass(monkeypatch):
    bare = transformer_of(trained("llama")).model
    forward = padded_batch._Pad.backward
    spoilt = lambda ctx, gradient: (forward(ctx, gradient)[0] * torch.nan, None, None, None)  # noqa: E731
    monkeypatch.setattr(padded_batch._Pad, "backward", spoilt)
    assert gradients.choose(bare, causal=True, dtype=torch.float32).engine is None


def test_dropout_draws_for_every_prompt():
    """Equal prompts under dropout differ; the tokens they share are not computed once for all."""
    model = trained("llama", attention_dropout=0.5).train()
    engine = engine_of(model, random=True)
    vectors = by_engine(model, ["the cat sat on a mat"] * 3, engine)
    assert not torch.equal(vectors[0], vectors[1])
    model.eval()
    vectors = by_engine(model, ["the cat sat on a mat"] * 3, engine)
    assert torch.allclose(vectors[0], vectors[1], rtol=1e-5)


def lora_layer(dropout):
    """peft's linear layer with LoRA, with its frozen weights, and some states."""
    model = trained("llama")
    layer = transformer_of(model).model.layers[1].mlp.down_proj.train()
    layer.lora_dropout["default"] = torch.nn.Dropout(dropout)
    states = torch.randn(300, layer.in_features, generator=torch.Generator().manual_seed(3))
    return layer, states.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_under_dropout_is_its_formula(dtype):
    """Against torch's differentiation of W x + scale * B A (kept x / (1 - rate)), with the same draws."""
    layer, states = lora_layer(0.3)
    forward = frozen_linear.lora(layer, frozen_linear.Dtypes(torch.float32, dtype))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    weight = torch.randn(300, layer.out_features, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(5)
    found = forward(states)
    torch.manual_seed(5)
    kept = torch.rand(states.shape) >= 0.3
    assert 0.65 < kept.float().mean() < 0.75
    inner = (states * kept / 0.7) @ a.T
    expected = layer.base_layer(states) + (inner @ b.T) * layer.scaling["default"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pairs = zip(*(torch.autograd.grad((out * weight).sum(), [states, a, b]) for out in (found, expected)), strict=True)
    for one, two in pairs:
        if dtype == torch.float32:
            assert (one - two).norm() <= 1e-5 * two.norm()
        else:
            assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.999


def test_the_mean_over_draws_of_dropout_is_the_layer_without():
    layer, states = lora_layer(0.3)
    forward = frozen_linear.lora(layer, frozen_linear.Dtypes(torch.float32, torch.float32))
    torch.manual_seed(6)
    with torch.no_grad():
        draws = torch.stack([forward(states[:20]) for _ in range(400)])
        error = draws.std(dim=0) / len(draws) ** 0.5
        layer.eval()
        without = forward(states[:20])
    assert ((draws.mean(dim=0) - without).abs() <= 5 * error).all()
    assert (error > 0).all()


def test_the_mean_over_draws_of_attention_is_the_one_without():
    draw = torch.Generator().manual_seed(7)
    query, key, value = (torch.randn(2, heads, 9, 8, generator=draw) for heads in (4, 2, 2))
    mask = torch.ones(1, 1, 9, 9, dtype=torch.bool).tril()
    torch.manual_seed(8)
    draws = torch.stack([padded_batch._written_out(query, key, value, mask, 0.3, None, 0.4) for _ in range(500)])
    error = draws.std(dim=0) / len(draws) ** 0.5
    without = padded_batch._written_out(query, key, value, mask, 0.3, None, 0.0)
    assert ((draws.mean(dim=0) - without).abs() <= 5 * error).all()
    assert (error > 0).all()


@pytest.mark.parametrize("objective", ["adapter", "simcse"])
def test_dropout_does_not_keep_a_model_from_the_packed_forward(objective):
    """The proof compares without dropout, whatever mode peft's modules are in; they stay in their mode."""
    model = echoembed.load(tiny_models.folder("llama"), recipe="classical-bidirectional", engine="padded", device="cpu")
    add_adapter(model, AdapterConfig(rank=4, dropout=0.3 if objective == "adapter" else 0.0))
    if objective == "simcse":
        prepare(model, 0.3)
    bare = transformer_of(model).model
    modes = {name: module.training for name, module in bare.named_modules()}
    assert any(modes.values()), "peft adds its modules in training mode"
    choice = gradients.choose(bare, causal=False, dtype=torch.float32, random=True)
    assert choice.engine is not None, choice.reason
    assert {name: module.training for name, module in bare.named_modules()} == modes
