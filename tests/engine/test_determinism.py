"""``deterministic=True``: the same bits alone, in any batch and in any order."""

import random

import numpy as np
import pytest

import echoembed
import tiny_models
from echoembed import errors
from echoembed.engine import choice, determinism

WORDS = ("river", "boats", "town", "old", "rain", "reading", "twice", "whole", "early", "nobody", "waits", "and", "the")
NEIGHBOURHOODS = 60  # benchmarks/neighbours.py tries 500


def texts(count, seed=0):
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice([1, 2, 5, 9, 17, 40]))) for _ in range(count)]


def assert_bits(model, pool, neighbourhoods, seed=1):
    chance = random.Random(seed)
    alone = {text: model.encode(text) for text in pool}
    for _ in range(neighbourhoods):
        batch = chance.choices(pool, k=chance.randint(1, 12))
        vectors = model.encode(batch, batch_size=chance.choice([1, 3, 8, 32]))
        assert np.array_equal(vectors, np.stack([alone[text] for text in batch]))


def test_bundled_model_in_random_neighbourhoods():
    model = echoembed.load("tiny", device="cpu", deterministic=True)
    pool = texts(24)
    assert_bits(model, pool, NEIGHBOURHOODS)
    usual = echoembed.load("tiny", device="cpu").encode(pool)
    assert np.abs(model.encode(pool) - usual).max() < 1e-6


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("qwen3", "echo"),
        ("gemma2", "echo-last"),
        ("gpt2", "classical"),
        ("mixtral", "echo"),
        ("llama", "classical-bidirectional"),
    ],
)
def test_families(family, recipe):
    model = echoembed.load(tiny_models.folder(family), recipe=recipe, device="cpu", deterministic=True)
    assert "deterministic" in echoembed.describe(model)["engine"]
    assert_bits(model, texts(10), 8)


def test_int8():
    assert_bits(echoembed.load("tiny", device="cpu", dtype="int8", deterministic=True), texts(10), 8)


def test_a_text_at_a_time_where_the_trial_fails(monkeypatch):
    monkeypatch.setattr(choice, "is_invariant", lambda *_: False)
    model = echoembed.load(tiny_models.folder("llama"), device="cpu", deterministic=True)
    assert echoembed.describe(model)["engine"].endswith("deterministic: a text at a time)")
    assert_bits(model, texts(10), 8)


def test_the_trial_sees_a_layer_that_depends_on_the_number_of_rows(monkeypatch):
    model = echoembed.load(tiny_models.folder("llama"), device="cpu")
    engine = model[0].selector.choice(model[0].model).engine
    layer = model[0].model.layers[1].mlp.up_proj
    before = layer.forward
    monkeypatch.setitem(layer.__dict__, "forward", lambda states: before(states) * (1 + 1e-6 * states.shape[1]))
    assert not determinism.is_invariant(engine, model[0].model, 64)


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "weighted-mean"])
def test_poolings_agree_with_the_library(pooling):
    recipe = echoembed.Recipe(name="r", query_template="{bos}Write: {text} Again: {text:pool}", pooling=pooling)
    usual, exact = (
        echoembed.load(tiny_models.folder("llama"), recipe=recipe, device="cpu", deterministic=value)
        for value in (False, True)
    )
    assert np.abs(usual.encode(texts(8)) - exact.encode(texts(8))).max() < 1e-5


def test_family_that_cannot_be_packed_is_refused():
    with pytest.raises(errors.ModelError, match="without deterministic=True"):
        echoembed.load(tiny_models.folder("bloom"), device="cpu", deterministic=True)
