"""Prompts on both sides of a limit of longrope: in any company, each has the states it has alone in transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel

import echoembed
import tiny_models
from echoembed import Recipe
from echoembed.engine.gradients import TrainingEngine
from echoembed.engine.rotary import by_rotary
from echoembed.model.forward import pooled_states
from echoembed.model.layers import layer_states
from echoembed.model.pooling import pad
from echoembed.model.transformer import transformer_of

LIMIT = 64
TEXTS = ["rain", "the cat sat on a mat", "the river carried its boats to the old town " * 9, "boats", "word " * 60]
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": LIMIT,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}
_PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
FAMILIES = ["phi3", "gemma3"]
_made = tiny_models.folder.__wrapped__  # its cache does not take tables


@cache
def folder(family: str) -> Path:
    """Phi-3 has one table of rotary parameters, Gemma 3 one for each type of layer."""
    if family == "phi3":
        return _made("phi3", original_max_position_embeddings=LIMIT, rope_parameters=_LONG)
    tables = {"full_attention": _LONG, "sliding_attention": _PLAIN}
    layers = ["sliding_attention", "full_attention", "full_attention"]
    return _made("gemma3", rope_parameters=tables, layer_types=layers)


def loaded(family: str, recipe: str | Recipe = "echo", **settings):
    return echoembed.load(folder(family), recipe=recipe, device="cpu", overflow="ignore", **settings)


def read(model):
    prompts = transformer_of(model).reader.render(TEXTS)
    lengths = [len(prompt.ids) for prompt in prompts]
    assert min(lengths) < LIMIT < max(lengths)
    return prompts


@torch.no_grad()
def alone(family: str, prompts, layer: int = -1) -> list[torch.Tensor]:
    """The pooled states of every prompt, each in a forward of its own."""
    model = AutoModel.from_pretrained(folder(family), attn_implementation="eager").eval()
    outputs = [model(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True) for prompt in prompts]
    pairs = zip(outputs, prompts, strict=True)
    return [output.hidden_states[layer][0, slice(*prompt.span)] for output, prompt in pairs]


def assert_states(states_BSD, mask_BS, wanted):
    for states_SD, mask_S, wanted_SD in zip(states_BSD, mask_BS, wanted, strict=True):
        assert int(mask_S.sum()) == len(wanted_SD)
        assert (states_SD[: len(wanted_SD)] - wanted_SD).abs().max() < 1e-4 * wanted_SD.abs().max()


@pytest.mark.parametrize("engine", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_do_not_depend_on_which_prompts_are_over_the_limit(family, engine):
    model = loaded(family, engine=engine)
    wanted = torch.stack([states_SD.mean(dim=0) for states_SD in alone(family, read(model))])
    wanted = torch.nn.functional.normalize(wanted).numpy()
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS[::-1], batch_size=2), wanted[::-1], atol=1e-5)


@pytest.mark.parametrize("engine", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_are_the_states_of_every_layer(family, engine):
    model = loaded(family, engine=engine)
    prompts = read(model)
    states_LBSD, mask_BS = layer_states(model, prompts)
    for layer in range(len(states_LBSD)):
        assert_states(states_LBSD[layer], mask_BS, alone(family, prompts, layer))


@pytest.mark.parametrize(
    "fields", [{"hindsight": "slot-1-2"}, {"hindsight": "keys-1-2"}, {"pooling": "attention-mean"}], ids=str
)
def test_recipes_that_look_back_give_each_prompt_what_it_has_alone(fields):
    model = loaded("phi3", Recipe(name="looks", query_template="{bos}about {text:pool}", **fields))
    read(model)
    np.testing.assert_allclose(model.encode(TEXTS), [model.encode(text) for text in TEXTS], atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_is_left_out(side):
    model = loaded("phi3", engine="padded")
    transformer, prompts = transformer_of(model), read(model)
    features = pad(prompts, 0)
    if side == "left":
        longest = max(len(prompt.ids) for prompt in prompts)
        shifts = [longest - len(prompt.ids) for prompt in prompts]
        features |= {
            name: torch.stack([row.roll(shift) for row, shift in zip(features[name], shifts, strict=True)])
            for name in ("input_ids", "attention_mask", "span_mask")
        }
        shifted = [len(prompt.ids) for prompt in prompts if len(prompt.ids) < LIMIT]
        assert len(set(shifted)) > 1
    with torch.no_grad():
        states_BSD, mask_BS = pooled_states(transformer, features, None, None, {})
    if side == "right":
        return assert_states(states_BSD, mask_BS, alone("phi3", prompts))
    assert mask_BS.sum(dim=1).tolist() == [prompt.span[1] - prompt.span[0] for prompt in prompts]
    assert states_BSD.isfinite().all()
    return None


@pytest.mark.parametrize("packed", [True, False])
def test_gradients_of_a_batch_are_the_sum_of_those_of_its_prompts(packed):
    model = loaded("phi3", engine="padded")
    transformer, prompts = transformer_of(model), read(model)
    weights = [weight for weight in transformer.model.parameters() if weight.ndim == 2]
    engine = TrainingEngine.of(transformer.model, causal=True) if packed else None
    model.train(False)

    def gradients(batch):
        states_BSD, _ = pooled_states(transformer, {}, batch, engine, {})
        return torch.autograd.grad(states_BSD.square().sum(), weights, allow_unused=True)

    found = gradients(prompts)
    single = [gradients([prompt]) for prompt in prompts]
    for gradient, *others in zip(found, *single, strict=True):
        if gradient is not None:
            assert (gradient - sum(others)).norm() < 1e-3 * gradient.norm()


def test_the_states_of_training_come_in_the_order_of_the_prompts():
    model = loaded("phi3", engine="padded")
    engine, prompts = TrainingEngine.of(transformer_of(model).model, causal=True), read(model)
    with torch.no_grad():
        assert_states(*engine.states(transformer_of(model).model, prompts), alone("phi3", prompts))


def test_prompts_are_grouped_by_every_limit_of_every_table():
    tables = {"a": {"original_max_position_embeddings": 4}, "b": {"original_max_position_embeddings": 8}, "c": {}}
    model = SimpleNamespace(config=SimpleNamespace(rope_parameters=tables))
    assert by_rotary(model, [9, 4, 5, 8, 1, 20]) == [[0, 5], [1, 4], [2, 3]]
    for without in (None, {}, {"rope_type": "default"}, {"a": {"original_max_position_embeddings": None}}):
        assert by_rotary(SimpleNamespace(config=SimpleNamespace(rope_parameters=without)), [1, 9]) == [[0, 1]]
    assert by_rotary(SimpleNamespace(config=SimpleNamespace()), [1, 9]) == [[0, 1]]
