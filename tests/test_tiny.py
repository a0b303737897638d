"""The bundled model is the one that its card describes, and a plain language model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import echoembed
from echoembed.model.transformer import transformer_of

TINY = Path(echoembed.__file__).with_name("tiny")


def test_the_card_names_these_weights():
    """Whoever replaces them writes a new card."""
    digest = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (TINY / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_plain_transformers_generates_text_that_repeats_what_it_is_shown():
    """Echo lives on copying: the likeliest continuation of a repeated sentence is the rest of it."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    sentence = " The old harbour town sells fish and salt every morning before the boats leave."
    ids = tokenizer(f"<s>{sentence} Again:{sentence[:21]}", return_tensors="pt", add_special_tokens=False).input_ids
    rest = tokenizer(sentence, add_special_tokens=False).input_ids[-8:]
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :].tolist()
    windows = [out[at : at + len(rest)] for at in range(len(out))]
    assert rest in windows, tokenizer.decode(out)


def test_the_adapter_is_small_fits_these_weights_and_leaves_them_as_they_are():
    pytest.importorskip("peft")
    folder = TINY / "adapters" / "tiny-echo"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    tuned, plain = echoembed.load(adapter="tiny-echo"), echoembed.load("tiny")
    assert transformer_of(tuned).recipe.budget == transformer_of(plain).recipe.budget
    assert echoembed.fingerprint(tuned) != echoembed.fingerprint(plain)
    texts = ["A man is playing a guitar.", "Someone plays the guitar.", "Nobody is playing a guitar in the snow."]
    assert abs(tuned.encode(texts) - plain.encode(texts)).max() > 0.01
