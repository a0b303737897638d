"""``load(..., engine=...)``: what runs, what is reported, and what training sees."""

import numpy as np
import pytest
import torch

import echoembed
import tiny_models
from echoembed import errors

TEXTS = ["the cat", "rain fell over the old town and the river", "a", "boats", "the cat", "nobody waits , nobody"]


def test_packed_is_what_runs_where_it_passes_and_describe_says_so():
    folder = tiny_models.folder("llama")
    packed, padded = echoembed.load(folder), echoembed.load(folder, engine="padded")
    assert echoembed.describe(packed)["engine"] == "packed (checked, shared prefix, trimmed last layer)"
    assert echoembed.describe(padded)["engine"] == "padded (asked for)"
    for encode in ("encode", "encode_query", "encode_document"):
        one, other = getattr(packed, encode)(TEXTS), getattr(padded, encode)(TEXTS)
        assert np.abs(one - other).max() < 1e-5
    assert echoembed.fingerprint(packed) == echoembed.fingerprint(padded)


def test_family_that_falls_back():
    folder = tiny_models.folder("bloom")
    assert echoembed.describe(echoembed.load(folder))["engine"] == "padded (it ignores the attention it is given)"
    with pytest.raises(errors.ModelError, match="cannot run on the packed engine: it ignores the attention"):
        echoembed.load(folder, engine="packed")


def test_unknown_engine():
    with pytest.raises(errors.ModelError, match=r"engine = 'fast'\. Allowed: packed, padded, or None"):
        echoembed.load(tiny_models.folder("llama"), engine="fast")


@pytest.mark.parametrize("recipe", ["classical-last", "prompteol", "classical-bidirectional", "echo-compute-matched"])
def test_recipes(recipe):
    folder = tiny_models.folder("qwen3")
    packed, padded = (echoembed.load(folder, recipe=recipe, engine=engine) for engine in ("packed", "padded"))
    assert np.abs(packed.encode(TEXTS) - padded.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_model_cut_at_a_layer(layer):
    folder = tiny_models.folder("llama")
    packed, padded = (echoembed.load(folder, layer=layer, engine=engine) for engine in (None, "padded"))
    assert np.abs(packed.encode(TEXTS) - padded.encode(TEXTS)).max() < 1e-5
    assert echoembed.describe(packed)["engine"].startswith("packed" if layer else "padded")


def test_instruction():
    folder = tiny_models.folder("mistral")
    packed, padded = (
        echoembed.load(folder, recipe="classical-finetuned", engine=engine) for engine in ("packed", "padded")
    )
    for prompt in ("retrieve similar text", "a mat"):
        assert np.abs(packed.encode(TEXTS, prompt=prompt) - padded.encode(TEXTS, prompt=prompt)).max() < 1e-5


def test_training_runs_the_padded_forward_with_gradients():
    model = echoembed.load(tiny_models.folder("llama"))
    features = model.preprocess(TEXTS)
    model.train()
    states = model(features)["sentence_embedding"]
    assert states.requires_grad
    states.sum().backward()
    model.eval()
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    with torch.no_grad():
        assert (model(features)["sentence_embedding"] - states).abs().max() < 1e-5


def test_bundled_model():
    packed, padded = (echoembed.load("tiny", engine=engine, overflow="ignore") for engine in ("packed", "padded"))
    texts = [" ".join(["A text about rivers and boats."] * count) for count in (1, 2, 3, 5, 9, 20, 300)]
    assert np.abs(packed.encode(texts) - padded.encode(texts)).max() < 1e-6


@torch.inference_mode()
def test_features_changed_after_preprocessing_are_what_is_read():
    packed, padded = (
        echoembed.load(tiny_models.folder("llama"), engine=engine, device="cpu").eval()
        for engine in ("packed", "padded")
    )
    texts = ["the cat sat on a mat", "rain fell"]
    plain = packed(packed.preprocess(texts))["sentence_embedding"]
    results = []
    for model in (packed, padded):
        features = model.preprocess(texts)
        features["input_ids"][0, -2] = features["input_ids"][0, 1]
        results.append(model(features)["sentence_embedding"])
    assert (results[0] - results[1]).abs().max() < 1e-5
    assert (results[0][0] - plain[0]).abs().max() > 1e-3  # else the change was not seen
