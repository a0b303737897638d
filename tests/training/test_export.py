"""A finished model gives the vectors it was trained to, on its own base and on no other."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import metadata_load

import echoembed
import tiny_models
from echoembed import RecipeWarning, errors
from echoembed.experiments import figure13
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe
from echoembed.sources import adapters
from echoembed.sources.adapters import FILE
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig, DataConfig, OptimiserConfig, TrainConfig
from echoembed.training.export import finish, save_model
from echoembed.training.tables import TeacherConfig

pytest.importorskip("peft")

TEXTS = ["the cat sat on a mat while rain fell", "the river carried its boats to harbour", "nobody waits"]
RECIPE = Recipe(
    name="own",
    query_template="{bos}Query: {text} again: {text}{eos:pool}",
    document_template="{bos}Document: {text} again: {text}{eos:pool}",
    pooling="last",
)


def config(folder, **changes):
    usual = TrainConfig(
        output=str(folder),
        data=(
            DataConfig(path="/data/asked.jsonl", name="asked", ratio=3),
            DataConfig(path="/data/told.jsonl", name="told", ratio=1),
        ),
        optimiser=OptimiserConfig(steps=4, batch_size=8, warmup_steps=0),
    )
    return replace(usual, **changes)


def trained(family="llama", recipe=RECIPE, *, rank=4, layer=None, base=None, **settings):
    """A model as a run leaves it: LoRA and the end token's row far from where they began."""
    folder = base or tiny_models.folder(family, **settings)
    model = echoembed.load(folder, recipe=recipe, layer=layer, engine="padded", device="cpu")
    add_adapter(model, AdapterConfig(rank=rank), seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


def vectors(model):
    return np.concatenate([model.encode(TEXTS, task=kind) for kind in ("query", "document")])


@pytest.mark.parametrize("save", ["adapter", "merged"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_finished_model_gives_the_vectors_of_the_trained_one(save, tied, tmp_path):
    model = trained(tie_word_embeddings=tied)
    before = vectors(echoembed.load(tiny_models.folder("llama", tie_word_embeddings=tied), recipe=RECIPE))
    expected = vectors(model)
    assert np.abs(expected - before).max() > 0.1
    rows = [name for name, weight in model.named_parameters() if weight.requires_grad and "trainable_tokens" in name]
    assert len(rows) == 1  # the end token's, which is pooled
    folder = finish(model, config(tmp_path, save=save), tmp_path)
    assert folder == tmp_path / "model"
    assert bool(list(folder.rglob("*adapter*.safetensors"))) == (save == "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)
        again = echoembed.load(folder)
        by_name = echoembed.load(adapter=folder) if save == "adapter" else again
    np.testing.assert_allclose(vectors(again), expected, atol=1e-5)
    np.testing.assert_allclose(vectors(by_name), expected, atol=1e-5)
    np.testing.assert_array_equal(vectors(model), expected)  # what is in memory stays as it was
    recipe = transformer_of(again).recipe
    assert recipe.fingerprint() == RECIPE.fingerprint()
    assert recipe.trained
    assert transformer_of(model).recipe is RECIPE or not transformer_of(model).recipe.trained


def test_the_end_tokens_row_is_in_the_adapter(tmp_path):
    """Else the tests above would pass without it."""
    model = trained()
    folder = finish(model, config(tmp_path), tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    [row] = [name for name in weights if "trainable_tokens" in name]
    expected = vectors(model)
    save_file({**weights, row: weights[row] + 1}, folder / "adapter_model.safetensors")
    assert np.abs(vectors(echoembed.load(folder)) - expected).max() > 1e-2


@pytest.mark.parametrize("family", ["mistral", "gemma", "gpt2", "qwen3", "opt", "gpt-neox"])
def test_adapters_of_other_families_come_back_too(family, tmp_path):
    recipe = RECIPE if family != "qwen3" else Recipe(name="own", query_template="{text} again: {text}{eos:pool}")
    model = trained(family, recipe)
    folder = finish(model, config(tmp_path), tmp_path)
    np.testing.assert_allclose(vectors(echoembed.load(folder)), vectors(model), atol=1e-5)


@pytest.mark.parametrize("save", ["adapter", "merged"])
@pytest.mark.parametrize("layer", [1, 5])
def test_a_model_trained_at_a_layer_comes_back_at_it(save, layer, tmp_path):
    """Of many layers peft keeps the ends of their names alone, which fit all layers of the base."""
    model = trained(layer=layer, num_hidden_layers=6)
    folder = finish(model, config(tmp_path, save=save), tmp_path)
    again = echoembed.load(folder)
    assert transformer_of(again).layers == layer
    np.testing.assert_allclose(vectors(again), vectors(model), atol=1e-5)


def test_an_adapter_on_an_adapter_brings_both(tmp_path):
    """LLM2Vec's two stages: masked prediction, then SimCSE on what it left."""
    bidirectional = echoembed.recipes["classical-bidirectional"]
    mntp = {"objective": "mntp", "attention": "bidirectional"}
    first = finish(trained(recipe=bidirectional), config(tmp_path, **mntp), tmp_path / "one")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)  # masked prediction is of no template
        second = trained(base=first, recipe=replace(RECIPE, attention="bidirectional"))
    expected = vectors(second)
    folder = finish(second, config(tmp_path / "two", objective="simcse"), tmp_path / "two")
    again = echoembed.load(folder)
    np.testing.assert_allclose(vectors(again), expected, atol=1e-5)
    assert transformer_of(again).base.adapters[0][0] == str(first)
    assert transformer_of(again).recipe.attention == "bidirectional"
    shutil.rmtree(first)
    with pytest.raises(errors.ModelError, match=r"was trained on .* \+ .*, which cannot be loaded"):
        echoembed.load(folder)


def test_an_adapter_on_a_merged_model_comes_back(tmp_path):
    base = finish(trained(), config(tmp_path / "one", save="merged"), tmp_path / "one")
    model = trained(base=base)
    folder = finish(model, config(tmp_path / "two"), tmp_path / "two")
    np.testing.assert_allclose(vectors(echoembed.load(folder)), vectors(model), atol=1e-5)


@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning")
def test_llm2vecs_row_reads_what_was_trained_without_labels(tmp_path):
    row = echoembed.recipes["llm2vec-unsupervised"].as_dict()
    recipe = Recipe(**{**row, "checkpoint": "", "adapters": (), "trained": False})
    model = trained("mistral", recipe)
    folder = finish(model, config(tmp_path, objective="simcse", recipe=recipe.name), tmp_path)
    again = echoembed.load(folder)
    assert transformer_of(again).recipe.name == "llm2vec-unsupervised"
    np.testing.assert_allclose(vectors(again), vectors(model), atol=1e-5)
    plain = echoembed.load(folder, recipe="classical-bidirectional")
    assert np.isfinite(plain.encode(TEXTS)).all()


# The base


def test_an_adapter_is_refused_on_other_weights(tmp_path):
    folder = finish(trained(), config(tmp_path), tmp_path)
    own, other = tiny_models.folder("llama"), tiny_models.folder("llama", seed=1)
    np.testing.assert_array_equal(vectors(echoembed.load(own, adapter=folder)), vectors(echoembed.load(adapter=folder)))
    copy = shutil.copytree(own, tmp_path / "copy")  # the same files elsewhere are the same weights
    np.testing.assert_array_equal(
        vectors(echoembed.load(copy, adapter=folder)), vectors(echoembed.load(adapter=folder))
    )
    with pytest.raises(errors.ModelError, match=rf"was trained on {own} at revision [0-9a-f]{{40}}, but got {other}"):
        echoembed.load(other, adapter=folder)


def test_a_base_that_changed_or_went_is_told(tmp_path):
    base = shutil.copytree(tiny_models.folder("llama"), tmp_path / "base")
    folder = finish(trained(base=base), config(tmp_path), tmp_path)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    with pytest.raises(errors.ModelError, match="On other weights it means nothing"):
        echoembed.load(folder)
    shutil.rmtree(base)
    with pytest.raises(errors.ModelError, match=r"which cannot be loaded.*Say where those weights are"):
        echoembed.load(folder)
    again = echoembed.load(tiny_models.folder("llama"), adapter=folder)
    assert transformer_of(again).adapter == str(folder)


def test_vectors_of_an_adapter_have_another_fingerprint(tmp_path):
    folder = finish(trained(), config(tmp_path), tmp_path)
    base = echoembed.load(tiny_models.folder("llama"), recipe=RECIPE)
    again = echoembed.load(folder)
    assert echoembed.fingerprint(again) != echoembed.fingerprint(base)
    assert echoembed.fingerprint(echoembed.load(folder)) == echoembed.fingerprint(again)
    assert echoembed.describe(again)["adapter"] == str(folder)
    assert echoembed.describe(base)["adapter"] == "none"
    assert echoembed.describe(again)["revision"] != echoembed.describe(base)["revision"]


def test_two_runs_that_end_alike_write_the_same_bytes(tmp_path):
    one, two = (finish(trained(), config(tmp_path), tmp_path / name) for name in ("one", "two"))
    assert sorted(path.name for path in one.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        FILE,
    ]
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_another_recipe_for_an_adapter_is_taken_with_a_warning(tmp_path):
    folder = finish(trained(), config(tmp_path), tmp_path)
    with pytest.warns(RecipeWarning, match="saved with the recipe 'own' and is read with 'classical'"):
        model = echoembed.load(folder, recipe="classical")
    assert transformer_of(model).recipe.name == "classical"


def test_normalising_is_as_it_was_trained(tmp_path):
    model = echoembed.load(tiny_models.folder("llama"), recipe=RECIPE, normalize=False, engine="padded")
    add_adapter(model, AdapterConfig(rank=4), seed=0)
    folder = finish(model, config(tmp_path), tmp_path)
    assert np.abs(np.linalg.norm(vectors(echoembed.load(folder)), axis=1) - 1).max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(vectors(echoembed.load(folder, normalize=True)), axis=1), 1, atol=1e-5)


# Names


def test_an_adapter_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    model = echoembed.load("tiny", recipe="echo", engine="padded")
    add_adapter(model, AdapterConfig(rank=2), seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.01)
    finish(model, config(tmp_path), tmp_path)
    monkeypatch.setattr(adapters, "BUNDLED", tmp_path / "adapters")
    shutil.copytree(tmp_path / "model", tmp_path / "adapters" / "tiny-echo")
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "adapters").rglob("*.json"))
    again = echoembed.load(adapter="tiny-echo")
    np.testing.assert_allclose(again.encode(TEXTS), model.eval().encode(TEXTS), atol=1e-5)
    assert echoembed.describe(again)["adapter"] == "tiny-echo"
    assert echoembed.describe(again)["model"] == "tiny"
    with pytest.raises(errors.ModelError, match=r"one of the package's own \(tiny-echo\). Did you mean 'tiny-echo'\?"):
        echoembed.load(adapter="tiny-ecko")
    # A folder of the same name does not take its place; its path does.
    monkeypatch.chdir(tmp_path)
    echoembed.save(echoembed.load("tiny", recipe="classical"), "tiny-echo")
    for named in (echoembed.load("tiny-echo"), echoembed.load(adapter="tiny-echo")):
        assert echoembed.describe(named)["adapter"] == "tiny-echo"
    assert echoembed.describe(echoembed.load("./tiny-echo"))["recipe"] == "classical"


@pytest.mark.parametrize("name", ["nothing-of-that-name", "", "./nowhere", "a/b/c", 5])
def test_an_unknown_adapter_is_refused_with_what_there_is(name, monkeypatch, tmp_path):
    monkeypatch.setattr(adapters, "BUNDLED", tmp_path)
    with pytest.raises(errors.ModelError, match=r"Got adapter = .*one of the package's own \(none\)"):
        echoembed.load(adapter=name)


def test_an_adapter_of_elsewhere_is_refused(tmp_path):
    with pytest.raises(errors.ModelError, match=f"has no {FILE}.*adapters that echoembed trained"):
        echoembed.load(adapter=tiny_models.adapter("mistral"))
    with pytest.raises(errors.ModelError):
        echoembed.load(adapter=tiny_models.folder("llama"))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"recipe": {}},
        {"recipe": {"name": "x", "query_template": "no text"}},
        {"base": {}},
        {"base": {"model": None, "origin": "hub", "revision": "a" * 40, "adapters": []}},
        {"base": 3},
    ],
)
def test_a_broken_file_is_told(change, tmp_path):
    folder = finish(trained(), config(tmp_path), tmp_path)
    saved = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**saved, **change}))
    with pytest.raises(errors.ModelError, match=f"has an unreadable {FILE}"):
        echoembed.load(folder)


