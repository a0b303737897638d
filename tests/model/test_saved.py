"""What is saved is what was loaded, whole or not at all, and nothing else passes for it."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from transformers import AutoModel, AutoTokenizer

import echoembed
import tiny_models
from echoembed import RecipeWarning, TruncationWarning
from echoembed.errors import FileError, ModelError, OverBudgetError
from echoembed.integrations.export import export_self_contained
from echoembed.model.transformer import EchoTransformer
from echoembed.recipe import Recipe
from loaded import TEXTS, TWO, prompts_read, tiny


def test_a_saved_model_is_the_same_model(saved, model, vectors):
    again = echoembed.load(saved, device="cpu")
    assert type(again) is type(model)
    assert np.array_equal(again.encode(TEXTS), vectors)
    assert again[0].recipe == model[0].recipe
    assert [type(module) for module in again] == [type(module) for module in model]


def test_the_library_loads_it_where_it_is_trusted(saved, vectors):
    again = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    assert isinstance(again[0], EchoTransformer)
    assert np.array_equal(again.encode(TEXTS), vectors)


def of_library(folder, **settings):
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **settings)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float32"], ids=str)
def test_the_library_loads_it_in_the_dtype_it_asks_for(saved, name, dtype):
    again = of_library(saved, model_kwargs={name: dtype, "use_safetensors": True})
    wanted = echoembed.load(saved, dtype=dtype, device="cpu")
    assert again[0].model.dtype == wanted[0].model.dtype == again[0].running.dtype
    assert np.array_equal(again.encode(TEXTS), wanted.encode(TEXTS))


def test_the_librarys_auto_is_the_dtype_it_was_saved_in(tmp_path):
    folder = echoembed.save(tiny(dtype="bfloat16"), tmp_path / "model")
    assert of_library(folder, model_kwargs={"torch_dtype": "auto"})[0].model.dtype == torch.bfloat16
    assert of_library(folder)[0].model.dtype == torch.float32


def test_a_tokenizer_is_known_again_by_what_earlier_versions_wrote(saved):
    content = json.loads((saved / "0_EchoTransformer" / "echoembed_config.json").read_text())
    assert content["tokenizer"] == "cf6de0a45a15fdf909a626494b3443cd08260f36"


@pytest.mark.parametrize("tags", [[], ["generated_from_trainer"]])
def test_the_librarys_card_says_how_to_load_the_model(tags, tmp_path):
    model = echoembed.load("tiny", device="cpu")
    model.model_card_data.add_tags(tags)
    model.save_pretrained(str(tmp_path))
    calls = re.findall(r"SentenceTransformer\((\".*)\)", (tmp_path / "README.md").read_text())
    assert calls
    assert all(call.endswith('", trust_remote_code=True') for call in calls)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model_kwargs": {"dtype": "int8"}}, r"Got dtype = 'int8'.*float32, bfloat16, float16.*echoembed\.load"),
        ({"model_kwargs": {"torch_dtype": "float64"}}, "Got dtype = 'float64'"),
        ({"model_kwargs": {"attn_implementation": "eager"}}, r"Got model_kwargs\['attn_implementation'\] = 'eager'"),
        ({"processor_kwargs": {"model_max_length": 9}}, r"Got processor_kwargs\['model_max_length'\] = 9"),
        ({"config_kwargs": {"num_hidden_layers": 1}}, r"Got config_kwargs\['num_hidden_layers'\] = 1"),
        ({"backend": "onnx"}, "Got backend = 'onnx'"),
    ],
    ids=str,
)
def test_what_the_library_asks_for_in_vain_is_refused_by_name(saved, settings, told):
    with pytest.raises(ModelError, match=told):
        of_library(saved, **settings)


def test_arguments_that_change_nothing_are_taken(saved, vectors):
    model = of_library(
        saved,
        model_kwargs={"attn_implementation": "sdpa", "trust_remote_code": True, "local_files_only": True},
        processor_kwargs={"padding_side": "left", "use_fast": True},
        config_kwargs={"trust_remote_code": True},
    )
    assert np.array_equal(model.encode(TEXTS), of_library(saved).encode(TEXTS))


def test_the_library_refuses_it_otherwise(saved):
    with pytest.raises(Exception, match="trust_remote_code"):
        SentenceTransformer(str(saved), device="cpu")


def test_loaders_that_know_no_modules_fail(saved):
    """In the root there is no model that they could take for the whole."""
    assert not list(saved.glob("*.safetensors"))
    assert not (saved / "config.json").exists()
    with pytest.raises((OSError, ValueError)):
        AutoModel.from_pretrained(saved)
    with pytest.raises((OSError, ValueError)):
        AutoTokenizer.from_pretrained(saved)


def test_a_saved_model_says_what_it_is(saved):
    card = (saved / "README.md").read_text()
    assert "recipe 'echo'" in card
    assert "echoembed.load(" in card
    assert "{text:pool}" in card
    assert saved.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2", "bert"])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning")
def test_a_model_cut_at_a_layer_survives(family, layer, tmp_path):
    model = tiny("bert-large" if family == "bert" else "classical", family, layer=layer)
    vectors = model.encode(TEXTS)
    folder = echoembed.save(model, tmp_path / "cut")
    for again in (
        echoembed.load(folder, device="cpu"),
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
    ):
        assert np.array_equal(again.encode(TEXTS), vectors)
        assert again[0].layers == layer
    twice = echoembed.load(echoembed.save(echoembed.load(folder, device="cpu"), tmp_path / "twice"), device="cpu")
    assert np.array_equal(twice.encode(TEXTS), vectors)


@pytest.mark.parametrize("wanted", [{"layer": 1}, {"layer": -1}, {"recipe": "echo"}])
def test_a_cut_model_does_not_pass_for_another_layer(wanted, tmp_path):
    """What was cut off is gone, the norm after the last layer too: another layer must not be served as asked for."""
    folder = echoembed.save(tiny("classical", layer=2), tmp_path / "cut")
    with pytest.raises(ModelError, match=r"Got layer = -?1\. Allowed: 2, at which .* was cut"):
        echoembed.load(folder, device="cpu", **wanted)
    assert echoembed.load(folder, device="cpu", layer=2)[0].layers == 2
    echo = echoembed.load(folder, device="cpu", recipe="echo", layer=2)
    assert np.array_equal(echo.encode(TEXTS), tiny("echo", layer=2).encode(TEXTS))


@pytest.mark.parametrize("family", ["mistral", "gemma3", "bert", "roberta", "xlm-roberta", "bloom", "gptj"])
@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning")
def test_every_kind_of_tokenizer_survives(family, tmp_path):
    recipe = "classical-bidirectional" if family not in ("bloom", "gptj") else "classical"
    model = tiny(recipe, family)
    again = echoembed.load(echoembed.save(model, tmp_path / "model"), device="cpu")
    for text in TEXTS:
        assert echoembed.render(again, text) == echoembed.render(model, text)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning")
def test_a_saved_model_can_be_read_with_another_recipe(tmp_path):
    for made, read in (("classical-bidirectional", "echo"), ("echo", "classical-bidirectional")):
        folder = echoembed.save(tiny(made), tmp_path / made)
        again = echoembed.load(folder, recipe=read, device="cpu")
        assert np.array_equal(again.encode(TEXTS), tiny(read).encode(TEXTS))


def test_a_trained_recipe_that_is_left_says_so(tmp_path):
    with pytest.warns(RecipeWarning):
        model = tiny("e5-mistral-7b", "mistral")
    folder = echoembed.save(model, tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        echoembed.load(folder, device="cpu")
    with pytest.warns(RecipeWarning, match="saved with the recipe 'e5-mistral-7b' and is read with 'echo'"):
        echoembed.load(folder, recipe="echo", device="cpu")


def test_settings_of_the_library_survive(tmp_path):
    model = tiny(TWO)
    model.prompts = {"query": "seek", "document": "", "sts": "find the same"}
    model.default_prompt_name = "sts"
    model.similarity_fn_name = "dot"
    folder = echoembed.save(model, tmp_path / "model")
    library = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    for again in (echoembed.load(folder, device="cpu"), library):
        assert np.array_equal(again.encode_query(TEXTS), model.encode_query(TEXTS))
        assert prompts_read(again, lambda again=again: again.encode_query("a cat")) == ["<s> Question, seek: a cat"]
        assert prompts_read(again, lambda again=again: again.encode("a cat")) == ["<s> Question, find the same: a cat"]
        assert again.similarity_fn_name == "dot"


def test_a_model_that_refuses_long_texts_does_so_after_it_was_saved(tmp_path):
    """Else both loaders would cut what the model's owner wanted refused. Silence is not saved: cuts are warned of."""
    refusing = echoembed.save(tiny(budget=5, overflow="error"), tmp_path / "refusing")
    silent = echoembed.save(tiny(budget=5, overflow="ignore"), tmp_path / "silent")
    for load in (echoembed.load, partial(SentenceTransformer, trust_remote_code=True)):
        with pytest.raises(OverBudgetError):
            load(str(refusing), device="cpu").encode(TEXTS)
        with pytest.warns(TruncationWarning):
            load(str(silent), device="cpu").encode(TEXTS)
    cut = tiny(budget=5, overflow="ignore").encode(TEXTS)
    assert np.array_equal(echoembed.load(refusing, device="cpu", overflow="ignore").encode(TEXTS), cut)


