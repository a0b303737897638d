"""Eight bits: close to float32, the same in any company, lighter, and never mistaken for float32."""

import copy
import gc
import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import echoembed
import tiny_models
from echoembed import errors
from echoembed.engine import int8, rounding
from echoembed.engine.int8 import CHUNK, Int8Linear
from echoembed.prompts.template import Rendered

STS = Path(__file__).parents[3] / "shared" / "data" / "sts" / "stsb" / "dev.jsonl.gz"
SENTENCES = [
    f"The {noun} {verb} {place}."
    for noun in ("river", "old man", "second reading", "committee")
    for verb in ("waits", "was seen", "grew louder")
    for place in ("near the harbour", "in June", "again")
]


def test_layer_is_close_to_the_float_one():
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(64, 48)
    states = torch.randn(3, CHUNK, 64, generator=generator) * 10 ** torch.randn(3, CHUNK, 1, generator=generator)
    with torch.no_grad():
        wanted, got = linear(states), Int8Linear(linear)(states)
        assert (torch.cosine_similarity(wanted, got, dim=-1) > 0.999).all()
        alone = torch.cat([Int8Linear(linear)(row[None]) for row in states[0]])
        assert torch.equal(alone, got[0])  # every token has a scale of its own
        assert torch.equal(Int8Linear(linear)(torch.zeros(2, 64)), linear.bias.expand(2, -1))
        assert Int8Linear(linear)(states.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_columns_that_stand_out_do_not_cost_the_rest_its_levels():
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(64, 48)
    states = torch.randn(1, 9, 64, generator=generator)
    states[..., [3, 40]] *= 1000
    linear.weight[:, [3, 40]] *= 1e-3  # their share of the sum is like the others'
    wanted = linear(states)
    apart = Int8Linear(linear, outlier_J=torch.tensor([3, 40]))
    together = Int8Linear(linear)
    assert torch.cosine_similarity(apart(states), wanted, dim=-1).min() > 0.999
    assert torch.cosine_similarity(together(states), wanted, dim=-1).min() < 0.9  # else there was nothing to mend
    assert torch.equal(pickle.loads(pickle.dumps(apart))(states), apart(states))


@torch.no_grad()
@pytest.mark.parametrize("one_pass", [True, False])
def test_rows_with_one_giant_number_keep_the_rest_of_their_levels(monkeypatch, one_pass):
    """As precise as sixteen bits, in a column that no probe has shown; and in any company the same bits."""
    if not one_pass:
        for module in (int8, rounding):
            monkeypatch.setattr(module, "fused", lambda: False)
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(256, 48)
    linear.weight[:] = (linear.weight * 400).round().clamp(-126, 126)  # weights that eight bits hold exactly
    linear.weight[:, 0] = 127
    linear.weight[:, 7] = 0  # the giant's own share of the sum would hide that of the rest
    states = torch.randn(1, 300, 256, generator=generator)
    states[0, ::50, 7] = torch.tensor([100.0, -1000, 30, 50, -200, 60])
    layer, wanted = Int8Linear(linear), linear(states)
    got = layer(states)
    error = ((got - wanted).norm(dim=-1) / wanted.norm(dim=-1))[0]
    assert error.max() < 0.02  # with eight bits alone, nothing is left of the rest beside 1000
    for rows in ([50], [0, 3], [150, 50, 7], list(range(100, 300))):
        assert torch.equal(layer(states[:, rows]), got[:, rows])


@torch.no_grad()
def test_columns_are_found_on_the_probe_prompts():
    model = torch.nn.Module()
    model.one = torch.nn.Linear(8, 8)
    reads = torch.ones(1, 4, 8)
    reads[..., 5] = 100

    class Output:
        last_hidden_state = reads

    model.forward = lambda input_ids, use_cache: (model.one(reads), Output)[1]
    assert int8.quantize(model, [Rendered((1, 2, 3, 4), (1, 4))]) == 1
    assert model.one.outlier_J.tolist() == [5]


def test_a_text_alone_and_in_company_has_one_vector_to_rounding():
    model = echoembed.load("tiny", device="cpu", dtype="int8")
    together = model.encode(SENTENCES)
    alone = np.stack([model.encode(sentence) for sentence in SENTENCES])
    assert (together * alone).sum(axis=1).min() > 0.99999


@torch.no_grad()
def test_layers_given_the_same_states_round_them_once(monkeypatch):
    model = echoembed.load(tiny_models.folder("llama"), device="cpu", dtype="int8")
    model.encode(SENTENCES[:1])  # prepares the modules' other forwards, each of which is tried once
    rounded = []
    before = rounding.codes_of
    monkeypatch.setattr(rounding, "codes_of", lambda rows, exact: (rounded.append(rows.shape), before(rows, exact))[1])
    wanted = model.encode(SENTENCES[:4])
    # For each layer: queries, keys and values together; output; gate and up together; down. The last layer is run
    # twice: for its keys and values, and for its pooled tokens.
    assert not [held for held in gc.get_objects() if isinstance(held, rounding.Codes)]  # nothing is, after the call
    layers = len(model[0].model.layers)
    assert len(rounded) == 4 * layers + 1
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model[0].model))):
        assert any(isinstance(module, Int8Linear) for module in copied.modules())
    assert np.array_equal(copy.deepcopy(model).encode(SENTENCES[:4]), wanted)


