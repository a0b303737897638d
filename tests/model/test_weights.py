"""Weights that change after loading, models with oddities, and training by the library's own trainer."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoModel

import echoembed
import tiny_models
from echoembed import errors
from echoembed.model import backbone, weights
from echoembed.numerics import relative_difference
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.reader import Reader

TEXTS = ["the cat sat on a mat", "rain fell over the old town and river", "boats"]


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)


def test_an_adapter_that_was_trained_is_saved_with_the_model(tmp_path):
    torch.manual_seed(0)
    model = echoembed.load(tiny_models.folder("llama"))
    before = model.encode(TEXTS)
    model[0].model.add_adapter(lora())
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - before).max() > 1e-3
    folder = echoembed.save(model, tmp_path / "adapted")
    np.testing.assert_allclose(echoembed.load(folder).encode(TEXTS), adapted, atol=1e-5)
    np.testing.assert_array_equal(model.encode(TEXTS), adapted)  # what is in memory stays as it was


def test_weights_that_were_trained_after_loading_have_another_fingerprint():
    model = echoembed.load(tiny_models.folder("llama"))
    before = echoembed.fingerprint(model)
    with torch.no_grad():
        for weight in model[0].model.parameters():
            weight.mul_(1.01)
    after = echoembed.fingerprint(model)
    assert after != before
    assert echoembed.fingerprint(model) == after


def test_an_adapter_in_memory_has_another_fingerprint():
    model = echoembed.load(tiny_models.folder("llama"))
    before = echoembed.fingerprint(model)
    model[0].model.add_adapter(lora())
    assert echoembed.fingerprint(model) != before


def test_truncated_vectors_have_another_fingerprint():
    model = echoembed.load(tiny_models.folder("llama"))
    before = echoembed.fingerprint(model)
    model.truncate_dim = 8
    assert echoembed.fingerprint(model) != before


def test_a_second_reading_stays_within_the_window_in_which_it_sees_the_first():
    folder = tiny_models.folder("mistral", sliding_window=32)
    assert echoembed.load(folder, recipe="echo")[0].context == 32
    assert echoembed.load(folder, recipe="classical")[0].context == 2048
    mixed = tiny_models.folder("gemma2", sliding_window=32)  # every other layer sees all
    assert echoembed.load(mixed, recipe="echo")[0].context == 2048


def test_a_padding_token_without_an_embedding_is_not_read(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "padded")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = echoembed.load(folder).encode(TEXTS)
    tokenizer.add_special_tokens({"pad_token": "[PAD of its own]"})
    tokenizer.save_pretrained(folder)
    np.testing.assert_allclose(echoembed.load(folder).encode(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("sides", [{"left": True, "right": True}, {"left": False, "right": True}])
def test_a_normaliser_that_strips_texts_does_not_strip_pieces(sides):
    folder = tiny_models.folder("xlm-roberta")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Strip(**sides)])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces = PieceTokenizer(tokenizer)
    parts = [" the", " cat", " sat"]
    together = [id_ for piece in pieces.encode(parts) for id_ in piece.ids]
    assert together == tokenizer("the cat sat", add_special_tokens=False)["input_ids"]


def test_a_dimension_of_giants_does_not_hide_a_mask_that_stayed():
    """Language models have states thousands of times larger in a few dimensions than in the rest."""
    for attention, other in (("causal", "bidirectional"), ("bidirectional", "causal")):
        folder = tiny_models.folder("llama")
        config = backbone.read_config(folder, "giants", attention)
        model = AutoModel.from_pretrained(folder, config=config, dtype=torch.bfloat16)
        with torch.no_grad():
            model.embed_tokens.weight[:, 0] = 30.0
            model.norm.weight[0] = 3000.0
        backbone.check_attention(model, "giants", attention)
        with pytest.raises(errors.ModelError, match=other):
            backbone.check_attention(model, "giants", other)


def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "fewer", num_hidden_layers=2)
    with pytest.raises(errors.ModelError, match="no place for"):
        echoembed.load(folder)


@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
def test_the_librarys_trainer_gives_each_column_its_template(loss, tmp_path, monkeypatch):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

    two = echoembed.Recipe(
        name="two", query_template="{bos}Query {text:pool}", document_template="{bos}Document {text:pool}"
    )
    model = echoembed.load(tiny_models.folder("llama"), recipe=two)
    read = []
    render = Reader.render
    monkeypatch.setattr(
        Reader,
        "render",
        lambda self, inputs, **kwargs: read.append((inputs[0], kwargs.get("task"))) or render(self, inputs, **kwargs),
    )
    before = [weight.detach().clone() for weight in model[0].model.parameters()]
    data = Dataset.from_dict({"anchor": ["the cat", "the rain"] * 4, "positive": ["a mat", "old town"] * 4})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        router_mapping={"anchor": "query", "positive": "document"},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=getattr(losses, loss)(model)
        )
        trainer.train()
    assert {("query" if text.startswith("the") else "document", task) for text, task in read} == {
        ("query", "query"),
        ("document", "document"),
    }
    after = list(model[0].model.parameters())
    assert all(torch.isfinite(weight).all() for weight in after)
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("loss", ["AdaptiveLayerLoss", "Matryoshka2dLoss"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_librarys_layer_losses_see_the_pooled_states_of_every_layer(loss, pooling):
    from sentence_transformers import losses

    recipe = echoembed.Recipe(name="two", query_template="{bos}Once {text} again {text:pool}", pooling=pooling)
    model = echoembed.load(tiny_models.folder("llama"), recipe=recipe, engine="padded", device="cpu")
    base = losses.MultipleNegativesRankingLoss(model)
    settings = {"matryoshka_dims": [32, 16]} if loss == "Matryoshka2dLoss" else {}
    wrapped = getattr(losses, loss)(model, base, **settings)
    model.train()
    columns = [["the cat sat", "rain fell over the old town"], ["a mat", "the river"]]
    value = wrapped([model.preprocess(column) for column in columns], None)
    value.backward()
    assert torch.isfinite(value)
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.parameters())

    transformer = model[0].eval()  # each layer's states are those of the model cut at that layer
    features = transformer.preprocess(columns[0])
    transformer.model.config.output_hidden_states = True
    with torch.no_grad():
        layers = transformer(features)["all_layer_embeddings"]
    transformer.model.config.output_hidden_states = False
    cut = echoembed.load(tiny_models.folder("llama"), recipe=recipe, layer=2, engine="padded", device="cpu")
    with torch.no_grad():
        wanted = cut[0](cut[0].preprocess(columns[0]))["token_embeddings"]
    assert torch.allclose(layers[2], wanted, atol=1e-5)


def test_a_giant_dimension_does_not_hide_that_the_others_differ():
    torch.manual_seed(0)
    states, others = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    states[..., 0] = others[..., 0] = 1e6
    assert relative_difference(states, others) > 0.3
    assert relative_difference(states, states + 1e-7) < 1e-6
    assert np.isnan(relative_difference(torch.full_like(states, torch.nan), states))


def resident(address: int) -> int:
    """Bytes in memory of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")


