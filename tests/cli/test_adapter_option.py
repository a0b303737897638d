"""``--adapter`` reaches the model, whichever verb takes it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import echoembed
import tiny_models
from echoembed.cli import app
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig, DataConfig, TrainConfig

pytest.importorskip("peft")

TEXTS = ["the cat sat on a mat", "rain fell over the old town", "boats"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from echoembed.training.export import save_model

    folder = tmp_path_factory.mktemp("run")
    model = echoembed.load(tiny_models.folder("llama"), recipe="classical", engine="padded", device="cpu")
    add_adapter(model, AdapterConfig(rank=4), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    config = TrainConfig(output=str(folder), recipe="classical", data=(DataConfig(path="none.jsonl"),))
    return save_model(model, config, folder / "model")


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_each_verb_embeds_with_the_adapter_and_its_recipe(adapter, tmp_path):
    trained = echoembed.load(adapter=adapter, device="cpu")
    expected_ND = trained.encode(TEXTS)
    matrix = expected_ND @ expected_ND.T
    facts = json.loads(run("info", "--adapter", adapter, "--json").stdout)
    assert facts["adapter"] == str(adapter)
    assert facts["recipe"] == "classical"
    assert facts["fingerprint"] == echoembed.fingerprint(trained)
    run("embed", *TEXTS, "-o", tmp_path / "v.npy", "-q", "--adapter", adapter)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected_ND, atol=1e-5)
    shown = json.loads(run("similarity", *TEXTS, "--json", "--adapter", adapter).stdout)
    np.testing.assert_allclose(shown["matrix"], matrix, atol=1e-5)
    shown = json.loads(run("compare", *TEXTS, "--json", "--adapter", adapter, "-r", "classical").stdout)
    np.testing.assert_allclose(shown["recipes"]["classical"]["matrix"], matrix, atol=1e-5)
    plain = json.loads(run("similarity", *TEXTS, "--json", "-m", tiny_models.folder("llama"), "-r", "classical").stdout)
    assert np.abs(np.array(plain["matrix"]) - matrix).max() > 1e-2


def test_an_evaluation_takes_it_too(adapter, tmp_path):
    pytest.importorskip("mteb")
    draw = random.Random(0)
    folder = tmp_path / "data" / "sts" / "made"
    folder.mkdir(parents=True)
    words = tiny_models.WORDS
    rows = [
        {"sentence1": " ".join(draw.choices(words, k=5)), "sentence2": " ".join(draw.choices(words, k=5)), "score": n}
        for n in range(12)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [score] = json.loads(run("eval", "--data", tmp_path / "data", "--adapter", adapter, "--json", "-q").stdout)
    assert score["fingerprint"] == echoembed.fingerprint(echoembed.load(adapter=adapter))
    assert score["recipe"] == "classical"


def test_an_adapter_on_another_model_is_one_line(adapter):
    result = run("info", "--adapter", adapter, "-m", tiny_models.folder("llama", seed=3), code=1)
    assert "On other weights it means nothing" in result.output.replace("\n", " ")
