"""The real weights: what holds for models of a few thousand random numbers holds for a language model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.stats import spearmanr

import echoembed
from echoembed.model.transformer import transformer_of
from echoembed.sources.adapters import Base
from echoembed.sources.resolve import resolve

REVISION = "ecbcb067308f985208f2c903b9f5b123d1deb198"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TENSORS = "789875cc138f15f22b0fcfa665c5cf686451455c6dcd20f91998cef593581bac"
RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "llama_cpp.json").read_text(encoding="utf-8"))
TEXTS = [
    "The police caught the thief.",
    "  7 blanks,\n\n 3 lines and 12,345 digits",
    "A baker makes bread. " * 4,
    "naïve café, 中文, 😀",
]


@pytest.fixture(scope="session")
def model():
    """The default model, converted at the first run on this machine."""
    return echoembed.load(device="cpu")


def plain_states(transformer, ids: list[int]) -> torch.Tensor:
    """States after the last norm, from the library's forward alone: one text, no padding, no mask."""
    with torch.no_grad():
        return transformer.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def test_the_default_model_is_the_same_everywhere(model):
    """Its revision, and every weight, as constants: under all versions, on all machines."""
    source = resolve()
    assert (source.name, source.revision, source.origin) == ("smollm2-135m", REVISION, "package")
    assert (transformer_of(model).name, transformer_of(model).revision) == ("smollm2-135m", REVISION)
    total = hashlib.sha256()
    with safe_open(source.folder / "model.safetensors", framework="np") as tensors:
        for name in sorted(tensors.keys()):
            total.update(f"{name}\n".encode() + tensors.get_tensor(name).tobytes())
    assert total.hexdigest() == TENSORS


def test_a_record_of_the_base_names_it_by_name(model):
    base = transformer_of(model).base
    assert base == Base(model="smollm2-135m", origin="package", revision=REVISION)
    assert resolve(base.name).revision == base.revision


def test_states_are_those_of_llama_cpp(model):
    transformer = transformer_of(model)
    for recorded in RECORDED["states"]:
        mean = plain_states(transformer, RECORDED["smollm2"][recorded["text"]]).double().mean(dim=0)
        np.testing.assert_allclose(mean[:12], recorded["first"], atol=5e-3 * recorded["length"])
        assert float(mean.norm()) == pytest.approx(recorded["length"], rel=5e-3)


@pytest.mark.parametrize("text", TEXTS[:2])
def test_the_span_is_the_second_copy_whole(model, text):
    read = echoembed.render(model, text)
    start, stop = read.span
    tokenizer = model.tokenizer
    assert tokenizer.decode(list(read.ids[start:stop])) == f" {text}"
    assert read.ids[start:stop] == read.ids[(first := find(read.ids, read.ids[start:stop])) : first + stop - start]
    assert first < start
    assert tokenizer.convert_ids_to_tokens(read.ids[0]) == "<|im_start|>"
    assert read.text == f"<|im_start|>Rewrite the following paragraph: {text} The rewritten paragraph: {text}"


def find(ids: tuple[int, ...], part: tuple[int, ...]) -> int:
    return next(at for at in range(len(ids)) if ids[at : at + len(part)] == part)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_the_engines_vectors_are_those_of_the_plain_forward(model, dtype, most):
    loaded = model if dtype == "float32" else echoembed.load(dtype=dtype, device="cpu")
    transformer = transformer_of(loaded)
    vectors = loaded.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        read = echoembed.render(loaded, text)
        mean = plain_states(transformer, list(read.ids)).float()[slice(*read.span)].mean(dim=0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=most)


def test_eight_bits_are_near(model):
    small = echoembed.load(dtype="int8", device="cpu")
    alike = (small.encode(TEXTS) * model.encode(TEXTS)).sum(axis=1)
    assert alike.min() > 0.98


def test_a_text_has_the_same_bits_in_any_company(model):
    steady = echoembed.load(deterministic=True, device="cpu")
    alone = np.stack([steady.encode(text) for text in TEXTS])
    assert np.array_equal(steady.encode(TEXTS[::-1]), alone[::-1])
    np.testing.assert_allclose(alone, model.encode(TEXTS), atol=1e-5)


def test_saved_and_loaded_it_gives_the_same_vectors(model, tmp_path):
    again = echoembed.load(echoembed.save(model, tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_cut_at_a_layer_it_gives_that_layers_states(model):
    cut = echoembed.load(layer=3, device="cpu")
    read = echoembed.render(cut, TEXTS[0])
    with torch.no_grad():
        ids = torch.tensor([list(read.ids)])
        states = transformer_of(model).model(ids, output_hidden_states=True, use_cache=False).hidden_states[3]
    mean = states[0][slice(*read.span)].mean(dim=0)
    np.testing.assert_allclose(cut.encode(TEXTS[0]), mean / mean.norm(), atol=1e-5)


def test_echo_tells_apart_what_classical_takes_for_alike(model):
    """Two texts that begin alike and end in contrary ways, against two that say the same in other words."""
    texts = ["I like cats, but I hate dogs.", "I like cats, but I love dogs.", "I am fond of cats, though not of dogs."]
    classical = echoembed.load(recipe="classical", device="cpu")
    gaps = []
    for each in (model, classical):
        same, contrary = (float(each.encode(texts[0]) @ each.encode(texts[other])) for other in (2, 1))
        gaps.append(same - contrary)
    assert gaps[0] > gaps[1]


def test_a_description_names_the_file_and_the_folder(model):
    facts = echoembed.describe(model)
    assert facts["file_sha256"] == hashlib.sha256(Path(facts["file"]).read_bytes()).hexdigest() == SHA256
    assert facts["file"].endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert Path(facts["converted_into"]) == resolve().folder


def test_the_example_pairs_score_as_stated(model):
    """Echo ranks every third pair of examples/data as it did where the README's scores were made: 66.2."""
    lines = (Path(__file__).parents[2] / "examples/data/sts/everyday/test.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.splitlines()][::3]
    left, right = (model.encode([row[key] for row in rows]) for key in ("sentence1", "sentence2"))
    score = 100 * spearmanr((left * right).sum(axis=1), [row["score"] for row in rows]).statistic
    assert score == pytest.approx(66.2, abs=1.0)
