"""SimCSE compares two readings of a text that differ by dropout, and by nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import echoembed
import tiny_models
from echoembed import errors
from echoembed.model.transformer import transformer_of
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig
from echoembed.training.loss import contrastive_loss
from echoembed.training.simcse import SimcseLoss, prepare

pytest.importorskip("peft")

TEXTS = ["the cat sat on a mat while rain fell", "the river carried its boats to harbour", "nobody waits", "old town"]


def load(family="llama", recipe="classical-bidirectional"):
    return echoembed.load(tiny_models.folder(family), recipe=recipe, engine="padded", device="cpu").eval()


def vectors(model):
    return model(model.preprocess(TEXTS))["sentence_embedding"].detach()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2", "gpt2", "gptj", "gpt-neox", "opt", "phi3"])
def test_two_readings_differ_in_training_and_not_outside(family):
    model = load(family)
    outside = vectors(model)
    prepare(model, 0.3)
    assert not model.training
    assert torch.equal(vectors(model), outside)
    model.train()
    one, two = vectors(model), vectors(model)
    assert (one - two).abs().max() > 1e-3
    # By rows: no text got away without.
    assert ((one - two).abs().amax(dim=1) > 1e-4).all()
    torch.manual_seed(1)
    again = vectors(model)
    torch.manual_seed(1)
    assert torch.equal(vectors(model), again)


def test_without_it_training_reads_as_embedding_does():
    """Else the test above shows nothing."""
    model = load()
    outside = vectors(model)
    model.train()
    assert torch.equal(vectors(model), outside)


def test_loras_inputs_are_dropped_with_the_probability_asked_for():
    model = load()
    add_adapter(model, AdapterConfig(rank=4), seed=0)
    prepare(model, 0.3)
    found = [module for name, module in model.named_modules() if name.endswith("lora_dropout.default")]
    assert len(found) == 7 * 3
    assert all(isinstance(module, nn.Dropout) and module.p == 0.3 for module in found)
    attention = [module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")]
    assert attention == [0.3] * 3


def test_preparing_draws_nothing_from_the_generator_of_the_run():
    model = load()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    prepare(model, 0.3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dropout", [0, 0.0, 1.0, -0.1, True, "0.3", float("nan")])
def test_a_dropout_that_makes_the_objective_void_is_refused(dropout):
    with pytest.raises(errors.ModelError, match="Allowed: a number between 0 and 1, both excluded"):
        prepare(load(), dropout)


def test_a_model_whose_attention_knows_no_dropout_is_refused():
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def without(*args, dropout=0.0, **kwargs):
        return sdpa_attention_forward(*args, dropout=0.0, **kwargs)

    AttentionInterface.register("without-dropout", without)
    AttentionMaskInterface.register("without-dropout", sdpa_mask)
    model = load()
    transformer_of(model).model.set_attn_implementation("without-dropout")
    with pytest.raises(errors.ModelError, match="gives the same states twice although dropout was asked for"):
        prepare(model, 0.3)


def test_the_loss_is_infonce_between_two_readings():
    """Against the formula on two readings made with the same draws."""
    model = load()
    prepare(model, 0.3)
    model.train()
    batch = model.preprocess(TEXTS)
    loss = SimcseLoss(contrastive_loss(model, temperature=0.05, chunk_size=8))
    torch.manual_seed(7)
    found = loss([batch], None)
    torch.manual_seed(7)
    one_BD, two_BD = (vectors(model).double() for _ in range(2))
    scores_BB = one_BD @ two_BD.T / 0.05
    expected = -(scores_BB.diag() - scores_BB.logsumexp(dim=1)).mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_gradient_in_chunks_is_that_of_the_readings_it_compares():
    """GradCache reads twice with the same draws: its gradient is the derivative of its loss."""
    model = load()
    add_adapter(model, AdapterConfig(rank=4), seed=0)
    prepare(model, 0.3)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for weight in weights.values():
            weight.normal_(0, 0.1)
    model.train()
    loss = SimcseLoss(contrastive_loss(model, temperature=0.05, chunk_size=2))
    batch = model.preprocess(TEXTS)

    def value():
        torch.manual_seed(9)
        return loss([batch], None)

    value().backward()
    name = next(name for name in weights if "layers.1" in name and "v_proj.lora_B" in name)
    gradient = weights[name].grad.clone()
    direction = gradient / gradient.norm()
    step = 1e-2
    with torch.no_grad():
        weights[name].add_(direction, alpha=step)
        above = value().item()
        weights[name].add_(direction, alpha=-2 * step)
        below = value().item()
    assert gradient.norm() > 1e-3
    assert (above - below) / (2 * step) == pytest.approx(gradient.norm().item(), rel=2e-2)


def test_the_trainer_finds_the_model_in_the_loss():
    model = load()
    loss = SimcseLoss(contrastive_loss(model, temperature=0.05, chunk_size=2))
    assert loss.model is model is loss.loss.model
    assert transformer_of(loss.model).recipe.name == "classical-bidirectional"
