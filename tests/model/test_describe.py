"""The fingerprint names what vectors are comparable with, and the description what is in force."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import echoembed
import tiny_models
from echoembed import Recipe
from echoembed.errors import ModelError
from loaded import tiny


def test_the_fingerprint_tells_apart_what_gives_other_vectors():
    variants = {
        "plain": tiny(),
        "recipe": tiny("classical"),
        "pooling": tiny("echo-last"),
        "weights": echoembed.load(tiny_models.folder("llama", seed=1), recipe="echo", device="cpu"),
        "budget": tiny(budget=100),
        "layer": tiny(layer=2),
        "raw": tiny(normalize=False),
    }
    shorter = tiny()
    shorter.max_seq_length = 64
    variants["length"] = shorter
    found = {name: echoembed.fingerprint(model) for name, model in variants.items()}
    assert len(set(found.values())) == len(found), found
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in found.values())
    assert echoembed.fingerprint(tiny()) == found["plain"]


def test_what_moves_the_last_digits_only_is_named_beside_the_fingerprint():
    plain = tiny()
    others = {
        "bfloat16, packed": tiny(dtype="bfloat16"),
        "int8, packed": tiny(dtype="int8"),
        "float32, padded": tiny(engine="padded"),
        "float32, packed, deterministic": tiny(deterministic=True),
    }
    assert echoembed.describe(plain)["numerics"] == "float32, packed"
    for numerics, model in others.items():
        assert echoembed.describe(model)["numerics"] == numerics
        assert echoembed.fingerprint(model) == echoembed.fingerprint(plain)


def test_the_name_of_a_recipe_is_not_in_the_fingerprint():
    renamed = Recipe(**{**echoembed.recipes["echo"].as_dict(), "name": "mine", "description": "Mine."})
    assert echoembed.fingerprint(tiny(renamed)) == echoembed.fingerprint(tiny())


def test_the_fingerprint_is_the_same_in_another_process(model, saved):
    code = (
        "import echoembed\n"
        f"for name in ('tiny', {str(saved)!r}):\n"
        "    model = echoembed.load(name, device='cpu')\n"
        "    print(echoembed.fingerprint(model), float(model.encode('a cat')[0]))\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    here = [model, echoembed.load(saved, device="cpu")]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == [echoembed.fingerprint(each) for each in here]
    assert np.allclose([float(line[1]) for line in lines], [each.encode("a cat")[0] for each in here], atol=1e-6)


def test_training_changes_the_fingerprint_of_what_is_saved(tmp_path):
    model = tiny()
    one = echoembed.save(model, tmp_path / "before")
    with torch.no_grad():
        model[0].model.layers[0].mlp.down_proj.weight[0, 0] += 1
    other = echoembed.save(model, tmp_path / "after")
    first, second = (echoembed.load(folder, device="cpu") for folder in (one, other))
    assert echoembed.fingerprint(first) != echoembed.fingerprint(second)


def test_describe_says_what_is_in_force(model):
    facts = echoembed.describe(model)
    assert set(facts) >= {
        "model",
        "revision",
        "architecture",
        "parameters",
        "dtype",
        "device",
        "recipe",
        "source",
        "attention",
        "layers",
        "pooling",
        "dimension",
        "normalized",
        "context",
        "budget",
        "query_template",
        "query_prompt",
        "query_budget_in_force",
        "document_template",
        "document_prompt",
        "document_budget_in_force",
        "recipe_fingerprint",
        "fingerprint",
    }
    json.dumps(facts)
    assert facts["model"] == "tiny"
    assert facts["recipe"] == "echo"
    assert re.fullmatch("[0-9a-f]{40}", facts["revision"])
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["query_prompt"] == "<s>Rewrite the following paragraph: TEXT The rewritten paragraph: TEXT"
    assert facts["attention"] == "causal (checked)"
    assert facts["layers"] == 6
    assert facts["dimension"] == 256
    assert facts["normalized"] is True
    frame = len(echoembed.render(model, "a").ids) - 2 * len(model[0].pieces.encode([" a"])[0].ids)
    assert facts["query_budget_in_force"] == min(512, (1024 - frame) // 2)


def test_a_budget_that_refuses_the_shown_text_does_not_refuse_the_description():
    facts = echoembed.describe(tiny(budget=1, overflow="error"))
    assert facts["budget"] == 1
    assert "TEXT" not in facts["query_prompt"]  # it is cut, as any text would be


def test_describe_follows_overrides():
    facts = echoembed.describe(tiny("classical-bidirectional", layer=1, budget=7, normalize=False, dtype="float16"))
    found = {key: facts[key] for key in ("layers", "budget", "normalized", "dtype", "attention", "pooling")}
    assert found == {
        "layers": 1,
        "budget": 7,
        "normalized": False,
        "dtype": "float16",
        "attention": "bidirectional (checked)",
        "pooling": "mean",
    }


@pytest.mark.parametrize("call", [echoembed.fingerprint, echoembed.describe, lambda m: echoembed.render(m, "a")])
def test_a_model_from_elsewhere_is_refused(call):
    with pytest.raises(ModelError, match=r"a model from echoembed\.load"):
        call(SentenceTransformer(modules=[Normalize()], device="cpu"))
