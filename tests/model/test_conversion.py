"""A model that is converted by PyTorch's own methods is the one that is loaded in that dtype."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import echoembed
from echoembed import Recipe
from echoembed.errors import ModelError
from loaded import TEXTS, TWO, tiny

WAYS = {
    "half": (lambda model: model.half(), "float16"),
    "bfloat16": (lambda model: model.bfloat16(), "bfloat16"),
    "to": (lambda model: model.to(torch.float16), "float16"),
    "to a device": (lambda model: model.to("cpu", torch.bfloat16), "bfloat16"),
    "the first module": (lambda model: model[0].half(), "float16"),
}
JOINED = replace(TWO, name="joined", beside=(Recipe(name="low", query_template="{bos}{text:pool}", layer=1),))


def assert_same(model, wanted):
    facts, others = echoembed.describe(model), echoembed.describe(wanted)
    assert {key for key in facts if facts[key] != others[key]} <= {"dtype_reason"}
    assert model[0].running.dtype == wanted[0].running.dtype
    assert np.array_equal(model.encode(TEXTS), wanted.encode(TEXTS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_it_is_the_model_that_is_loaded_in_that_dtype(way, family):
    convert, dtype = WAYS[way]
    model, exact = tiny(family=family), tiny(family=family)
    convert(model)
    assert_same(model, tiny(family=family, dtype=dtype))
    assert echoembed.fingerprint(model) == echoembed.fingerprint(exact)
    assert "converted from float32" in echoembed.describe(model)["dtype_reason"]
    assert not np.array_equal(model.encode(TEXTS), exact.encode(TEXTS))


def test_so_is_one_with_several_prompts():
    model = tiny(JOINED).half()
    assert_same(model, tiny(JOINED, dtype="float16"))
    assert all(part.model.dtype == torch.float16 for part in model[0].beside)


def test_so_is_one_that_the_library_loads(tmp_path):
    folder = echoembed.save(tiny(), tmp_path / "model")
    library = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").half()
    assert_same(library, echoembed.load(folder, dtype="float16", device="cpu"))


def test_weights_that_were_trained_still_count_as_trained():
    model = tiny()
    with torch.no_grad():
        model[0].model.embed_tokens.weight.add_(0.25)
    assert echoembed.fingerprint(model) != echoembed.fingerprint(tiny())
    assert echoembed.fingerprint(model.half()) != echoembed.fingerprint(tiny())


@pytest.mark.parametrize("move", [lambda m: m.to("cpu"), lambda m: m.share_memory(), lambda m: m.float()])
def test_what_leaves_the_dtype_leaves_the_rest(move):
    model = tiny()
    move(model)
    assert_same(model, tiny())
    assert echoembed.describe(model)["dtype_reason"] == echoembed.describe(tiny())["dtype_reason"]


def test_a_dtype_that_no_model_runs_in_is_refused_and_nothing_changes():
    model = tiny()
    with pytest.raises(ModelError, match=r"Got dtype = torch\.float64. Allowed: float32, bfloat16, float16"):
        model.double()
    assert_same(model, tiny())


def test_a_model_in_int8_stays_in_int8():
    model = tiny(dtype="int8")
    with pytest.raises(ModelError, match="int8"):
        model.half()
    assert_same(model, tiny(dtype="int8"))