@pytest.mark.parametrize("damage", ["tokenizer_config.json lost", "merges lost", "another model's tokenizer"])
def test_a_saved_model_whose_tokenizer_is_another_now_is_refused_by_both_loaders(damage, saved, tmp_path):
    """Each loads: without BOS, with other ids, with another vocabulary that fits the embeddings."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    inner = next(folder.glob("0_*"))
    if damage == "tokenizer_config.json lost":
        (inner / "tokenizer_config.json").unlink()
    elif damage == "merges lost":
        path = inner / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["merges"] = content["model"]["merges"][:20]
        path.write_text(json.dumps(content))
    else:
        for path in tiny_models.folder("gpt2").glob("tokenizer*.json"):
            shutil.copy(path, inner)
    for load in (echoembed.load, partial(SentenceTransformer, trust_remote_code=True)):
        with pytest.raises(ModelError, match="tokenizer"):
            load(str(folder), device="cpu")


def test_saved_settings_that_are_damaged_are_refused(saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    (folder / "config_sentence_transformers.json").write_text("[]")
    with pytest.raises(ModelError):
        echoembed.load(folder, device="cpu")


def test_vectors_that_are_not_normalised_stay_so(tmp_path):
    model = tiny(normalize=False)
    again = echoembed.load(echoembed.save(model, tmp_path / "model"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_dense_module_of_the_library_is_saved_and_loaded(tmp_path):
    base = tiny(normalize=False)
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[*base, Dense(32, 8), Normalize()], device="cpu")
    folder = echoembed.save(model, tmp_path / "model")
    again = echoembed.load(folder, device="cpu")
    assert again.encode(TEXTS).shape == (len(TEXTS), 8)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    library = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert np.array_equal(library.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize(
    "type_", ["evil.Module", "1_Pooling.evil.Module", "echoembed.errors.ModelError", "echoembed.no.Such", "os.system"]
)
def test_a_module_from_elsewhere_is_refused_and_not_imported(type_, saved, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    rows = json.loads((folder / "modules.json").read_text())
    rows[1]["type"] = type_
    (folder / "modules.json").write_text(json.dumps(rows))
    for place in (folder, folder / "1_Pooling", tmp_path):
        (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=f"holds a module of type {re.escape(repr(type_))}"):
        echoembed.load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["no recipe", "no JSON", "an unknown field"])
def test_a_saved_recipe_that_is_damaged_is_refused(damage, saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    path = next(folder.glob("0_*")) / "echoembed_config.json"
    fields = json.loads(path.read_text())
    if damage == "no recipe":
        del fields["recipe_fields"]
    elif damage == "an unknown field":
        fields["recipe_fields"]["colour"] = "red"
    path.write_text("{" if damage == "no JSON" else json.dumps(fields))
    with pytest.raises(ModelError):
        echoembed.load(folder, device="cpu")


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_saving_leaves_the_whole_or_nothing(error, tmp_path, monkeypatch):
    model = tiny()

    def half(self, path, **_):
        (Path(path) / "modules.json").write_text("[")
        raise error

    monkeypatch.setattr(SentenceTransformer, "save_pretrained", half)
    with pytest.raises(FileError if isinstance(error, OSError) else KeyboardInterrupt):
        echoembed.save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_kept_unless_told_otherwise(tmp_path):
    one, other = tiny(), tiny("classical")
    folder = echoembed.save(one, tmp_path / "model")
    with pytest.raises(FileError, match="exists"):
        echoembed.save(other, folder)
    assert echoembed.load(folder, device="cpu")[0].recipe.name == "echo"
    echoembed.save(other, folder, overwrite=True)
    assert echoembed.load(folder, device="cpu")[0].recipe.name == "classical"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("write", [echoembed.save, export_self_contained])
def test_only_a_models_folder_is_replaced(write, tmp_path):
    """``overwrite=True`` with the name of one's home must not cost the home."""
    letters, file = tmp_path / "home" / "letters.txt", tmp_path / "file"
    letters.parent.mkdir()
    for path in (letters, file):
        path.write_text("dear")
        with pytest.raises(FileError, match="Only a folder in which echoembed saved a model"):
            write(tiny("classical"), path if path == file else path.parent, overwrite=True)
        assert path.read_text() == "dear"
    (tmp_path / "empty").mkdir()
    assert echoembed.load(echoembed.save(tiny(), tmp_path / "empty", overwrite=True), device="cpu")


