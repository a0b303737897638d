"""Recipes in which tokens see the last one, or are weighed by attention: against loops over a model's layers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from transformers import AutoModel

import echoembed
import tiny_models
from echoembed import Recipe
from echoembed.errors import ModelError, RecipeError, TrainingError
from echoembed.evaluation.layers import every_layer
from echoembed.integrations.stock import export_stock
from echoembed.model.hindsight import run
from echoembed.model.pooling import pad
from echoembed.model.variants import under
from echoembed.numerics import relative_difference
from echoembed.training.config import DataConfig, TrainConfig
from loaded import TEXTS, tiny

PROMPT = '{bos}This sentence : "*{text}{answer:pool}'
MARKERS = {"answer": '." means in one word:"'}
FAMILIES = ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "olmo2"]


def recipe(**fields) -> Recipe:
    return Recipe(**{"name": "looks", "query_template": PROMPT, "markers": MARKERS, **fields})


@torch.no_grad()
def plain_states(read, hindsight: str) -> np.ndarray:
    """The last layer's states of one prompt through a Llama, layer by layer, with every sum written out."""
    model = AutoModel.from_pretrained(tiny_models.folder("llama"), attn_implementation="eager").eval()
    kind, begin, end = hindsight.split("-")
    chosen = range(int(begin), int(end) + 1)
    ids_1T = torch.tensor([read.ids])
    count = len(read.ids)
    states_1TD = model.embed_tokens(ids_1T)
    cos, sin = model.rotary_emb(states_1TD, torch.arange(count)[None])

    def turned(heads_HTE):
        half = heads_HTE.shape[-1] // 2
        return heads_HTE * cos + torch.cat([-heads_HTE[..., half:], heads_HTE[..., :half]], dim=-1) * sin

    for number, layer in enumerate(model.layers, start=1):
        if kind == "slot" and number in chosen:
            states_1TD = states_1TD.clone()
            states_1TD[0, read.prefix - 1] = states_1TD[0, -1]
        normed_TD = layer.input_layernorm(states_1TD)[0]
        own = layer.self_attn
        query, key, value = (
            project(normed_TD).view(count, -1, own.head_dim).transpose(0, 1)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        query, key = turned(query), turned(key)
        out = torch.zeros(count, query.shape[0], own.head_dim)
        for head in range(query.shape[0]):
            shared = head // (query.shape[0] // key.shape[0])
            for place in range(count):
                keys, values = key[shared, : place + 1], value[shared, : place + 1]
                if kind == "keys" and number in chosen:
                    keys = torch.cat([key[shared, -1:], keys])
                    values = torch.cat([value[shared, -1:], values])
                weights = (keys @ query[head, place] / own.head_dim**0.5).softmax(dim=0)
                out[place, head] = (weights[:, None] * values).sum(dim=0)
        states_1TD = states_1TD + own.o_proj(out.reshape(count, -1))[None]
        states_1TD = states_1TD + layer.mlp(layer.post_attention_layernorm(states_1TD))
    return model.norm(states_1TD)[0].detach().numpy()


@pytest.mark.parametrize("hindsight", ["slot-1-1", "slot-2-3", "keys-1-2", "keys-2-2"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_a_loop_over_the_layers(hindsight, pooling):
    model = tiny(recipe(hindsight=hindsight, pooling=pooling))
    found = model.encode(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        read = echoembed.render(model, text)
        states = plain_states(read, hindsight)[slice(*read.span)]
        expected = states.mean(axis=0) if pooling == "mean" else states[-1]
        assert np.abs(vector - expected / np.linalg.norm(expected)).max() < 1e-5
    assert np.abs(found - tiny(recipe(pooling=pooling)).encode(TEXTS)).max() > 0.01, "it is not the plain forward"


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_attention_weighs_as_written_out_from_eager_attention(family):
    echo = echoembed.recipes["echo"].query_template
    model = tiny(Recipe(name="backward", query_template=echo, pooling="attention-mean"), family)
    stock = AutoModel.from_pretrained(tiny_models.folder(family), attn_implementation="eager").eval()
    for text, vector in zip(TEXTS, model.encode(TEXTS), strict=True):
        read = echoembed.render(model, text)
        with torch.no_grad():
            output = stock(torch.tensor([read.ids]), output_attentions=True, use_cache=False)
        heads = torch.cat([layer[0] for layer in output.attentions]).numpy()
        strongest = np.max([(head + head.T) / 2 for head in heads], axis=0)
        states, tokens = output.last_hidden_state[0].numpy(), range(*read.span)
        gathered = []
        for token in tokens:
            later = [other for other in tokens if other >= token]
            weights = [strongest[token, other] for other in later]
            parts = [weight * states[other] for weight, other in zip(weights, later, strict=True)]
            gathered.append(sum(parts) / sum(weights))
        expected = np.mean(gathered, axis=0)
        assert np.abs(vector - expected / np.linalg.norm(expected)).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_our_attention_is_the_models_own_where_nothing_is_added(family):
    model = tiny(Recipe(name="plain", query_template=PROMPT, markers=MARKERS, pooling="attention-mean"), family)[0]
    prompts = model.reader.render(TEXTS)
    features = pad(prompts, model.pad_id)
    with torch.no_grad():
        ours, _ = run(model.model, model.recipe, prompts, features)
        theirs = model.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
    for row, prompt in enumerate(prompts):
        states = [output.last_hidden_state[row, : len(prompt.ids)] for output in (ours, theirs)]
        assert relative_difference(*states) < 1e-5


@pytest.mark.parametrize(
    "fields", [{"hindsight": "slot-2-3"}, {"hindsight": "keys-1-3"}, {"pooling": "attention-mean"}]
)
def test_a_vector_is_the_same_in_any_company_and_after_saving(fields, tmp_path):
    model = tiny(recipe(**fields), "gemma3")
    together = model.encode(TEXTS * 8)[: len(TEXTS)]
    alone = np.stack([model.encode(text) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    assert np.array_equal(echoembed.load(echoembed.save(model, tmp_path / "saved")).encode(TEXTS * 8)[:5], together)
    assert echoembed.describe(model)["engine"].startswith("padded (the recipe lets tokens see")
    assert len({echoembed.fingerprint(other) for other in (model, tiny(recipe(), "gemma3"))}) == 2


def test_all_layers_at_once_are_those_of_models_that_end_there():
    whole = tiny(recipe(hindsight="slot-1-2"))
    every = every_layer(whole, whole[0].reader.render(TEXTS))["last"]
    cut = tiny(recipe(hindsight="slot-1-2", pooling="last", layer=2), normalize=False)
    assert np.abs(every[:, 2] - cut.encode(TEXTS)).max() < 1e-5


def test_a_prompt_beside_another_can_look_back():
    bag = Recipe(name="bag", query_template="{bos}{text:pool}", layer=1)
    both = recipe(hindsight="keys-2-3", pooling="last", beside=[bag])
    found = tiny(both).encode(TEXTS)
    parts = [tiny(part).encode(TEXTS) for part in both.prompts]
    assert np.abs(found - np.hstack(parts) / np.sqrt(2)).max() < 1e-5


def test_other_threads_read_the_same_weights_as_ever():
    model = tiny(recipe(pooling="last"), engine="padded")
    looking = under(model, recipe(pooling="last", hindsight="keys-1-3"))
    plain, back = model.encode(TEXTS), looking.encode(TEXTS)
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda one=one: found.extend((one is model, one.encode(TEXTS)) for _ in range(8)))
        for one in (model, looking)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    for ordinary, vectors in found:
        assert np.abs(vectors - (plain if ordinary else back)).max() < 1e-5


def test_recipes_and_models_that_cannot_look_back_are_refused(tmp_path):
    for fields in ({"hindsight": "keys-1-2"}, {"pooling": "attention-mean"}):
        with pytest.raises(RecipeError, match="all tokens see all"):
            recipe(attention="bidirectional", **fields)
        for asked in ({"engine": "packed"}, {"deterministic": True}):
            with pytest.raises(ModelError, match="padded forward alone"):
                tiny(recipe(**fields), **asked)
    with pytest.raises(ModelError, match="ends at layer 2 at most"):
        tiny(recipe(hindsight="keys-1-3", layer=2))
    with pytest.raises(ModelError, match="another at layer 0, which has no attention"):
        tiny(Recipe(name="flat", query_template="{bos}{text:pool}", pooling="attention-mean", layer=0))
    for family in ("bloom", "gptj", "falcon", "gpt-oss"):
        for field, value in (("hindsight", "keys-1-2"), ("pooling", "attention-mean")):
            with pytest.raises(ModelError, match=f"attention in a way of its own, which {field} = '{value}'"):
                tiny(recipe(**{field: value}), family)
    with pytest.raises(ModelError, match="in front of the text"):
        tiny(Recipe(name="bare", query_template="{text:pool}", hindsight="slot-1-2"), "qwen3")
    model = tiny(recipe(hindsight="slot-1-2", pooling="last"))
    with pytest.raises(ModelError, match="changes which tokens see each other"):
        export_stock(model, tmp_path / "stock")
    with pytest.raises(TrainingError, match="Got pooling = 'attention-mean'"):
        TrainConfig(output="out", pooling="attention-mean", data=(DataConfig(path="none.jsonl"),))
    model.train()
    with pytest.raises(ModelError, match="a single prompt for training, without hindsight"):
        model.preprocess(TEXTS)