@pytest.mark.skipif(not rounding.fused(), reason="a processor without VNNI, which has one way only")
@torch.no_grad()
def test_both_ways_give_the_same_bits(monkeypatch):
    """In one pass with unsigned codes and packed weights, and int8 times int8."""
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs, rows in ((64, 48, 3), (704, 256, 700), (2048, 33, 1)):
        linear = torch.nn.Linear(inputs, outputs)
        states = torch.randn(rows, inputs, generator=generator) * 10 ** torch.randn(rows, 1, generator=generator)
        one = Int8Linear(linear)
        assert one.weight.is_mkldnn
        for module in (int8, rounding):
            monkeypatch.setattr(module, "fused", lambda: False)
        other = Int8Linear(linear)
        assert not other.weight.is_mkldnn
        wanted = other(states)
        carried = pickle.loads(pickle.dumps(one))  # to a processor without
        assert torch.equal(carried.weight, other.weight)
        assert torch.equal(carried(states), wanted)
        monkeypatch.undo()
        assert torch.equal(one(states), wanted)
        assert pickle.loads(pickle.dumps(one)).weight.is_mkldnn
        by_hand = torch.nn.functional.linear(states.double(), other.weight.double() * other.scale.double()[:, None])
        cosine = torch.cosine_similarity(wanted.double() - linear.bias, by_hand, dim=-1)
        assert cosine.min() > 0.9995


def test_other_states_of_the_same_shape_are_rounded_anew():
    rounded = rounding.Rounded()
    one, other = Int8Linear(torch.nn.Linear(8, 4), rounded), Int8Linear(torch.nn.Linear(8, 4), rounded)
    states = torch.randn(2, 3, 8)
    with torch.no_grad():
        together = one(states[0]), other(states[1]), one(states[1])
        alone = Int8Linear.forward(copy.deepcopy(one), states[1])
    assert torch.equal(together[2], alone)
    assert not torch.equal(together[0], together[2])


@torch.no_grad()
def test_states_changed_in_place_are_rounded_anew():
    rounded = rounding.Rounded()
    layer = Int8Linear(torch.nn.Linear(8, 4), rounded)
    states = torch.randn(3, 8)
    before = layer(states)
    states.mul_(-1.0)
    assert not torch.equal(layer(states), before)
    assert torch.equal(layer(states), layer(states.clone()))


def test_bundled_model_is_close_lighter_and_tells_itself_apart():
    full, small = echoembed.load("tiny", device="cpu"), echoembed.load("tiny", device="cpu", dtype="int8")
    cosines = (full.encode(SENTENCES) * small.encode(SENTENCES)).sum(axis=1)
    assert cosines.min() >= 0.998
    assert echoembed.describe(full)["numerics"] != echoembed.describe(small)["numerics"]
    assert echoembed.describe(small)["dtype"] == "int8"
    assert echoembed.describe(small)["engine"].startswith("packed")
    sizes = [sum(w.numel() * w.element_size() for w in model.state_dict().values()) for model in (full, small)]
    embeddings = full[0].model.get_input_embeddings().weight.numel() * 4
    assert sizes[1] - embeddings < 0.27 * (sizes[0] - embeddings)
    alone = np.stack([small.encode(sentence) for sentence in SENTENCES])
    together = small.encode(SENTENCES)  # a rounding may tip a code by one, which is little beside what int8 costs
    assert np.abs(alone - together).max() < 0.5 * np.abs(together - full.encode(SENTENCES)).max()


@pytest.mark.skipif(not STS.exists(), reason="no STS data here")
def test_similarities_rank_as_in_float32():
    with gzip.open(STS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:400]
    first, second, gold = zip(*((row["sentence1"], row["sentence2"], row["score"]) for row in rows), strict=True)
    scores = []
    for dtype in (None, "int8"):
        model = echoembed.load("tiny", device="cpu", dtype=dtype)
        one, other = model.encode(first, batch_size=128), model.encode(second, batch_size=128)
        scores.append(100 * spearmanr((one * other).sum(axis=1), gold).statistic)
    assert abs(scores[0] - scores[1]) <= 0.3


def test_int8_is_neither_saved_nor_trained(tmp_path):
    model = echoembed.load(tiny_models.folder("llama"), device="cpu", dtype="int8")
    with pytest.raises(errors.ModelError, match="Allowed: float32, bfloat16 or float16 to save it"):
        echoembed.save(model, tmp_path / "model")
    with pytest.raises(errors.ModelError, match="for training"):
        model.train()(model.preprocess(["a text"]))


def test_model_without_linear_layers_is_refused():
    with pytest.raises(errors.ModelError, match=r"no layer is an nn\.Linear"):
        echoembed.load(tiny_models.folder("gpt2"), device="cpu", dtype="int8")
