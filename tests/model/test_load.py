"""Names of models and recipes find each other, and what cannot be loaded is refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import echoembed
import tiny_models
from echoembed import RecipeWarning
from echoembed.errors import ModelError, RecipeError
from echoembed.sources.resolve import Source
from loaded import TEXTS, tiny


@pytest.fixture
def hub(monkeypatch):
    """Some published names, each a tiny model of its architecture."""
    asked: list[str] = []
    families = {
        "intfloat/e5-mistral-7b-instruct": "mistral",
        "jspringer/echo-mistral-7b-instruct-lasttoken": "mistral",
        "mistralai/Mistral-7B-Instruct-v0.2": "mistral",
        "google-bert/bert-large-uncased": "bert",
        "izhx/udever-bloom-7b1": "bloom",
        "Qwen/Qwen3-0.6B": "qwen3",
    }

    def resolve(name, **_):
        asked.append(name)
        return Source(name=name, folder=tiny_models.folder(families[name]), revision="ab" * 20, origin="hub")

    def resolve_adapter(name, **_):
        asked.append(name)
        seed = 1 if name.endswith("-mntp") else 2
        revision = f"{len(name):040x}"
        return Source(name=name, folder=tiny_models.adapter("mistral", seed=seed), revision=revision, origin="hub")

    monkeypatch.setattr("echoembed.model.load.resolve", resolve)
    monkeypatch.setattr("echoembed.model.load.resolve_adapter", resolve_adapter)
    return asked


@pytest.mark.parametrize(
    ("kwargs", "asked", "row"),
    [
        ({"recipe": "e5-mistral-7b"}, "intfloat/e5-mistral-7b-instruct", "e5-mistral-7b"),
        (
            {"model": "jspringer/echo-mistral-7b-instruct-lasttoken"},
            "jspringer/echo-mistral-7b-instruct-lasttoken",
            "echo-finetuned-last",
        ),
        ({"model": "google-bert/bert-large-uncased"}, "google-bert/bert-large-uncased", "bert-large"),
        ({"recipe": "udever-bloom-7b"}, "izhx/udever-bloom-7b1", "udever-bloom-7b"),
        ({"model": "Qwen/Qwen3-0.6B"}, "Qwen/Qwen3-0.6B", "echo"),
        ({"model": "Qwen/Qwen3-0.6B", "recipe": "classical"}, "Qwen/Qwen3-0.6B", "classical"),
        ({"model": "mistralai/Mistral-7B-Instruct-v0.2"}, "mistralai/Mistral-7B-Instruct-v0.2", "echo"),
    ],
)
def test_a_row_finds_its_checkpoint_and_a_checkpoint_its_row(kwargs, asked, row, hub):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no RecipeWarning: these belong together
        model = echoembed.load(**kwargs, device="cpu")
    assert hub == [asked]
    assert model[0].recipe.name == row
    assert model[0].name == asked
    assert np.isfinite(model.encode(TEXTS)).all()


def test_an_adapters_name_brings_its_base_and_what_comes_before_it(hub):
    supervised = "McGill-NLP/LLM2Vec-Mistral-7B-Instruct-v2-mntp-supervised"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)
        model = echoembed.load(supervised, device="cpu")
    assert hub == [
        "mistralai/Mistral-7B-Instruct-v0.2",
        "McGill-NLP/LLM2Vec-Mistral-7B-Instruct-v2-mntp",
        supervised,
    ]
    assert model[0].recipe.name == "llm2vec-supervised"
    unsupervised = echoembed.load(recipe="llm2vec-unsupervised", device="cpu")
    assert model[0].revision != unsupervised[0].revision
    assert model[0].revision != "ab" * 20


def test_merged_adapters_are_saved_with_the_model(hub, tmp_path):
    model = echoembed.load(recipe="llm2vec-supervised", device="cpu")
    folder = echoembed.save(model, tmp_path / "model")
    again = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("row", ["e5-mistral-7b", "classical-finetuned", "gritlm-7b"])
def test_a_trained_row_on_another_model_says_so(row):
    with pytest.warns(RecipeWarning, match=rf"The recipe '{row}' was made for .* and is used on"):
        tiny(row, "mistral")


@pytest.mark.parametrize("row", ["echo", "classical-bidirectional", "prompteol"])
def test_a_zero_shot_row_says_nothing(row):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(row, "mistral")


def test_a_copy_of_the_checkpoint_in_a_folder_of_its_name_says_nothing(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("mistral"), tmp_path / "e5-mistral-7b-instruct")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        echoembed.load(folder, recipe="e5-mistral-7b", device="cpu")


def test_an_unknown_recipe_is_refused():
    with pytest.raises(RecipeError, match="Did you mean 'echo'"):
        echoembed.load("tiny", recipe="ehco", device="cpu")


@pytest.mark.parametrize(
    "option",
    [
        {"dtype": "int4"},
        {"dtype": "float64"},
        {"device": "abacus"},
        {"device": "meta"},
        {"normalize": "false"},
        {"normalize": 0},
        {"deterministic": "no"},
        {"deterministic": None},
        {"local_files_only": "no"},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(option):
    with pytest.raises(ModelError, match=f"Got {next(iter(option))} = .*Allowed: "):
        echoembed.load("tiny", **{"device": "cpu", **option})


def test_a_sentence_transformer_with_a_pipeline_of_its_own_is_not_read_as_echo(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "other")
    rows = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(rows))
    with pytest.raises(ModelError, match="modules of its own"):
        echoembed.load(folder, device="cpu")
    assert echoembed.load(folder, recipe="echo", device="cpu")[0].recipe.name == "echo"
