"""``dtype="auto"`` takes what the processor has, if its vectors are close enough; the identity stays the same."""

import gc

import numpy as np
import pytest
import torch

import echoembed
import tiny_models
from echoembed.engine import Processor
from echoembed.model import dtypes
from echoembed.model.dtypes import settle
from echoembed.model.transformer import transformer_of
from echoembed.recipe import find_recipe

AMX, BF16 = Processor(amx=True, bf16=True, vnni=True), Processor(amx=False, bf16=True, vnni=True)
VNNI, NEITHER = Processor(amx=False, bf16=False, vnni=True), Processor(amx=False, bf16=False, vnni=False)
TEXTS = ["A cat sleeps on the windowsill.", "How do I change my password?", "Prices fell again in June."]


def settled(processor, name="tiny", **settings):
    model = echoembed.load(name, device="cpu", **settings)
    settle(model, processor)
    return model


@pytest.mark.parametrize(
    ("processor", "dtype"), [(AMX, "bfloat16"), (BF16, "bfloat16"), (VNNI, "int8"), (NEITHER, "float32")]
)
def test_the_processor_decides_and_the_vectors_are_those_of_the_dtype_asked_for(processor, dtype):
    model, asked = settled(processor), echoembed.load("tiny", device="cpu", dtype=dtype)
    facts = echoembed.describe(model)
    assert facts["dtype"] == dtype, facts["dtype_reason"]
    assert str(processor) in facts["dtype_reason"]
    assert np.array_equal(model.encode(TEXTS), asked.encode(TEXTS))
    assert facts["numerics"] == echoembed.describe(asked)["numerics"]
    plain = echoembed.load("tiny", device="cpu")
    assert facts["fingerprint"] == echoembed.fingerprint(plain)
    assert facts["parameters"] == sum(weight.numel() for weight in plain[0].model.parameters())


def test_what_was_measured_is_told():
    reason = echoembed.describe(settled(VNNI))["dtype_reason"]
    before, _, after = reason.partition("int8 cosine to float32 ")
    assert "VNNI" in before
    assert 0.999 <= float(after.split()[0]) < 1
    assert "bound 0.999" in after


@pytest.mark.parametrize(("processor", "refused"), [(VNNI, ["int8"]), (BF16, ["bfloat16", "int8"])])
def test_what_is_not_close_enough_is_refused_and_undone(processor, refused):
    """Random weights of a large spread amplify rounding far beyond any bound."""
    folder = tiny_models.folder("llama", initializer_range=1.0, num_hidden_layers=6)
    model, plain = settled(processor, folder), echoembed.load(folder, device="cpu")
    facts = echoembed.describe(model)
    assert facts["dtype"] == "float32"
    for dtype in refused:
        assert f"{dtype} refused: cosine to float32 0." in facts["dtype_reason"]
    assert np.array_equal(model.encode(TEXTS), plain.encode(TEXTS))
    assert facts["fingerprint"] == echoembed.fingerprint(plain)
    assert {weight.dtype for weight in model[0].model.parameters()} == {torch.float32}


def test_what_is_undone_is_what_load_made_of_the_files():
    """Of a model that is cut at a layer, too."""
    folder = tiny_models.folder("llama", initializer_range=1.0, num_hidden_layers=6)
    model, plain = settled(AMX, folder, layer=4), echoembed.load(folder, device="cpu", layer=4)
    assert "int8 refused" in echoembed.describe(model)["dtype_reason"]
    assert [name for name, _ in model[0].named_modules()] == [name for name, _ in plain[0].named_modules()]
    assert np.array_equal(model.encode(TEXTS), plain.encode(TEXTS))
    assert echoembed.describe(model)["layers"] == 4


def test_what_is_undone_is_undone_for_every_prompt_of_a_recipe():
    folder = tiny_models.folder("llama", initializer_range=1.0, num_hidden_layers=6)
    recipe = find_recipe("metaeol")
    model, plain = settled(AMX, folder, recipe=recipe), echoembed.load(folder, device="cpu", recipe=recipe)
    assert "int8 refused" in echoembed.describe(model)["dtype_reason"]
    assert np.array_equal(model.encode(TEXTS), plain.encode(TEXTS))


def test_float32_and_what_it_became_are_never_in_memory_together(monkeypatch):
    held = []
    encode = dtypes.encode_prompts

    def watched(model, prompts):
        gc.collect()
        weights = [found for found in gc.get_objects() if isinstance(found, torch.Tensor) and len(found.shape) == 2]
        held.append({str(weight.dtype) for weight in weights if 1288 in weight.shape and weight.device.type == "cpu"})
        return encode(model, prompts)

    folder = tiny_models.folder("llama", initializer_range=1.0, num_hidden_layers=6, intermediate_size=1288)
    model = echoembed.load(folder, device="cpu")
    monkeypatch.setattr(dtypes, "encode_prompts", watched)
    settle(model, BF16)
    assert held == [{"torch.float32"}, {"torch.bfloat16"}, {"torch.int8"}]


def test_closeness_is_that_of_the_whole_pipeline():
    """A module that follows may make a small difference large: the vectors that callers get must be close."""
    model = echoembed.load("tiny", device="cpu", normalize=False)

    class Magnified(torch.nn.Module):
        """What all texts have in common is taken away, so that little but rounding is left."""

        def forward(self, features):
            vector = features["sentence_embedding"]
            return {**features, "sentence_embedding": vector - vector.bfloat16().float()}

    model.append(Magnified())
    settle(model, VNNI)
    assert "int8 refused" in echoembed.describe(model)["dtype_reason"]


def test_a_model_without_linear_layers_stays_in_float32():
    facts = echoembed.describe(settled(VNNI, tiny_models.folder("gpt2")))
    assert facts["dtype"] == "float32"
    assert "no layer is an nn.Linear" in facts["dtype_reason"]


def test_load_takes_auto_and_decides_for_this_processor():
    model = echoembed.load("tiny", device="cpu", dtype="auto")
    facts = echoembed.describe(model)
    assert facts["dtype"] in {"float32", *Processor.here().fast}
    assert facts["dtype_reason"].startswith(f"auto, on {Processor.here()}")
    assert echoembed.describe(echoembed.load("tiny", device="cpu"))["dtype_reason"] == "the default"
    assert transformer_of(model).int8 == (facts["dtype"] == "int8")


def test_rotary_frequencies_stay_in_float32():
    transformer = transformer_of(settled(AMX, tiny_models.folder("llama")))
    assert transformer.running.dtype == transformer.model.dtype
    assert transformer.model.rotary_emb.inv_freq.dtype == torch.float32
