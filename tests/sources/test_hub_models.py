"""Whole models by their hub names, from a local server that speaks the hub's protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import echoembed
import fake_hub
import tiny_models
from echoembed.sources.resolve import resolve

TEXTS = ["the cat sat on a mat", "rain fell over the old town and river"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub.FakeHub() as server:
        server.use(monkeypatch, tmp_path / "cache")
        yield server


def test_a_name_gives_the_model_and_its_exact_revision_goes_into_the_fingerprint(hub):
    first = hub.commit("someone/model", files(tiny_models.folder("llama", seed=1)))
    second = hub.commit("someone/model", files(tiny_models.folder("llama", seed=2)))
    new, old = echoembed.load("someone/model"), echoembed.load("someone/model", revision=first)
    assert (new[0].revision, old[0].revision) == (second, first)
    assert echoembed.fingerprint(new) != echoembed.fingerprint(old)
    for model, seed in ((old, 1), (new, 2)):
        local = echoembed.load(tiny_models.folder("llama", seed=seed))
        np.testing.assert_array_equal(model.encode(TEXTS), local.encode(TEXTS))


def test_a_saved_model_comes_back_from_the_hub_with_its_recipe(hub, tmp_path):
    model = echoembed.load(tiny_models.folder("llama"), recipe="classical")
    hub.commit("someone/saved", files(echoembed.save(model, tmp_path / "saved")))
    again = echoembed.load("someone/saved")
    assert again[0].recipe.name == "classical"
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_the_librarys_folder_and_token_are_used_for_all_that_is_fetched(hub, tmp_path):
    model = echoembed.load(tiny_models.folder("llama"), recipe="classical")
    hub.commit("someone/saved", files(echoembed.save(model, tmp_path / "saved")))
    options = {"cache_folder": str(tmp_path / "elsewhere"), "token": "hf_mine"}
    again = SentenceTransformer("someone/saved", trust_remote_code=True, device="cpu", **options)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert tmp_path / "elsewhere" in again[0].weights_folder.parents
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]
    assert set(hub.tokens) == {"Bearer hf_mine"}
    assert resolve("someone/saved", cache_folder=options["cache_folder"], local_files_only=True)


def test_a_download_that_breaks_off_leaves_no_model_and_the_next_one_is_whole(hub):
    hub.commit("someone/model", files(tiny_models.folder("llama")))
    hub.cut("model.safetensors", after=1000, times=20)
    with pytest.raises(echoembed.errors.EchoembedError):
        echoembed.load("someone/model")
    hub.cut("model.safetensors", after=1000, times=0)
    local = echoembed.load(tiny_models.folder("llama"))
    np.testing.assert_array_equal(echoembed.load("someone/model").encode(TEXTS), local.encode(TEXTS))


def test_published_adapters_are_fetched_and_merged_in_order(hub):
    row = echoembed.recipes["llm2vec-supervised"]
    hub.commit(row.checkpoint, files(tiny_models.folder("mistral")))
    for seed, name in enumerate(row.adapters, start=1):
        hub.commit(name, files(tiny_models.adapter("mistral", seed=seed)))
    merged = echoembed.load(recipe=row)
    base = echoembed.load(tiny_models.folder("mistral"))
    change = [
        (one - other).abs().max()
        for one, other in zip(merged[0].model.parameters(), base[0].model.parameters(), strict=True)
    ]
    assert torch.stack(change).max() > 1e-3
    assert merged[0].revision != base[0].revision


def test_a_recipe_whose_adapters_are_of_another_model_says_so(hub):
    with pytest.raises(echoembed.errors.ModelError) as caught:
        echoembed.load("tiny", recipe="llm2vec-supervised")
    row = echoembed.recipes["llm2vec-supervised"]
    said = str(caught.value)
    assert f"merges adapters that were published for {row.checkpoint} into 'tiny'" in said
    assert said.endswith("Choose another recipe, or train an adapter for 'tiny': echoembed train.")