@pytest.mark.parametrize("step", ["save_pretrained", "rename"])
def test_a_replacement_that_fails_leaves_the_old_model(step, tmp_path, monkeypatch):
    folder = echoembed.save(tiny(), tmp_path / "model")
    real = Path.rename

    def fails(self, target):
        if Path(target) == folder and not self.name.endswith(".before"):
            raise OSError("the disk went away")
        return real(self, target)

    def half(self, path, **_):
        raise OSError("no space left")

    if step == "rename":
        monkeypatch.setattr(Path, "rename", fails)
    else:
        monkeypatch.setattr(SentenceTransformer, "save_pretrained", half)
    with pytest.raises(FileError):
        echoembed.save(tiny("classical"), folder, overwrite=True)
    monkeypatch.undo()
    assert echoembed.load(folder, device="cpu")[0].recipe.name == "echo"
    assert list(tmp_path.iterdir()) == [folder]


def test_trained_weights_under_another_budget_are_as_they_were_trained(tmp_path):
    template = "{bos}Say: {text} Again: {text:pool}"
    trained = Recipe(name="mine", query_template=template, pooling="mean", trained=True, budget=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecipeWarning)  # tiny was not trained with it
        echoembed.save(echoembed.load("tiny", recipe=trained), tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)
        echoembed.load(tmp_path / "model", recipe=replace(trained, name="other", budget=8))
    said = "recipe 'mine' and is read with 'echo', which has another query_template, document_template"
    with pytest.warns(RecipeWarning, match=said):
        echoembed.load(tmp_path / "model", recipe="echo")
