"""What ``echoembed.load`` gives is a SentenceTransformer in everything that can be done with one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import AutoModel, AutoTokenizer

import echoembed
import tiny_models
from echoembed import Recipe, TruncationWarning
from echoembed.errors import ModelError, TextError
from echoembed.model.transformer import EchoTransformer
from loaded import TEXTS, TWO, prompts_read, tiny


@pytest.fixture(scope="module")
def two():
    return echoembed.load(tiny_models.folder("llama"), recipe=TWO, device="cpu")


# A plain SentenceTransformer


def test_it_is_a_sentence_transformer(model):
    assert isinstance(model, SentenceTransformer)
    assert [type(module) for module in model] == [EchoTransformer, Pooling, Normalize]
    assert model.get_embedding_dimension() == 256
    assert model.similarity_fn_name == "cosine"
    assert not model[0].model.training


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
    said = rf"{len(over)} of 4 texts were over the budget: {sum(over)} of their tokens.*at most 2 are read.*Raise the"
    with pytest.warns(TruncationWarning, match=said) as caught:
        model.encode(texts)
    assert len(caught) == 1
    assert [prompt.dropped for prompt in model[0].reader.render(texts) if prompt.dropped] == over
    parts = model.encode(texts, output_value=None)
    assert sorted(int(part["dropped"]) for part in parts) == sorted([*over, *[0] * (4 - len(over))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode("a")


def test_a_warning_of_cuts_names_the_limit_in_force():
    """Not the budget of a prompt that was not cut, nor one that the context has no room for."""
    beside = {"query_template": "{bos}Write: {text:pool}", "budget": 3}
    template = "{bos}Again: {text} {text:pool}"
    for recipe, limit, remedy in (
        (Recipe(name="two", query_template=template, beside=[beside]), 3, "Raise the budget"),
        (Recipe(name="long", query_template=template, budget=5000), 1021, "context holds no more"),
    ):
        with pytest.warns(TruncationWarning, match=f"at most {limit} are read.*{remedy}"):
            tiny(recipe).encode("word " * 1200)


def test_a_text_over_the_budget_can_be_refused_or_cut_in_silence():
    model = tiny("classical", budget=2, overflow="error")
    with pytest.raises(TextError, match=r"'one two three four five' is \d+ tokens over the limit of 2"):
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
