"""Pooling by how rare tokens are: against counts and sums in plain Python."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

import echoembed
import tiny_models
from echoembed import Recipe
from echoembed.errors import ModelError
from echoembed.model.frequencies import FILE, Frequencies
from echoembed.model.variants import under
from loaded import TEXTS, tiny

SIF = Recipe(name="sif", query_template="{bos}Write a paragraph: {text:pool}", layer=1, pooling="frequency-mean")
COMMON = [f"the cat sat on the mat , {number} times ." for number in ("two", "once", "this", "that")] * 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOEMBED_CACHE", str(tmp_path / "cache"))


def plain(model, texts: list[str], counted: list[str]) -> np.ndarray:
    """Unit vectors, from counts of the texts' own tokens and the states of transformers' first layer."""
    stock = AutoModel.from_pretrained(tiny_models.folder("llama")).eval()
    counts: Counter[int] = Counter()
    for text in counted:
        read = echoembed.render(model, text)
        counts.update(read.ids[place] for place in range(*read.span))
    total, rows = sum(counts.values()), []
    for text in texts:
        read = echoembed.render(model, text)
        with torch.no_grad():
            states = stock(torch.tensor([read.ids]), output_hidden_states=True).hidden_states[1][0].double().numpy()
        weights = [0.001 / (0.001 + counts[read.ids[place]] / total) for place in range(*read.span)]
        rows.append(sum(w * states[place] for w, place in zip(weights, range(*read.span), strict=True)) / sum(weights))
    return np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_vectors_are_weighted_by_the_counts_of_the_packages_sentences(engine):
    from echoembed.model.calibrate import sentences

    model = tiny(SIF, engine=engine)
    found = model.encode(TEXTS * 9)[: len(TEXTS)]
    assert np.abs(found - plain(model, TEXTS, list(sentences()))).max() < 1e-5
    assert np.abs(found - tiny(replace(SIF, pooling="mean"), engine=engine).encode(TEXTS)).max() > 0.05


def test_a_users_texts_are_counted_before_they_calibrate():
    """SIF as published: rare tokens count, then the mean and the widest direction go."""
    calibrated = echoembed.calibrate(tiny(SIF), iter(COMMON + TEXTS), "components-1")
    counted = under(calibrated, SIF)
    assert np.abs(counted.encode(TEXTS) - plain(counted, TEXTS, COMMON + TEXTS)).max() < 1e-5
    raw = tiny(SIF, normalize=False)
    raw[0].frequencies = calibrated[0].frequencies
    fitted_on, vectors = (raw.encode(texts).astype(np.float64) for texts in (COMMON + TEXTS, TEXTS))
    centred = fitted_on - fitted_on.mean(axis=0)
    widest = np.linalg.svd(centred)[2][0]
    moved = vectors - fitted_on.mean(axis=0)
    expected = moved - np.outer(moved @ widest, widest)
    assert np.abs(calibrated.encode(TEXTS) - expected / np.linalg.norm(expected, axis=1, keepdims=True)).max() < 1e-4


def test_counts_are_saved_with_the_model_and_part_of_its_fingerprint(tmp_path):
    model = echoembed.calibrate(tiny(SIF), COMMON + TEXTS, "mean")
    loaded = echoembed.load(echoembed.save(model, tmp_path / "saved"))
    assert np.array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    assert loaded[0].frequencies.identity() == model[0].frequencies.identity()
    assert np.array_equal(echoembed.load(tmp_path / "saved", recipe=SIF).encode(TEXTS), under(model, SIF).encode(TEXTS))
    assert echoembed.fingerprint(under(model, SIF)) != echoembed.fingerprint(tiny(SIF))
    [kept] = (tmp_path / "saved").rglob(FILE)
    kept.write_bytes(kept.read_bytes()[:40])
    with pytest.raises(ModelError, match=FILE):
        echoembed.load(tmp_path / "saved")
    kept.unlink()
    for load in (echoembed.load, lambda path: SentenceTransformer(str(path), trust_remote_code=True)):
        with pytest.raises(ModelError, match=FILE):
            load(tmp_path / "saved")


def test_a_deterministic_vector_has_the_same_bits_in_any_company():
    model = tiny(SIF, deterministic=True)
    together = model.encode(TEXTS * 7)
    assert all(np.array_equal(model.encode(text), row) for text, row in zip(TEXTS, together, strict=False))


def test_prompts_beside_others_are_counted_too():
    both = Recipe(name="both", query_template="{bos}{text:pool}", beside=[replace(SIF, name="part")])
    model = echoembed.calibrate(tiny(both), COMMON + TEXTS, "mean")
    alone = [echoembed.calibrate(tiny(part), COMMON + TEXTS, "mean") for part in both.prompts]
    parts = np.hstack([part.encode(TEXTS) for part in alone]) / np.sqrt(2)
    assert np.abs(model.encode(TEXTS) - parts).max() < 1e-5


def test_counts_that_say_nothing_are_refused():
    ids = torch.tensor([1, 2])
    for counts in (torch.tensor([1]), torch.tensor([0, 1]), torch.tensor([1.0, 2.0])):
        with pytest.raises(ModelError, match="frequencies"):
            Frequencies(ids_W=ids, counts_W=counts)
    for wrong in (torch.tensor([2, 1]), torch.tensor([1, 1]), torch.tensor([-1, 1])):
        with pytest.raises(ModelError, match="ids in order, each once"):
            Frequencies(ids_W=wrong, counts_W=ids)
    with pytest.raises(ModelError, match="fitted on 0 texts"):
        echoembed.calibrate(tiny(SIF), [], "mean")
