"""What is kept is what the model gives, and weights are shared without mixing recipes up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import echoembed
from echoembed import recipes
from echoembed.evaluation.cache import MEAN_AND_LAST, VectorCache
from echoembed.experiments.figure2 import token_vectors
from echoembed.model.variants import Models

TEXTS = ["A cat sat on the mat.", "Rain.", "The bank refused the loan because of its terms.", "Rain."]


def encode(cache, model):
    return cache.encode(model, model[0].reader.render(TEXTS, task="query"))


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.mark.parametrize("name", ["echo", "classical-last", "classical-bidirectional", "prompteol"])
def test_vectors_are_those_of_the_model_as_it_is_loaded(models, name):
    loaded = echoembed.load("tiny", recipe=name)
    shared = models.get("tiny", name)
    expected = loaded.encode(TEXTS, task="query")
    assert shared.encode(TEXTS, task="query") == pytest.approx(expected, abs=1e-6)
    assert encode(VectorCache(), shared) == pytest.approx(expected, abs=1e-6)
    assert encode(VectorCache(together=MEAN_AND_LAST), shared) == pytest.approx(expected, abs=1e-6)
    assert echoembed.fingerprint(shared) == echoembed.fingerprint(loaded)


def test_weights_are_loaded_once_for_recipes_that_read_them_alike(models):
    first, second = models.get("tiny", "echo"), models.get("tiny", "classical")
    assert first[0].model is second[0].model
    assert first[0].recipe.name == "echo"
    assert second[0].recipe.name == "classical"
    assert models.get("tiny", "classical-bidirectional")[0].model is not first[0].model


def test_a_prompt_goes_through_the_model_once_for_all_that_share_it(models):
    cache = VectorCache(together=MEAN_AND_LAST)
    echo, last = models.get("tiny", "echo"), models.get("tiny", "echo-last")
    mean = encode(cache, echo)
    assert cache.computed == 3  # one text stands there twice
    encode(cache, models.get("tiny", "echo-compute-matched"))
    final = encode(cache, last)
    assert cache.computed == 3
    assert final == pytest.approx(last.encode(TEXTS), abs=1e-6)
    assert not np.allclose(mean, final)
    encode(cache, models.get("tiny", "classical"))
    assert cache.computed == 6


def test_deterministic_vectors_are_pooled_as_their_own_recipe_says():
    """Their states come pooled, so that no other pooling can be made of them."""
    models, cache = Models(deterministic=True), VectorCache(together=MEAN_AND_LAST)
    for name in ("echo", "echo-last"):
        model = models.get("tiny", name)
        assert np.array_equal(encode(cache, model), model.encode(TEXTS, task="query"))


def test_weights_that_were_trained_meanwhile_are_others():
    model = echoembed.load("tiny", recipe="echo")
    cache = VectorCache()
    before = encode(cache, model)
    with torch.no_grad():
        for weight in model[0].model.parameters():
            weight.mul_(1.5)
    assert not np.allclose(before, encode(cache, model))


def test_texts_cut_by_a_budget_are_not_taken_for_whole_ones(models):
    cache = VectorCache(together=MEAN_AND_LAST)
    whole = encode(cache, models.get("tiny", "echo"))
    cut = models.get("tiny", replace(recipes["echo"], name="cut", budget=2))
    first = encode(cache, cut)
    again = encode(cache, cut)
    assert not np.allclose(whole[0], first[0])
    assert np.array_equal(first, again)
    dropped = sum(prompt.dropped > 0 for prompt in cut[0].reader.render(TEXTS))
    assert dropped >= 2


def test_what_does_not_fit_is_computed_again(models):
    cache = VectorCache(most_bytes=0)
    first = encode(cache, models.get("tiny", "echo"))
    assert np.array_equal(first, encode(cache, models.get("tiny", "echo")))
    assert cache.computed == 6


def test_the_first_part_of_one_reading_knows_nothing_of_the_rest_and_that_of_two_does(models):
    texts = ["The baker sings, glad and warm.", "The baker sings, tired and cold."]
    firsts = ["The baker sings"] * 2
    for name, knows in (("classical", False), ("echo", True)):
        model = models.get("tiny", name)
        found = token_vectors(model, texts, firsts, 32)
        assert np.allclose(found["first"][0], found["first"][1], atol=1e-5) != knows
        unit = found["mean"] / np.linalg.norm(found["mean"], axis=1, keepdims=True)
        assert unit == pytest.approx(model.encode(texts), abs=1e-5)


def test_a_fingerprint_covers_recipe_layer_and_weights(models):
    echo = recipes["echo"]
    prints = {models.fingerprint(None, row) for row in (echo, replace(echo, layer=2), replace(echo, budget=9))}
    assert len(prints) == 3
    assert models.fingerprint(None, echo) == models.fingerprint(None, replace(echo, name="other"))
    assert models.fingerprint(None, echo) != Models(dtype="bfloat16").fingerprint(None, echo)
