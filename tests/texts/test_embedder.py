"""A model and how it reads the texts of a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import echoembed
import tiny_models
from echoembed.errors import TextError
from echoembed.texts import Embedder, Item

TEXTS = ["the cat sat on a mat", "rain fell over the old town", "boats"]
EMPTY_TO_BERT = "\u200b"


def items(texts: list[str]) -> list[Item]:
    return [Item(str(number), text, f"line {number + 1} of x.txt") for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def model():
    return echoembed.load(tiny_models.folder("llama"), recipe="echo-finetuned-last", device="cpu")


@pytest.mark.filterwarnings("ignore:The recipe")
@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("instruction", [None, "Find the town"])
def test_vectors_are_those_of_the_library_under_kind_and_instruction(model, kind, instruction):
    if kind == "document" and instruction:
        pytest.skip("the document template has no place for an instruction")
    embedder = Embedder(model=model, kind=kind, instruction=instruction, batch_size=2)
    vectors_ND = embedder.encode(TEXTS)
    assert vectors_ND.dtype == np.float32
    expected_ND = [model.encode([text], task=kind, prompt=instruction)[0] for text in TEXTS]
    np.testing.assert_allclose(vectors_ND, expected_ND, atol=1e-5)


def test_the_stamp_says_what_was_read_and_how(model):
    stamp = Embedder(model=model, kind="query", instruction="Find the town").stamp()
    assert stamp.fingerprint == echoembed.fingerprint(model)
    assert (stamp.kind, stamp.instruction) == ("query", "Find the town")
    assert Embedder(model=model, kind="document").stamp().instruction == ""


def test_an_embedder_does_not_change(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        Embedder(model=model).kind = "document"


def test_texts_that_only_the_tokenizer_finds_empty_are_named_by_their_places():
    embedder = Embedder(model=echoembed.load(tiny_models.folder("bert"), recipe="bert-large", device="cpu"))
    with pytest.raises(TextError):
        embedder.encode([TEXTS[0], EMPTY_TO_BERT])
    fine, empty = embedder.faults(items([TEXTS[0], EMPTY_TO_BERT]))
    assert fine is None
    assert str(empty).startswith("line 2 of x.txt: ")
