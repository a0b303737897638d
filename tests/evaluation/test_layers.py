"""What the store of every layer gives is what a model cut at that layer pools, and nothing is computed twice."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import spearmanr

import echoembed
import tiny_models
from echoembed import errors, recipes
from echoembed.evaluation import layers
from echoembed.evaluation.layers import LAYER_POOLINGS, LayerStore
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under

TEXTS = ["A cat sat on a mat.", "Rain fell over the old town and the river.", "A cat sat on a mat.", "Boats"]


@pytest.fixture(scope="module")
def model():
    return echoembed.load(tiny_models.folder("llama"), device="cpu", normalize=False)


def prompts_of(model, texts=TEXTS):
    return transformer_of(model).reader.render(texts)


@pytest.mark.parametrize("pooling", LAYER_POOLINGS)
def test_each_layer_is_what_a_model_cut_there_pools(model, pooling, tmp_path):
    count = transformer_of(model).layers
    store = LayerStore(tmp_path)
    vectors_NLD = store.vectors(model, prompts_of(model), range(count + 1), pooling)
    for layer in range(count + 1):
        recipe = replace(recipes["echo"], pooling=pooling, layer=-1 if layer == count else layer)
        cut = echoembed.load(tiny_models.folder("llama"), recipe=recipe, device="cpu", normalize=False)
        expected = cut.encode(TEXTS)
        np.testing.assert_allclose(vectors_NLD[:, layer], expected, atol=1e-3 * np.abs(expected).max())


def test_float16_on_disk_moves_no_ranking(model, tmp_path):
    texts = [f"{who} {what} in {where}." for who in TEXTS for what in ("slept", "sang") for where in ("Rome", "a tent")]
    prompts = prompts_of(model, sorted(set(texts)))
    exact_NLD = layers.every_layer(model, prompts)["mean"]
    stored_NLD = LayerStore(tmp_path).vectors(model, prompts, range(exact_NLD.shape[1]), "mean")
    for exact_ND, stored_ND in zip(exact_NLD.swapaxes(0, 1), stored_NLD.swapaxes(0, 1), strict=True):
        for vectors_ND in (exact_ND, stored_ND):
            vectors_ND -= vectors_ND.mean(axis=0)
            vectors_ND /= vectors_ND.std(axis=0) + 1e-12
            vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        pairs = np.triu_indices(len(prompts), 1)
        assert spearmanr((exact_ND @ exact_ND.T)[pairs], (stored_ND @ stored_ND.T)[pairs]).statistic > 0.9999


def test_numbers_of_very_different_sizes_keep_their_digits(tmp_path):
    vectors_NLD = np.array([[[3e7, 1.0, -2e-3]], [[1e-9, -3e-8, 1e-12]]], dtype=np.float32)
    path = tmp_path / "shard.safetensors"
    layers._write(path, [b"0" * 16, b"1" * 16], {"mean": vectors_NLD})
    stored = load_file(path)
    back_ND = stored["mean.0"].astype(np.float32) * stored["mean.0.scale"][:, None]
    np.testing.assert_allclose(back_ND, vectors_NLD[:, 0], rtol=1e-3, atol=3e7 * 2.0**-39)


def test_a_prompt_goes_through_the_model_once_also_in_another_run(model, tmp_path):
    store = LayerStore(tmp_path)
    store.fill(model, prompts_of(model))
    assert store.computed == 3  # one text stands there twice
    store.vectors(model, prompts_of(model), [1], "last")
    again = LayerStore(tmp_path)
    again.fill(model, prompts_of(model, [*TEXTS, "A new one."]))
    assert (store.computed, again.computed) == (3, 1)
    other = under(model, recipes["classical"])
    again.fill(other, prompts_of(other))
    assert again.computed == 4


def test_a_killed_run_loses_a_file_at_most(model, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "SHARD", 2)
    texts = [f"Text number {number}" for number in range(7)]

    def stop(done):
        if done >= 4:
            raise KeyboardInterrupt

    store = LayerStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.fill(model, prompts_of(model, texts), progress=stop)
    again = LayerStore(tmp_path)
    again.fill(model, prompts_of(model, texts))
    assert again.computed == 3
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".safetensors"] * 4


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_damaged_file_is_read_again(model, tmp_path, damage):
    prompts = model[0].reader.render(TEXTS)
    store = LayerStore(tmp_path)
    before = store.vectors(model, prompts, [1], "mean")
    [file] = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
    again = LayerStore(tmp_path)
    assert np.array_equal(again.vectors(model, prompts, [1], "mean"), before)
    assert again.computed == len(set(TEXTS))


def test_weights_do_not_mix(model, tmp_path):
    other = echoembed.load(tiny_models.folder("gemma2"), device="cpu", normalize=False)
    store = LayerStore(tmp_path)
    for one in (model, other):
        store.fill(one, prompts_of(one))
    assert store.computed == 6
    assert len(list(tmp_path.iterdir())) == 2


def test_a_model_cut_at_a_layer_is_refused(tmp_path):
    cut = echoembed.load(tiny_models.folder("llama"), layer=1, device="cpu")
    with pytest.raises(errors.ModelError, match="names no layer"):
        LayerStore(tmp_path).fill(cut, prompts_of(cut))


def test_what_is_missing_is_counted(model, tmp_path):
    store = LayerStore(tmp_path)
    assert store.missing(model, prompts_of(model)) == 3
    store.fill(model, prompts_of(model))
    assert store.missing(model, prompts_of(model, [*TEXTS, "A new one."])) == 1
