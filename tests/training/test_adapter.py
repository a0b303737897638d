"""What is trained is what was asked for, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import echoembed
import tiny_models
from echoembed import errors
from echoembed.recipe import Recipe
from echoembed.training.adapter import add_adapter, trains_end_token
from echoembed.training.config import AdapterConfig

pytest.importorskip("peft")

LAST = Recipe(name="last", query_template="{bos}{text} again: {text}{eos:pool}", pooling="last")
MEAN = Recipe(name="mean", query_template="{bos}{text} again: {text:pool}{eos}")


def load(family="llama", recipe=LAST, **settings):
    return echoembed.load(tiny_models.folder(family, **settings), recipe=recipe, engine="padded", device="cpu")


def state(model):
    """Every weight by name, as it would be without the adapter."""
    return {
        name.replace(".base_layer", "").replace(".token_adapter", ""): weight.detach().clone()
        for name, weight in model.state_dict().items()
    }


def one_step(model, steps=2):
    """Plain AdamW steps on whatever requires a gradient, without the trainer."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.0)
    model.train()
    target = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        features = model.preprocess(["the cat sat", "rain fell over town", "a river"])
        loss = (model(features)["sentence_embedding"] * target).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),  # pads with the end token, whose row torch would not train
        ("mistral", {}),
        ("qwen3", {"tie_word_embeddings": True}),
        ("gemma3", {}),  # scales its embeddings
        ("gpt2", {}),  # linear layers of its own kind
    ],
)
def test_lora_and_the_end_tokens_row_change_and_nothing_else(family, settings):
    model = load(family, **settings)
    first, eos = model[0], model[0].pieces.eos
    add_adapter(model, AdapterConfig(rank=4))
    before = state(model)
    one_step(model)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    lora = {name for name in before if ".lora_" in name}
    delta = {name for name in before if "trainable_tokens_delta" in name}
    assert changed == lora | delta
    assert len(delta) == 1
    embeddings = first.model.get_input_embeddings()
    merged = embeddings.token_adapter.get_merged_weights(["default"])
    base = embeddings.token_adapter.base_layer.weight
    moved = (merged != base).any(dim=1).nonzero().flatten().tolist()
    assert moved == [eos]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox", "bert"])
def test_every_linear_layer_has_lora(family):
    """Counted on the model before: every weight matrix that is no embedding, no norm and no head."""
    model = load(
        family,
        MEAN
        if family != "bert"
        else Recipe(name="b", query_template="{bos}{text:pool}{eos}", attention="bidirectional"),
    )
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [name for name, weight in model.named_parameters() if weight.ndim == 2 and id(weight) not in embeddings]
    trained = add_adapter(model, AdapterConfig(rank=3))
    assert len(trained) == 2 * len(matrices)
    assert {name.split(".lora_")[0] for name in trained} == {name.removesuffix(".weight") for name in matrices}


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss"])
def test_in_a_mixture_of_experts_the_linear_layers_have_lora(family):
    """The experts' matrices are parameters of three dimensions, and the router's is no linear layer."""
    model = load(family, MEAN)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    trained = add_adapter(model, AdapterConfig(rank=3))
    assert linear
    assert {name.split(".lora_")[0] for name in trained} == set(linear)


def test_lora_begins_as_nothing_and_scales_by_alpha_over_rank():
    """An adapted layer equals W x + alpha / rank B A x, computed by hand; at the beginning B is 0."""
    model = load()
    before = model.encode(["the cat sat"])
    add_adapter(model, AdapterConfig(rank=4, alpha=6.0))
    assert (model.encode(["the cat sat"]) == before).all()
    layer = model[0].model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b)
    x = torch.randn(5, 32)
    torch.testing.assert_close(layer(x), x @ layer.base_layer.weight.T + 6.0 / 4 * x @ a.T @ b.T)


def test_the_beginning_depends_on_the_seed_alone_and_touches_no_other_randomness():
    def weights(seed, noise):
        torch.manual_seed(noise)
        model = load()
        at = torch.get_rng_state()
        add_adapter(model, AdapterConfig(), seed=seed)
        assert torch.equal(torch.get_rng_state(), at)
        return torch.cat([weight.flatten() for name, weight in model.named_parameters() if "lora_A" in name])

    assert torch.equal(weights(5, 1), weights(5, 2))
    assert not torch.equal(weights(5, 1), weights(6, 1))


@pytest.mark.parametrize(
    ("recipe", "setting", "wanted"),
    [
        (LAST, None, True),
        (MEAN, None, False),
        (MEAN, True, True),
        (LAST, False, False),
    ],
)
def test_the_end_token_is_trained_where_it_is_pooled_or_asked_for(recipe, setting, wanted):
    config = AdapterConfig(rank=2, end_token=setting)
    assert trains_end_token(recipe, config) is wanted
    trained = add_adapter(load(recipe=recipe), config)
    assert sum("embed_tokens" in name for name in trained) == wanted


def test_rank_0_trains_the_whole_model():
    model = load()
    eos = model[0].pieces.eos
    trained = add_adapter(model, AdapterConfig(rank=0))
    assert trained == [name for name, _ in model.named_parameters()]
    before = state(model)
    one_step(model)
    embedding = next(name for name in before if "embed_tokens" in name)
    assert (model.state_dict()[embedding][eos] != before[embedding][eos]).any()
    assert all(not torch.equal(before[name], after) for name, after in model.state_dict().items())


def test_targets_by_name():
    trained = add_adapter(load(recipe=MEAN), AdapterConfig(targets=("q_proj", "layers.1.mlp.up_proj")))
    layers = {name.split(".lora_")[0].removeprefix("0.model.") for name in trained}
    assert layers == {*(f"layers.{k}.self_attn.q_proj" for k in range(3)), "layers.1.mlp.up_proj"}


def test_unknown_targets_are_refused_with_what_there_is():
    with pytest.raises(errors.TrainingError, match=r"'q_prod'.*q_proj.*Did you mean 'q_proj'"):
        add_adapter(load(), AdapterConfig(targets=("q_prod",)))


def test_a_model_without_an_end_token_is_refused():
    model = load(recipe=MEAN)
    model[0].pieces.eos = None
    with pytest.raises(errors.TrainingError, match="no end token"):
        add_adapter(model, AdapterConfig(end_token=True))