@pytest.mark.skipif(sys.platform != "linux", reason="mappings are read from /proc")
def test_unused_pages_of_a_mapped_file_leave_memory_and_can_be_read_again(tmp_path):
    file = tmp_path / "weights.bin"
    values = torch.arange(2**20, dtype=torch.float32)
    values.numpy().tofile(file)
    mapped = torch.from_file(str(file), shared=False, size=values.numel())
    assert torch.equal(mapped, values)
    before = resident(mapped.data_ptr())
    weights.let_go(mapped[1000:])
    assert before > 4e6 > 1e5 > resident(mapped.data_ptr())
    assert torch.equal(mapped, values)


def test_a_tensor_in_memory_of_its_own_is_never_let_go():
    values = torch.arange(2**22, dtype=torch.float32)
    weights.let_go(values)
    assert torch.equal(values, torch.arange(2**22, dtype=torch.float32))


def test_converted_weights_are_those_of_the_file_rounded():
    exact = AutoModel.from_pretrained(tiny_models.folder("llama"))
    converted = copy.deepcopy(exact)
    weights.convert(converted, torch.bfloat16)
    for name, weight in exact.state_dict().items():
        assert torch.equal(converted.state_dict()[name], weight.to(torch.bfloat16)), name
    frequencies = dict(converted.named_buffers())
    assert frequencies
    assert all(buffer.dtype == torch.float32 for buffer in frequencies.values())


def test_tied_weights_that_were_changed_in_place_are_converted_as_they_are(tmp_path):
    file = tmp_path / "weights.bin"
    torch.zeros(2**20).numpy().tofile(file)
    mapped = torch.from_file(str(file), shared=False, size=2**20)
    mapped += 3  # as a merged adapter does; the file still has zeros
    model = torch.nn.Module()
    model.one, model.other = torch.nn.Parameter(mapped), torch.nn.Parameter(mapped)
    for dtype in (torch.bfloat16, torch.bfloat16):  # the second time there is nothing to do
        weights.convert(model, dtype)
        assert torch.equal(model.one.data, torch.full((2**20,), 3.0, dtype=dtype))
        assert torch.equal(model.other.data, model.one.data)
        assert model.other.data_ptr() == model.one.data_ptr()
