"""What ``echoembed.load`` gives is a SentenceTransformer in everything that can be done with one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from transformers import AutoModel, AutoTokenizer

import echoembed
import tiny_models
from echoembed import Recipe, RecipeWarning, TruncationWarning
from echoembed.errors import FileError, ModelError, RecipeError, TextError
from echoembed.model.transformer import EchoTransformer
from echoembed.sources.resolve import Source

TEXTS = [
    "The cat sat on the mat.",
    "Rain",
    "The river carried its boats past the old town to the harbour, where nobody waited for them but the rain.",
    "She said that she would come back in the morning, and she did.",
    "\u65e5\u672c\u8a9e, na\u00efve and \U0001f642",
]
TWO = Recipe(
    name="two",
    query_template="{bos}Question, {instruction}: {text:pool}",
    document_template="{bos}Answer: {text:pool}",
    instruction="any",
)


@pytest.fixture(scope="module")
def model():
    return echoembed.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def vectors(model):
    return model.encode(TEXTS)


@pytest.fixture(scope="module")
def two():
    return echoembed.load(tiny_models.folder("llama"), recipe=TWO, device="cpu")


def tiny(recipe: str | Recipe = "echo", family: str = "llama", **kwargs):
    return echoembed.load(tiny_models.folder(family), recipe=recipe, device="cpu", **kwargs)


def prompts_read(model: SentenceTransformer, run) -> list[str]:
    """What the language model is given while ``run`` runs, as text, in order."""
    read: list[str] = []
    first = model[0]

    def look(_module, _args, inputs):
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            read.append(first.tokenizer.decode(ids[mask.bool()]))

    handle = first.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return read


# A plain SentenceTransformer


def test_it_is_a_plain_sentence_transformer(model):
    assert type(model) is SentenceTransformer
    assert [type(module) for module in model] == [EchoTransformer, Pooling, Normalize]
    assert model.get_embedding_dimension() == 256
    assert model.similarity_fn_name == "cosine"
    assert not model[0].model.training


def test_the_bundled_model_loads_within_two_seconds():
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        echoembed.load("tiny", device="cpu")
        durations.append(time.perf_counter() - start)
    assert min(durations) < 2


def test_vectors_are_float32_of_length_one_a_row_for_each_text(vectors):
    assert vectors.shape == (len(TEXTS), 256)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_the_order_of_texts_is_kept(model, vectors):
    assert np.abs(model.encode(TEXTS[::-1])[::-1] - vectors).max() < 1e-6


def test_a_single_text_gives_a_single_vector(model, vectors):
    one = model.encode(TEXTS[2])
    assert one.shape == (256,)
    assert np.abs(one - vectors[2]).max() < 1e-6


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("recipe", ["echo", "classical-bidirectional", "echo-last"])
def test_neighbours_in_a_batch_do_not_change_a_vector(recipe, batch_size):
    for model in (tiny(recipe), tiny(recipe, "gpt2"), echoembed.load("tiny", recipe=recipe, device="cpu")):
        assert np.abs(model.encode(TEXTS, batch_size=batch_size) - model.encode(TEXTS)).max() < 1e-6


def test_repeated_texts_have_equal_vectors_and_others_do_not(model):
    vectors = model.encode(["a cat", "a dog", "a cat"])
    assert np.array_equal(vectors[0], vectors[2])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_encode_query_and_document_agree_where_the_templates_do(model, vectors):
    assert np.array_equal(model.encode_query(TEXTS), vectors)
    assert np.array_equal(model.encode_document(TEXTS), vectors)


def test_similarity_is_the_cosine(model, vectors):
    assert np.abs(model.similarity(vectors, vectors).numpy() - vectors @ vectors.T).max() < 1e-6
    pairs = model.similarity_pairwise(vectors[:2], vectors[1:3])
    assert np.abs(pairs.numpy() - (vectors[:2] * vectors[1:3]).sum(axis=1)).max() < 1e-6


def test_no_texts_give_no_vectors(model):
    assert len(model.encode([])) == 0


# The library's settings


def test_truncated_vectors_are_the_beginning_of_whole_ones(model, vectors):
    assert np.array_equal(model.encode(TEXTS, truncate_dim=64), vectors[:, :64])
    short = model.encode(TEXTS, truncate_dim=64, normalize_embeddings=True)
    assert np.abs(np.linalg.norm(short, axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize(
    ("precision", "dtype", "width"),
    [("int8", np.int8, 32), ("uint8", np.uint8, 32), ("binary", np.int8, 4), ("ubinary", np.uint8, 4)],
)
def test_quantised_vectors(precision, dtype, width):
    model = tiny("classical")
    many = [f"{text} {number}" for number in range(25) for text in TEXTS]  # int8 takes its range from the texts
    found = model.encode(many, precision=precision)
    assert found.dtype == dtype
    assert found.shape == (len(many), width)
    if precision == "ubinary":
        assert np.array_equal(found, np.packbits(model.encode(many) > 0, axis=1))


def test_tensors_on_demand(model, vectors):
    found = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - vectors).max() < 1e-6
    assert all(isinstance(row, torch.Tensor) for row in model.encode(TEXTS, convert_to_numpy=False))


def test_token_embeddings_are_the_pooled_states(model):
    states = model.encode(TEXTS, output_value="token_embeddings")
    spans = [echoembed.render(model, text).span for text in TEXTS]
    means = [state[: stop - start].mean(dim=0) for state, (start, stop) in zip(states, spans, strict=True)]
    expected = model.encode(TEXTS, convert_to_tensor=True)
    assert (torch.nn.functional.normalize(torch.stack(means), dim=1) - expected).abs().max() < 1e-6


def test_several_processes_give_the_same_vectors():
    model = tiny()
    found = model.encode(TEXTS, device=["cpu", "cpu"], chunk_size=2)
    assert np.abs(found - model.encode(TEXTS)).max() < 1e-6


def test_normalize_can_be_left_out(model, vectors):
    raw = echoembed.load("tiny", device="cpu", normalize=False).encode(TEXTS)
    lengths = np.linalg.norm(raw, axis=1)
    assert np.abs(lengths - 1).min() > 0.1
    assert np.abs(raw / lengths[:, None] - vectors).max() < 1e-6


# Which template, which instruction


@pytest.mark.parametrize(
    ("call", "read"),
    [
        (lambda m: m.encode("a cat"), "<s> Question, any: a cat"),
        (lambda m: m.encode("a cat", prompt="seek"), "<s> Question, seek: a cat"),
        (lambda m: m.encode("a cat", task="query"), "<s> Question, any: a cat"),
        (lambda m: m.encode("a cat", task="document"), "<s> Answer: a cat"),
        (lambda m: m.encode("a cat", task="query", prompt="seek"), "<s> Question, seek: a cat"),
        (lambda m: m.encode("a cat", prompt_name="sts"), "<s> Question, find the same: a cat"),
        (lambda m: m.encode_query("a cat"), "<s> Question, any: a cat"),
        (lambda m: m.encode_query("a cat", prompt="seek"), "<s> Question, seek: a cat"),
        (lambda m: m.encode_query("a cat", prompt_name="sts"), "<s> Question, find the same: a cat"),
        (lambda m: m.encode_document("a cat"), "<s> Answer: a cat"),
    ],
)
def test_which_template_is_read(two, call, read):
    """An explicit task wins; without one, with a prompt or without, it is the query template."""
    two.prompts = {"query": "", "document": "", "sts": "find the same"}
    assert prompts_read(two, lambda: call(two)) == [read]


def test_a_prompt_named_query_is_the_instruction_of_queries(two):
    two.prompts = {"query": "seek", "document": ""}
    assert prompts_read(two, lambda: two.encode_query("a cat")) == ["<s> Question, seek: a cat"]
    assert prompts_read(two, lambda: two.encode_document("a cat")) == ["<s> Answer: a cat"]
    two.prompts = {"query": "", "document": ""}


@pytest.mark.parametrize("call", ["encode_document", "encode"])
def test_an_instruction_without_a_place_is_refused(two, model, call):
    chosen = two if call == "encode_document" else model
    with pytest.raises(TextError, match=r"has no \{instruction\} slot"):
        getattr(chosen, call)("a cat", prompt="seek")


def test_an_unknown_task_is_refused(two):
    with pytest.raises(TextError, match="Got task 'passage'"):
        two.encode("a cat", task="passage")


def test_settings_behind_the_recipes_back_are_refused(model):
    with pytest.raises(ModelError, match="processing_kwargs"):
        model.encode("a cat", processing_kwargs={"text": {"max_length": 2}})


def test_an_instruct_models_chat_format_is_not_wrapped_around_texts(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("qwen3"), tmp_path / "instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    chat = echoembed.load(folder, recipe="classical", device="cpu")
    assert chat[0].tokenizer.chat_template
    assert prompts_read(chat, lambda: chat.encode("a cat")) == ["Write a paragraph: a cat"]
    assert np.array_equal(chat.encode(TEXTS), tiny("classical", "qwen3").encode(TEXTS))
    saved = echoembed.load(echoembed.save(chat, tmp_path / "saved"), device="cpu")
    assert prompts_read(saved, lambda: saved.encode("a cat")) == ["Write a paragraph: a cat"]


# How much is read


def test_a_budget_cuts_each_reading(model):
    short = echoembed.load("tiny", device="cpu", budget=4)
    rendered = echoembed.render(model, TEXTS[2])
    cut = model[0].tokenizer.decode(rendered.ids[rendered.span[0] : rendered.span[0] + 4]).strip()
    assert np.abs(short.encode(TEXTS[2]) - model.encode(cut)).max() < 1e-6
    assert echoembed.describe(short)["budget"] == 4


def test_a_layer_is_that_layers_states():
    recipe = Recipe(name="plain", query_template="{bos}{text:pool}", layer=2)
    model = tiny(recipe)
    plain = AutoModel.from_pretrained(tiny_models.folder("llama")).eval()
    ids = torch.tensor([echoembed.render(model, TEXTS[0]).ids])
    with torch.no_grad():
        states = plain(ids, output_hidden_states=True).hidden_states[2][0, 1:]
    expected = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
    assert np.abs(model.encode(TEXTS[0]) - expected).max() < 1e-5
    other = Recipe(**{**recipe.as_dict(), "layer": -1})
    assert np.array_equal(tiny(other, layer=2).encode(TEXTS), model.encode(TEXTS))
    assert np.abs(tiny(other).encode(TEXTS) - model.encode(TEXTS)).max() > 1e-2


def test_texts_that_are_cut_are_counted_and_said():
    model = tiny("classical", budget=2)
    texts = ["one two three four five", "a", "six seven eight nine", "ten eleven twelve"]
    lengths = [stop - start for start, stop in (echoembed.render(tiny("classical"), text).span for text in texts)]
    over = [length - 2 for length in lengths if length > 2]
    assert 0 < len(over) < len(texts)
    said = rf"{len(over)} of 4 texts were over the budget: {sum(over)} of their tokens.*budget 2, context 2048"
    with pytest.warns(TruncationWarning, match=said) as caught:
        model.encode(texts)
    assert len(caught) == 1
    assert [prompt.dropped for prompt in model[0].reader.render(texts) if prompt.dropped] == over
    parts = model.encode(texts, output_value=None)
    assert sorted(int(part["dropped"]) for part in parts) == sorted([*over, *[0] * (4 - len(over))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode("a")


def test_a_text_over_the_budget_can_be_refused_or_cut_in_silence():
    model = tiny("classical", budget=2, overflow="error")
    with pytest.raises(TextError, match=r"'one two three four five' is \d+ tokens over the 2"):
        model.encode(["a", "one two three four five"])
    with pytest.raises(AttributeError):
        model[0].overflow = "ignore"  # it is chosen when a model is loaded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny("classical", budget=2, overflow="ignore").encode(["one two three four five"])
    with pytest.raises(ModelError, match=r"overflow = 'cut'.*warn, error, ignore"):
        tiny("classical", overflow="cut")


# Features and training


def test_features_are_left_as_they_are():
    """A second forward of the same features gives the same vectors, which cached losses rely on."""
    model = tiny("echo-finetuned-mean")
    features = model.preprocess(TEXTS, task="document")
    before = {key: value.clone() for key, value in features.items() if isinstance(value, torch.Tensor)}
    with torch.no_grad():
        first, second = model(features), model(features)
    assert torch.equal(first["sentence_embedding"], second["sentence_embedding"])
    assert {key for key in features if key in before} == set(before)
    assert all(torch.equal(features[key], value) for key, value in before.items())
    assert "token_embeddings" not in features
    assert "sentence_embedding" not in features


@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning")
def test_a_step_of_training_moves_every_layer_and_lowers_the_loss():
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    model = tiny("echo-finetuned-last")
    model.train()
    columns = [model.preprocess(TEXTS, task="query"), model.preprocess(TEXTS[::-1], task="document")]
    prompts = [model[0].tokenizer.decode(column["input_ids"][0]) for column in columns]
    assert prompts[0].startswith("<s> Instruct: Given a web")
    assert prompts[1].startswith("<s> Document: ")
    loss = MultipleNegativesRankingLoss(model)
    cached = CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        value = loss(columns, None)
        value.backward()
        values.append(float(value))
        assert abs(float(cached(columns, None)) - values[-1]) < 1e-4
        grown = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
        assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)
        optimizer.step()
    names = {name for name, _ in model.named_parameters()}
    assert grown == names
    assert values[-1] < values[0]


# Saving and loading


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return echoembed.save(model, tmp_path_factory.mktemp("saved") / "model")


def test_a_saved_model_is_the_same_model(saved, model, vectors):
    again = echoembed.load(saved, device="cpu")
    assert type(again) is SentenceTransformer
    assert np.array_equal(again.encode(TEXTS), vectors)
    assert again[0].recipe == model[0].recipe
    assert [type(module) for module in again] == [type(module) for module in model]


def test_the_library_loads_it_where_it_is_trusted(saved, vectors):
    again = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    assert isinstance(again[0], EchoTransformer)
    assert np.array_equal(again.encode(TEXTS), vectors)


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


# Fingerprint and description


def test_the_fingerprint_tells_apart_what_gives_other_vectors():
    variants = {
        "plain": tiny(),
        "recipe": tiny("classical"),
        "pooling": tiny("echo-last"),
        "weights": echoembed.load(tiny_models.folder("llama", seed=1), recipe="echo", device="cpu"),
        "budget": tiny(budget=100),
        "layer": tiny(layer=2),
        "raw": tiny(normalize=False),
    }
    shorter = tiny()
    shorter.max_seq_length = 64
    variants["length"] = shorter
    found = {name: echoembed.fingerprint(model) for name, model in variants.items()}
    assert len(set(found.values())) == len(found), found
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in found.values())
    assert echoembed.fingerprint(tiny()) == found["plain"]


def test_what_moves_the_last_digits_only_is_named_beside_the_fingerprint():
    plain = tiny()
    others = {
        "bfloat16, packed": tiny(dtype="bfloat16"),
        "int8, packed": tiny(dtype="int8"),
        "float32, padded": tiny(engine="padded"),
        "float32, packed, deterministic": tiny(deterministic=True),
    }
    assert echoembed.describe(plain)["numerics"] == "float32, packed"
    for numerics, model in others.items():
        assert echoembed.describe(model)["numerics"] == numerics
        assert echoembed.fingerprint(model) == echoembed.fingerprint(plain)


def test_the_name_of_a_recipe_is_not_in_the_fingerprint():
    renamed = Recipe(**{**echoembed.recipes["echo"].as_dict(), "name": "mine", "description": "Mine."})
    assert echoembed.fingerprint(tiny(renamed)) == echoembed.fingerprint(tiny())


def test_the_fingerprint_is_the_same_in_another_process(model, saved):
    code = (
        "import echoembed\n"
        f"for name in ('tiny', {str(saved)!r}):\n"
        "    model = echoembed.load(name, device='cpu')\n"
        "    print(echoembed.fingerprint(model), float(model.encode('a cat')[0]))\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    here = [model, echoembed.load(saved, device="cpu")]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == [echoembed.fingerprint(each) for each in here]
    assert np.allclose([float(line[1]) for line in lines], [each.encode("a cat")[0] for each in here], atol=1e-6)


def test_training_changes_the_fingerprint_of_what_is_saved(tmp_path):
    model = tiny()
    one = echoembed.save(model, tmp_path / "before")
    with torch.no_grad():
        model[0].model.layers[0].mlp.down_proj.weight[0, 0] += 1
    other = echoembed.save(model, tmp_path / "after")
    first, second = (echoembed.load(folder, device="cpu") for folder in (one, other))
    assert echoembed.fingerprint(first) != echoembed.fingerprint(second)


def test_describe_says_what_is_in_force(model):
    facts = echoembed.describe(model)
    assert set(facts) >= {
        "model",
        "revision",
        "architecture",
        "parameters",
        "dtype",
        "device",
        "recipe",
        "source",
        "attention",
        "layers",
        "pooling",
        "dimension",
        "normalized",
        "context",
        "budget",
        "query_template",
        "query_prompt",
        "query_budget_in_force",
        "document_template",
        "document_prompt",
        "document_budget_in_force",
        "recipe_fingerprint",
        "fingerprint",
    }
    json.dumps(facts)
    assert facts["model"] == "tiny"
    assert facts["recipe"] == "echo"
    assert re.fullmatch("[0-9a-f]{40}", facts["revision"])
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["query_prompt"] == "<s>Rewrite the following paragraph: TEXT The rewritten paragraph: TEXT"
    assert facts["attention"] == "causal (checked)"
    assert facts["layers"] == 6
    assert facts["dimension"] == 256
    assert facts["normalized"] is True
    frame = len(echoembed.render(model, "a").ids) - 2 * len(model[0].pieces.encode([" a"])[0].ids)
    assert facts["query_budget_in_force"] == min(512, (1024 - frame) // 2)


def test_describe_follows_overrides():
    facts = echoembed.describe(tiny("classical-bidirectional", layer=1, budget=7, normalize=False, dtype="float16"))
    found = {key: facts[key] for key in ("layers", "budget", "normalized", "dtype", "attention", "pooling")}
    assert found == {
        "layers": 1,
        "budget": 7,
        "normalized": False,
        "dtype": "float16",
        "attention": "bidirectional (checked)",
        "pooling": "mean",
    }


@pytest.mark.parametrize("call", [echoembed.fingerprint, echoembed.describe, lambda m: echoembed.render(m, "a")])
def test_a_model_from_elsewhere_is_refused(call):
    with pytest.raises(ModelError, match=r"a model from echoembed\.load"):
        call(SentenceTransformer(modules=[Normalize()], device="cpu"))


# Names, rows and checkpoints


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


@pytest.mark.parametrize("option", [{"dtype": "int4"}, {"dtype": "float64"}, {"device": "abacus"}])
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
