"""What version 0.1 has written is read as it was: a saved model, an adapter, vectors, fingerprints.

The files in ``fixtures/v0.1`` were written by that version: a Llama of 13,000 random weights (``base``), the same saved
with layer 1 and a budget of 40 (``saved``), LoRA on it (``adapter``), and what ``embed`` made of three texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from sentence_transformers import SentenceTransformer

import echoembed
from echoembed import Recipe, recipes

FOLDER = Path(__file__).parent / "fixtures" / "v0.1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
TEXTS = (FOLDER / "texts.txt").read_text().splitlines()
FINGERPRINTS = {
    "echo": "c6566713f6e9d71e",
    "echo-compute-matched": "ed115617561fb2bd",
    "echo-last": "2f5ab70cb2be3609",
    "classical": "cb2764c4bd94a9c8",
    "classical-last": "12dcf079808f09d4",
    "classical-bidirectional": "dc0b7ef8b528f954",
    "prompteol": "efb26be696eec880",
    "bert-large": "8ecbe8d9438fd002",
    "roberta-large": "8ecbe8d9438fd002",
    "llm2vec-unsupervised": "436f8be9f6157ee2",
    "echo-finetuned-last": "0cddda0d0cb3406a",
    "echo-finetuned-mean": "45422f63c3fff863",
    "classical-finetuned": "50522df2c7338ee4",
    "bidirectional-finetuned": "47aa16d08a8ef0bf",
    "llm2vec-supervised": "77fb38217df9f289",
    "gritlm-7b": "b5d1de954ec0c64f",
    "e5-mistral-7b": "86260428f32eaf25",
    "sgpt-5.8b": "515bfa5a12a6fc9c",
    "udever-bloom-7b": "6bdc83fed9086188",
    "bge-large-en-v1.5": "9a79e648cb22690a",
    "uae-large-v1": "9a79e648cb22690a",
    "multilingual-e5-large": "76e1491f4ccba6f3",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_recipe_of_the_first_release_keeps_its_fingerprint(name):
    assert recipes[name].fingerprint() == FINGERPRINTS[name]
    assert Recipe(**recipes[name].as_dict()).fingerprint() == FINGERPRINTS[name]


def test_a_field_that_is_new_changes_no_fingerprint_until_it_is_used(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Grown(Recipe):
        novelty: str = "none"

    monkeypatch.setattr("echoembed.recipe._DEFAULTS", Grown(name="default", query_template="{text:pool}").as_dict())
    for row in recipes.values():
        same = Grown(**row.as_dict())
        assert "novelty" in same.as_dict()
        assert same.fingerprint() == row.fingerprint()
        assert Grown(**row.as_dict(), novelty="some").fingerprint() != row.fingerprint()


def test_every_field_that_decides_a_vector_changes_the_fingerprint():
    """The guard of the test above: a default that is left out is left out for new fields alone."""
    plain = Recipe(name="x", query_template="{text:pool}")
    changes = {
        "query_template": "a {text:pool}",
        "document_template": "a {text:pool}",
        "pooling": "last",
        "attention": "bidirectional",
        "layer": 2,
        "budget": None,
        "instruction": "find",
        "markers": {"mark": "x"},
        "preparation": "prompteol",
    }
    notes = {"name", "checkpoint", "adapters", "trained", "source", "description"}
    assert {entry.name for entry in fields(Recipe)} - notes >= set(changes)
    for field, value in changes.items():
        assert Recipe(**{**plain.as_dict(), field: value}).fingerprint() != plain.fingerprint()


def close(found: np.ndarray, expected: object) -> bool:
    return np.allclose(found, np.array(expected), atol=2e-6)


def test_a_saved_model_is_read_by_both_loaders():
    model = echoembed.load(FOLDER / "saved", device="cpu")
    assert close(model.encode(TEXTS), EXPECTED["saved"])
    assert model[0].recipe.budget == 40
    library = SentenceTransformer(str(FOLDER / "saved"), trust_remote_code=True, device="cpu")
    assert close(library.encode(TEXTS), EXPECTED["saved"])


def test_an_adapter_is_merged_as_it_was():
    model = echoembed.load(FOLDER / "base", adapter=FOLDER / "adapter", device="cpu")
    assert close(model.encode(TEXTS), EXPECTED["adapter"])
    assert close(model.encode(TEXTS), EXPECTED["adapter_unmerged"])
    assert not close(model.encode(TEXTS), EXPECTED["base"])


def test_stored_vectors_are_those_that_the_model_gives_today():
    model = echoembed.load(FOLDER / "base", device="cpu")
    vectors = model.encode(TEXTS)
    sidecar = json.loads((FOLDER / "vectors.npy.json").read_text())
    rows = [json.loads(line) for line in (FOLDER / "vectors.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(FOLDER / "vectors.parquet").to_pylist()
    assert close(vectors, np.load(FOLDER / "vectors.npy"))
    for stored in (rows, table):
        assert close(vectors, [row["vector"] for row in stored])
        assert [row["text"] for row in stored] == TEXTS
    assert sidecar["revision"] == model[0].revision