def test_a_revision_beside_an_adapter_is_refused(tmp_path):
    folder = finish(trained(), config(tmp_path), tmp_path)
    with pytest.raises(errors.ModelError, match="names its base"):
        echoembed.load(adapter=folder, revision="main")


# Writing


def test_nothing_is_left_of_a_model_that_could_not_be_written(tmp_path, monkeypatch):
    model = trained()
    kept = finish(model, config(tmp_path), tmp_path)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.FileError, match="No space left on device"):
        finish(model, config(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_what_cannot_be_saved_is_refused(tmp_path):
    plain = echoembed.load(tiny_models.folder("llama"), recipe=RECIPE)
    with pytest.raises(errors.ModelError, match=r"has no adapter to save.*merged"):
        finish(plain, config(tmp_path), tmp_path)
    model = trained()
    with torch.no_grad():
        next(weight for weight in model.parameters() if weight.requires_grad).fill_(float("nan"))
    with pytest.raises(errors.ModelError, match="not all finite numbers: they are not saved"):
        finish(model, config(tmp_path), tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_model_trained_whole_is_saved_whole(tmp_path):
    model = trained(rank=0)
    folder = finish(model, config(tmp_path, save="merged", adapter=AdapterConfig(rank=0)), tmp_path)
    np.testing.assert_allclose(vectors(echoembed.load(folder)), vectors(model), atol=1e-5)


def test_models_kept_on_the_way_are_found_and_loaded_by_the_figure_of_scores_over_steps(tmp_path):
    model = trained()
    for step in (20, 100):
        save_model(model, config(tmp_path), tmp_path / "models" / f"step-{step}")
    (tmp_path / "models" / "notes.txt").write_text("no model")
    found = figure13.checkpoints(tmp_path / "models")
    assert list(found) == [20, 100]
    for path in found.values():
        np.testing.assert_allclose(vectors(echoembed.load(str(path), device="cpu")), vectors(model), atol=1e-5)


# The card and the curves


def log(folder: Path, steps=40):
    lines = [
        {
            "step": step,
            "loss": 3 / step,
            "learning_rate": 0.1,
            "gradient_norm": 1 / step,
            "data_set": "told" if step % 4 == 0 else "asked",
            "rows": 8,
            "tokens": 1000,
            "seconds": 1.5,
        }
        for step in range(1, steps + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "lo')
    scores = [
        {"step": step, "task": task, "kind": "STS", "score": 0.5 + step / 1000}
        for step in (0, 20, 40)
        for task in ("sts12", "sick")
    ]
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scores))
    record = {"data": {"asked": {"asked.jsonl": "ab" * 32}, "told": {"told.jsonl": "cd" * 32}}}
    (folder / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize("save", ["adapter", "merged"])
def test_the_card_says_what_was_done(save, tmp_path):
    pytest.importorskip("matplotlib")
    base = shutil.copytree(tiny_models.folder("llama"), tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    log(tmp_path)
    folder = finish(trained(base=base), config(tmp_path, save=save), tmp_path, rows={"asked": 1234, "told": 56})
    text = (folder / "README.md").read_text()
    header = metadata_load(folder / "README.md")
    assert header["library_name"] == "sentence-transformers"
    assert header["pipeline_tag"] == "sentence-similarity"
    assert header["license"] == "apache-2.0"
    assert {"sentence-transformers", "echoembed", "contrastive"} <= set(header["tags"])
    assert ("lora" in header["tags"]) == (save == "adapter")
    assert "base_model" not in header  # a folder is no name on the hub
    for said in (
        "| asked | 1,234 | 3 | 240 | asked.jsonl `" + "ab" * 32,
        "| told | 56 | 1 | 80 | told.jsonl `" + "cd" * 32,
        "| steps | 40 of 4 |",
        "| tokens | 40,000 |",
        "| time | 0:01:00 |",
        "| sts12 | 50.00 | 54.00 |",
        "{bos}Query: {text} again: {text}{eos:pool}",
        "![loss](loss.png)",
        "![scores](scores.png)",
        '"learning_rate": 0.0008',
        "echoembed.load(adapter=" if save == "adapter" else "echoembed.load('path",
        "torch ",
        transformer_of(trained(base=base)).revision,
    ):
        assert said in text, said
    assert str(tmp_path) not in text
    for name in ("loss.png", "scores.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert np.isfinite(vectors(echoembed.load(folder))).all()  # the card does not disturb loading


def test_a_base_on_the_hub_is_named_in_the_header(tmp_path):
    model = trained()
    transformer = transformer_of(model)
    transformer.base = replace(transformer.base, model="owner/name", origin="hub", revision="ab" * 20)
    folder = finish(model, config(tmp_path), tmp_path)
    header = metadata_load(folder / "README.md")
    assert header["base_model"] == "owner/name"
    assert header["base_model_relation"] == "adapter"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/name"
    assert json.loads((folder / FILE).read_text())["base"]["revision"] == "ab" * 20


def test_a_run_without_matplotlib_keeps_its_model(tmp_path, monkeypatch):
    from echoembed.training import curves

    def missing(_folder):
        raise errors.library_missing("matplotlib", "plot", "Drawing")

    monkeypatch.setattr(curves, "draw", missing)
    with pytest.warns(UserWarning, match="curves were not drawn: Drawing needs an extra library"):
        folder = finish(trained(), config(tmp_path), tmp_path)
    assert (folder / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("save", ["adapter", "merged"])
def test_a_finished_model_reads_as_much_as_its_configuration_says(tmp_path, save):
    """Short texts to learn from, long ones to embed."""
    model = trained()
    target = finish(model, config(tmp_path, budget=32, finished_budget=300, save=save), tmp_path)
    assert transformer_of(echoembed.load(target)).recipe.budget == 300
    assert transformer_of(model).recipe.budget == RECIPE.budget  # the one in training is left as it was


LINE = {
    "step": 1,
    "loss": 1.5,
    "learning_rate": 0.001,
    "gradient_norm": 0.5,
    "data_set": "asked",
    "rows": 4,
    "tokens": 80,
    "seconds": 0.1,
}


@pytest.mark.parametrize("failing", ["draw", "savefig"])
def test_curves_that_cannot_be_drawn_cost_no_model(tmp_path, monkeypatch, failing):
    from matplotlib.figure import Figure

    from echoembed.training import curves

    def fail(*_, **__):
        raise ValueError("no such colour")

    (tmp_path / "log.jsonl").write_text(json.dumps(LINE) + "\n")
    monkeypatch.setattr(*((curves, "draw") if failing == "draw" else (Figure, "savefig")), fail)
    with pytest.warns(UserWarning, match="curves were not drawn: ValueError: no such colour"):
        folder = finish(trained(), config(tmp_path), tmp_path)
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_data_set_may_have_any_name(tmp_path):
    """As a dollar sign begins a formula in pictures."""
    lines = [{**LINE, "data_set": name} for name in ("a$b$c_{", "_x", "a|b", "<b>", "$")]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        folder = finish(trained(), config(tmp_path), tmp_path)
    assert (folder / "loss.png").is_file()


def test_a_card_names_no_folder_of_this_machine(tmp_path):
    teacher = TeacherConfig(vectors=str(tmp_path / "vectors.jsonl"))
    changed = config(tmp_path, objective="distil", teacher=teacher)
    assert str(tmp_path) not in (finish(trained(), changed, tmp_path) / "README.md").read_text()


def test_weights_that_learned_another_attention_are_warned_of(tmp_path):
    """After masked prediction any template fits, but not the other attention."""
    folder = finish(trained(), config(tmp_path, objective="mntp", attention="bidirectional"), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)
        echoembed.load(adapter=folder, recipe="classical")
    with pytest.warns(RecipeWarning, match="trained for causal attention and is read with bidirectional attention"):
        echoembed.load(adapter=folder, recipe="classical-bidirectional")
