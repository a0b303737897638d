"""Settings files are bounded before anything is built of them."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

import echoembed
import tiny_models
from echoembed.errors import ModelError
from echoembed.sources import settings
from echoembed.sources.resolve import resolve

SIZES = [
    ("config.json", 1),
    ("special_tokens_map.json", 1),
    ("generation_config_of_mine_config.json", 1),
    ("tokenizer_config.json", 10),
    ("tokenizer.json", 50),
    ("vocab.json", 50),
    ("merges.txt", 50),
    ("spiece.model", 50),
    ("added_tokens.json", 50),
]


@pytest.mark.parametrize(("file", "megabytes"), SIZES)
def test_a_settings_file_larger_than_any_models_is_refused_unread(file, megabytes, tmp_path):
    folder = Path(shutil.copytree(tiny_models.folder("llama"), tmp_path / "model"))
    with (folder / file).open("wb") as sparse:
        sparse.truncate(megabytes * 2**20 + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ModelError, match=rf"{file}' has {megabytes * 2**20 + 1:,} bytes. Allowed .* {megabytes * 2**20:,};"
    ):
        resolve(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_weights_may_be_of_any_size():
    settings.check_bytes("model-00001-of-00002.safetensors", 10**12)


@pytest.mark.parametrize("deep", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [settings.MOST_NESTED + 1, 500, 100_000])
def test_what_is_nested_too_deep_is_refused(deep, depth, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(deep * depth + "1" + ("]" if deep == "[" else "}") * depth)
    with pytest.raises(ModelError, match=r"config.json' is broken"):
        settings.read_json(path, object)


def test_what_is_nested_as_deep_as_allowed_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * settings.MOST_NESTED + "]" * settings.MOST_NESTED)
    assert isinstance(settings.read_json(path, list), list)


def normalizing(tmp_path: Path, normalizer: dict[str, object]) -> Path:
    """A model whose tokenizer has that normaliser."""
    folder = Path(shutil.copytree(tiny_models.folder("llama"), tmp_path / "model"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    return folder


@pytest.mark.parametrize("pattern", [{"String": "a"}, {"Regex": "[a-z]"}])
def test_a_normaliser_that_fills_the_memory_is_refused(pattern, tmp_path):
    step = {"type": "Replace", "pattern": pattern, "content": "a" * 100}
    steps = {"type": "Sequence", "normalizers": [step] * 5}
    folder = normalizing(tmp_path, {"type": "Sequence", "normalizers": [steps]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="its normaliser makes 10,000,000,000 characters of one"):
        resolve(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_a_normaliser_that_spells_a_few_characters_out_is_read(tmp_path):
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"String": "½"}, "content": "1/2"},
    ]
    folder = normalizing(tmp_path, {"type": "Sequence", "normalizers": steps})
    assert echoembed.load(folder, device="cpu").encode("the cat sat").any()


def test_a_configuration_of_another_library_in_the_root_leaves_a_saved_model_as_it_is(tmp_path):
    """SetFit writes its own there; where modules.json names our class, its folder is the model's."""
    model = echoembed.load(tiny_models.folder("llama"), device="cpu")
    folder = echoembed.save(model, tmp_path / "saved")
    (folder / "config.json").write_text(json.dumps({"normalize_embeddings": False, "labels": None}))
    (folder / "model_head.pkl").write_bytes(b"never opened")
    again = echoembed.load(folder, device="cpu")
    assert (again.encode("the cat sat") == model.encode("the cat sat")).all()
