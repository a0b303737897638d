"""A run that goes on from a trained adapter begins with its vectors, and refuses an adapter that does not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import echoembed
import tiny_models
import training_runs as runs
from echoembed import errors
from echoembed.training import config as configuration
from echoembed.training import curves, plan, run, start
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig, OptimiserConfig

pytest.importorskip("peft")
TEXTS = ["the river carried a boat", "boats"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda _folder: [])
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose end token is trained too, and its adapter's folder."""
    folder = tmp_path_factory.mktemp("trained")
    config = runs.small(folder)
    return config, run.train(config)


def begun(config, folder, **changes):
    """A model as training begins with it."""
    adapter = replace(config.adapter, start=str(folder), **changes)
    model = echoembed.load(config.model, recipe=configuration.recipe_of(config), dtype="float32")
    add_adapter(model, adapter, seed=7)
    start.begin(model, adapter)
    return model.eval()


def test_training_begins_with_the_adapters_vectors(trained):
    config, folder = trained
    expected = echoembed.load(adapter=folder, dtype="float32").encode(TEXTS)
    untrained = echoembed.load(config.model, recipe=configuration.recipe_of(config), dtype="float32").encode(TEXTS)
    assert np.abs(expected - untrained).max() > 1e-2
    assert np.abs(begun(config, folder).encode(TEXTS) - expected).max() < 1e-5


def test_a_run_goes_on_from_it_and_its_adapter_belongs_to_the_same_base(trained, tmp_path):
    config, folder = trained
    barely = OptimiserConfig(steps=1, batch_size=4, chunk_size=3, learning_rate=1e-7, warmup_steps=0)
    further = replace(
        config, output=str(tmp_path / "run"), adapter=replace(config.adapter, start=str(folder)), optimiser=barely
    )
    finished = run.train(further)
    card = (finished / "README.md").read_text()
    assert f"| begun with the adapter | {folder.name} |" in card
    assert str(folder) not in card
    model = echoembed.load(adapter=finished, dtype="float32")
    assert np.abs(model.encode(TEXTS) - echoembed.load(adapter=folder, dtype="float32").encode(TEXTS)).max() < 1e-4


def test_a_run_is_not_resumed_with_another_beginning(trained, tmp_path):
    config, folder = trained
    copy = tmp_path / "adapter"
    shutil.copytree(folder, copy)
    further = replace(config, output=str(tmp_path / "run"), adapter=replace(config.adapter, start=str(copy)))
    run.train(further)
    weights = load_file(copy / WEIGHTS)
    save_file({name: 2 * weight for name, weight in weights.items()}, copy / WEIGHTS)
    with pytest.raises(errors.TrainingError, match=r"the file of adapter\.start holds something else"):
        run.train(further, resume=True)


def test_a_run_is_resumed_after_its_beginning_was_moved(trained, tmp_path):
    config, folder = trained
    copy = tmp_path / "adapter"
    shutil.copytree(folder, copy)
    further = replace(config, output=str(tmp_path / "run"), adapter=replace(config.adapter, start=str(copy)))
    finished = run.train(further)
    copy.rename(tmp_path / "moved")
    assert (
        run.train(replace(further, adapter=replace(config.adapter, start=str(tmp_path / "moved"))), resume=True)
        == finished
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 2, "alpha": 8.0}, "it has another rank"),
        ({"alpha": 4.0}, "its alpha / rank is 4, not 1"),
        ({"targets": ("q_proj",)}, "it is on other layers"),
        ({"end_token": False}, "it is on other layers"),
    ],
)
def test_another_kind_of_adapter_is_refused(trained, change, said):
    config, folder = trained
    with pytest.raises(errors.TrainingError, match=said) as raised:
        begun(config, folder, **change)
    assert str(raised.value).endswith(
        "Name an adapter of the same model, layers, rank and alpha as adapter.start, or leave it empty."
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_rslora": True}, "it has use_rslora"),
        ({"alpha_pattern": {"q_proj": 2}}, "it has alpha_pattern"),
        ({"use_dora": True}, "it has use_dora"),
        ({"peft_type": "ADALORA"}, "its kind is 'ADALORA', not 'LORA'"),
        ({"lora_alpha": "x"}, "its r and lora_alpha are no numbers"),
        ({"lora_alpha": None}, "its r and lora_alpha are no numbers"),
        ({"lora_alpha": 10**400}, "its r and lora_alpha are no numbers"),
        ({"r": 0}, "its r and lora_alpha are no numbers"),
        ({"r": [4]}, "its r and lora_alpha are no numbers"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = pissa_niter_4"),
        ({"layer_replication": [[0, 1]]}, "it adds layers"),
        ({"a_setting_of_tomorrow": 1}, "does not know its a_setting_of_tomorrow"),
    ],
)
def test_an_adapter_that_lora_here_would_not_repeat_is_refused(trained, tmp_path, change, said):
    config, folder = trained
    shutil.copytree(folder, tmp_path / "changed")
    path = tmp_path / "changed/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(errors.TrainingError, match=said):
        begun(config, tmp_path / "changed")


def test_a_dry_run_refuses_what_does_not_fit_and_takes_what_does(trained, tmp_path):
    config, folder = trained
    further = replace(config, output=str(tmp_path / "run"), adapter=replace(config.adapter, start=str(folder)))
    plan.make(further)
    with pytest.raises(errors.TrainingError, match="it has another rank"):
        plan.make(replace(further, adapter=replace(further.adapter, rank=2, alpha=config.adapter.alpha / 2)))


def test_an_adapter_of_another_model_is_refused(trained):
    config, folder = trained
    other = replace(config, model=str(tiny_models.folder("llama", num_hidden_layers=2)))
    with pytest.raises(errors.TrainingError, match="it was trained on other weights"):
        begun(other, folder)


def test_weights_that_are_not_finite_are_refused(trained, tmp_path):
    config, folder = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / WEIGHTS)
    weights[min(weights)][0] = torch.nan
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(errors.TrainingError, match="not all finite"):
        begun(config, tmp_path)


def test_a_damaged_file_is_refused(trained, tmp_path):
    config, folder = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(errors.TrainingError, match="Training cannot begin with the adapter"):
        begun(config, tmp_path)


@pytest.mark.parametrize("name", ["no-such-adapter", "/no/such/folder"])
def test_an_adapter_that_is_not_there_is_refused_before_anything_is_written(name, tmp_path):
    config = runs.small(tmp_path)
    with pytest.raises(errors.TrainingError, match="Training cannot begin with the adapter"):
        run.train(replace(config, adapter=replace(config.adapter, start=name)))
    with pytest.raises(errors.TrainingError, match="Training cannot begin with the adapter"):
        plan.make(replace(config, adapter=replace(config.adapter, start=name)))
    assert not (tmp_path / "run").exists()


def test_the_whole_model_has_no_adapter_to_begin_with(tmp_path):
    with pytest.raises(errors.TrainingError, match=r"adapter\.start"):
        runs.small(tmp_path, adapter=AdapterConfig(rank=0, start="tiny-echo"), save="merged")


def test_its_folder_is_relative_to_the_configuration(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second.toml").write_text('output = "run"\n[adapter]\nstart = "first"\n[[data]]\npath = "rows.jsonl"\n')
    assert configuration.read(tmp_path / "second.toml").adapter.start == str(tmp_path / "first")
    fields = json.dumps(configuration.read(tmp_path / "second.toml").as_dict())
    assert str(tmp_path / "first") in fields
