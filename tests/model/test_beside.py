"""Several prompts: what joins is what each prompt gives by itself; it is saved, cut and read like any other model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import echoembed
import tiny_models
from echoembed import Recipe, recipes
from echoembed.errors import ModelError, TextError
from echoembed.evaluation.cache import VectorCache, prompt_key
from echoembed.model.calibrate import calibrated_under, sentences
from echoembed.model.variants import Models, under
from loaded import TEXTS, TWO, tiny

FITTED_ON = tuple(text for text in sentences() if len(text) < 120)[:48]
DEEP = Recipe(name="deep", query_template="{bos}{text}\n{text:pool}", depth=0.7, calibration="z-score")
WORD = replace(recipes["prompteol"], name="word", depth=0.4, calibration="mean")
BAG = replace(recipes["bag-of-words"], layer=1, calibration="components-3")
JOINED = replace(DEEP, name="joined", beside=(WORD, BAG))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOEMBED_CACHE", str(tmp_path / "cache"))


def fitted(recipe: Recipe = JOINED, **kwargs) -> SentenceTransformer:
    """Under the recipe, its calibrations fitted on ``FITTED_ON``."""
    return calibrated_under(tiny(recipe.without_calibrations(), **kwargs), recipe, FITTED_ON)


def plain(recipe: Recipe, texts: list[str], **kwargs) -> np.ndarray:
    """Each prompt by a model of its own, put together by numpy."""
    made = []
    for prompt in recipe.prompts:
        alone = tiny(replace(prompt, calibration="none"))
        if prompt.calibration != "none":
            alone = echoembed.calibrate(alone, FITTED_ON, prompt.calibration)
        made.append(alone.encode(texts, **kwargs).astype(np.float64))
    joined = np.concatenate(made, axis=1) if recipe.join == "concatenate" else np.mean(made, axis=0)
    return joined / np.linalg.norm(joined, axis=1, keepdims=True)


@pytest.mark.parametrize("join", ["concatenate", "mean"])
@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_vectors_are_those_of_each_prompt_joined(join, engine):
    recipe = replace(JOINED, join=join)
    model = fitted(recipe, engine=engine)
    found, expected = model.encode(TEXTS * 9), plain(recipe, TEXTS * 9)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 3e-6
    assert model.get_embedding_dimension() == found.shape[1] == (96 if join == "concatenate" else 32)
    first = plain(replace(recipe, beside=()), TEXTS * 9)
    assert np.abs(found[:, :32] - first).max() > 0.05, "the others count"


def test_one_forward_at_a_time_gives_the_same_as_encode():
    model = fitted().eval()
    with torch.inference_mode():
        for features in (model.preprocess(TEXTS), model[0].features(model[0].reader.render(TEXTS))):
            assert np.abs(model(features)["sentence_embedding"].numpy() - model.encode(TEXTS)).max() < 2e-6
    assert np.abs(model.encode(TEXTS, truncate_dim=40) - model.encode(TEXTS)[:, :40]).max() < 1
    shared = VectorCache(together=("mean", "last"))
    assert np.abs(shared.encode(model, model[0].reader.render(TEXTS)) - model.encode(TEXTS)).max() < 2e-6


def test_weights_are_in_memory_once():
    model = fitted()[0]
    deep = {name: weight.data_ptr() for name, weight in model.model.named_parameters()}
    assert [part.layers for part in (model, *model.beside)] == [2, 1, 1]
    for part in model.beside:
        for name, weight in part.model.named_parameters():
            assert weight.data_ptr() == deep[name]
    assert model.beside[0].model is model.beside[1].model, "of one layer"
    assert sum(weight.numel() for weight in model.parameters()) == sum(w.numel() for w in model.model.parameters())


def test_a_deterministic_vector_has_the_same_bits_in_any_company():
    model = fitted(deterministic=True)
    together = model.encode(TEXTS)
    assert all(np.array_equal(model.encode(text), row) for text, row in zip(TEXTS, together, strict=True))


def test_int8_puts_every_prompts_layers_into_eight_bits():
    found, exact = (fitted(dtype=dtype).encode(TEXTS) for dtype in ("int8", "float32"))
    cosine = (found * exact).sum(axis=1)
    assert cosine.min() > 0.98
    assert not np.array_equal(found, exact)


@pytest.mark.parametrize("join", ["concatenate", "mean"])
def test_a_saved_model_is_read_by_both_loaders(join, tmp_path):
    model = fitted(replace(JOINED, join=join))
    folder = echoembed.save(model, tmp_path / "model")
    for again in (
        echoembed.load(folder, device="cpu"),
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
    ):
        assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
        assert again.encode(TEXTS[0], prompt_name="document").shape == model.encode(TEXTS[0]).shape
        assert [part.layers for part in again[0].beside] == [1, 1], "shares of the layers there were, not of those left"
    twice = echoembed.load(echoembed.save(echoembed.load(folder, device="cpu"), tmp_path / "twice"), device="cpu")
    assert np.array_equal(twice.encode(TEXTS), model.encode(TEXTS))
    assert not (tmp_path / "cache").exists(), "nothing was fitted anew"
    alone = echoembed.load(folder, recipe=replace(DEEP, calibration="none"), device="cpu")
    assert np.array_equal(alone.encode(TEXTS), tiny(replace(DEEP, calibration="none")).encode(TEXTS))


def test_a_model_saved_over_another_leaves_nothing_of_it(tmp_path):
    def files(folder):
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    fewer = replace(JOINED, beside=(replace(WORD, calibration="none"), BAG))
    for recipe in (JOINED, JOINED, fewer, JOINED):
        model = fitted(recipe)
        model.save_pretrained(str(tmp_path / "over"))
        model.save_pretrained(str(tmp_path / f"new-{recipe is fewer}"))
        again = echoembed.load(tmp_path / "over", device="cpu")
        assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
        assert files(tmp_path / "over") == files(tmp_path / f"new-{recipe is fewer}")


def test_a_calibration_that_is_missing_from_a_saved_model_is_noticed(tmp_path):
    folder = echoembed.save(fitted(), tmp_path / "model")
    modules = folder / "modules.json"
    modules.write_text(modules.read_text().replace("echoembed.model.Join", "sentence_transformers.models.Normalize"))
    with pytest.raises(ModelError, match="its calibrations are"):
        echoembed.load(folder, device="cpu")
    folder = echoembed.save(fitted(), tmp_path / "other")
    [config] = folder.glob("*_Join/config.json")
    config.write_text(config.read_text().replace("concatenate", "sum"))
    for load in (echoembed.load, lambda path, **_: SentenceTransformer(str(path), trust_remote_code=True)):
        with pytest.raises(ModelError, match="how = 'sum'"):
            load(folder, device="cpu")


@pytest.mark.parametrize("facts", [{"how": "mean"}, {"width": 5}, {"widths": [32, 5]}, {"widths": [32, -1]}])
def test_a_join_of_other_vectors_than_the_recipes_is_refused(tmp_path, facts):
    folder = echoembed.save(fitted(), tmp_path / "model")
    [config] = folder.glob("*_Join/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **facts}))
    with pytest.raises(ModelError, match="has an unreadable join"):
        echoembed.load(folder, device="cpu")


def test_without_texts_each_prompt_has_the_calibration_of_the_packages_sentences(capsys):
    both = replace(recipes["bag-of-words"], name="both", beside=(replace(WORD, layer=1, depth=None),))
    model = tiny(both)
    assert capsys.readouterr().err.count("calibrated") == 2
    assert [one.kind for one in (model[2], *model[3].fitted())] == ["z-components-16", "mean"]
    assert np.array_equal(tiny("bag-of-words").encode(TEXTS), tiny("bag-of-words").encode(TEXTS))
    assert capsys.readouterr().err == "", "both were kept, each by itself"
    other = Models(device="cpu").get(str(tiny_models.folder("llama")), both)
    assert np.array_equal(other.encode(TEXTS), model.encode(TEXTS))


def test_calibrate_fits_every_prompt_in_one_pass():
    raw = replace(JOINED, calibration="none", beside=(replace(WORD, calibration="none"), BAG))
    model = echoembed.calibrate(fitted(raw), iter(FITTED_ON), "mean")
    assert [row.calibration for row in model[0].recipe.prompts] == ["mean"] * 3
    expected = plain(model[0].recipe, TEXTS)
    assert np.abs(model.encode(TEXTS) - expected).max() < 3e-6
    own = echoembed.calibrate(fitted(raw), FITTED_ON)
    assert [row.calibration for row in own[0].recipe.prompts] == ["none", "none", "components-3"]


def test_what_a_model_is_covers_what_stands_beside_it():
    models = [fitted(), fitted(replace(JOINED, join="mean")), fitted(replace(JOINED, beside=(BAG, WORD))), fitted(DEEP)]
    prints = [echoembed.fingerprint(model) for model in models]
    assert len(set(prints)) == 4
    assert echoembed.fingerprint(fitted()) == prints[0]
    facts = echoembed.describe(models[0])
    assert facts["beside"] == "concatenate with word (layer 1, last), bag-of-words (layer 1, mean)"
    assert facts["calibration"].count("fitted on 48 texts") == 3
    assert (facts["dimension"], echoembed.describe(models[3])["beside"]) == (96, "none")
    [prompt] = models[0][0].reader.render(["Rain"])
    assert prompt_key(b"", prompt) != prompt_key(b"", replace(prompt, beside=()))


# Texts and instructions


def test_an_instruction_is_read_by_the_prompts_that_have_a_place_for_it():
    recipe = replace(TWO, name="asked", beside=(recipes["classical"],))
    model = tiny(recipe)
    for kwargs in ({"prompt": "which one"}, {"task": "document"}, {"prompt_name": "query"}, {}):
        assert np.abs(model.encode(TEXTS, **kwargs)[:, :32] - _unit_half(TWO, kwargs)).max() < 3e-6
        beside = {} if "prompt" in kwargs else kwargs
        assert np.abs(model.encode(TEXTS, **kwargs)[:, 32:] - _unit_half("classical", beside)).max() < 3e-6
    with pytest.raises(TextError, match="instruction"):
        tiny(replace(recipes["classical"], beside=(TWO,))).encode(TEXTS, prompt="which one")


def _unit_half(recipe, kwargs) -> np.ndarray:
    return tiny(recipe).encode(TEXTS, **kwargs) / np.sqrt(2)


def test_a_long_text_is_cut_for_each_prompt_and_the_most_is_told():
    model = tiny(replace(recipes["echo"], budget=20, beside=(replace(recipes["classical"], budget=4),)))
    [prompt] = model[0].reader.render(["one two three four five six seven eight nine ten"])
    assert prompt.dropped == prompt.beside[0].dropped > 0
    assert model[0].reader.room() == 4
    with pytest.raises(TextError):
        tiny(model[0].recipe, overflow="error").encode(["one two three four five six seven eight nine ten"])
    narrow = under(model, model[0].recipe.overridden(budget=3))
    assert narrow[0].reader.room() == 3


# Refusals


def test_a_deeper_prompt_beside_a_shallower_one_is_refused():
    with pytest.raises(ModelError, match="the prompt that reads deepest comes first"):
        tiny(replace(recipes["classical"], layer=1, beside=("echo",)))
    with pytest.raises(ModelError, match="9"):
        tiny(replace(recipes["classical"], beside=(replace(recipes["echo"], layer=9),)))


def test_vectors_of_other_widths_have_no_mean(monkeypatch):
    monkeypatch.setattr("echoembed.model.calibrate.sentences", lambda: pytest.fail("fitted before"))
    with pytest.raises(ModelError, match=r"concatenate for vectors of \[4, 32\]"):
        tiny(replace(recipes["echo"], calibration="whiten-4", join="mean", beside=("classical",)))
    with pytest.raises(ModelError, match="concatenate for vectors of"):
        fitted(replace(JOINED, join="mean", beside=(replace(WORD, calibration="whiten-8"),)))


@pytest.mark.parametrize("hindsight", ["slot-1-3", "keys-1-3", "keys-3-3"])
def test_a_further_prompt_that_ends_before_its_hindsight_is_refused(hindsight):
    part = replace(recipes["classical"], hindsight=hindsight, layer=2)
    with pytest.raises(ModelError, match="ends at layer 2 at most"):
        tiny(replace(recipes["echo"], beside=(part,)))
    tiny(replace(recipes["echo"], beside=(replace(part, layer=3),)))


def test_a_trained_recipe_beside_another_warns_as_it_does_alone():
    with pytest.warns(echoembed.RecipeWarning, match="'e5-mistral-7b' was made for intfloat/e5-mistral-7b-instruct"):
        tiny(replace(recipes["classical"], beside=("e5-mistral-7b",)))


def test_what_is_the_same_for_all_texts_makes_no_vector():
    marked = replace(recipes["prompteol"], layer=0)
    ended = replace(recipes["classical"], query_template="{bos:pool}{text:pool}", document_template="")
    before = replace(ended, query_template="{bos:pool}{text}", document_template="")
    asked = replace(ended, document_template="Title{bos:pool}: {text}")
    for recipe in (
        marked,
        replace(ended, pooling="first"),
        before,
        asked,
        replace(recipes["classical"], beside=(before,)),
    ):
        with pytest.raises(ModelError, match=r"pools no token that has seen the text at layer [03], so that all texts"):
            tiny(recipe)
    flat = tiny(replace(ended, layer=0))
    for recipe in (flat[0].recipe, ended, replace(marked, layer=1), replace(before, hindsight="keys-2-2")):
        one, other = tiny(recipe).encode(["A cat.", "The rain fell."])
        assert np.abs(one - other).max() > 1e-3
    with pytest.raises(ModelError, match="pools no token that has seen the text at layer 0"):
        under(flat, marked)


def test_training_is_refused():
    model = tiny(replace(recipes["classical"], beside=("echo",))).train()
    with pytest.raises(ModelError, match="a single prompt for training"):
        model.preprocess(TEXTS)
    with pytest.raises(ModelError, match="what preprocess gives"):
        tiny(replace(recipes["classical"], beside=("echo",))).eval()(tiny("classical").preprocess(TEXTS))
