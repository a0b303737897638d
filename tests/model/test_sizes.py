"""Sizes in a configuration are held against the weights beside it before anything is built."""

from __future__ import annotations

import json
import resource
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import echoembed
import tiny_models
from echoembed.errors import ModelError
from echoembed.model import backbone, sizes

HUGE = 10**9
TEXTS = ["the cat sat on a mat", "rain"]
CONTRADICTIONS = [
    ("llama", {"num_hidden_layers": HUGE}, "num_hidden_layers = 1000000000; in the weights, 30 is the most"),
    ("llama", {"num_hidden_layers": -1}, "27 weights that its config.json has no place for"),
    ("llama", {"num_hidden_layers": 0}, "27 weights that its config.json has no place for"),
    ("llama", {"num_hidden_layers": "3"}, "expected int, got str"),
    ("llama", {"hidden_size": HUGE}, r"shape \(596, 1000000000\); in the weights, it is of shape \(596, 32\)"),
    ("llama", {"hidden_size": 0}, r"shape \(596, 0\)"),
    ("llama", {"hidden_size": -32}, "negative dimension"),
    ("llama", {"vocab_size": HUGE}, r"embed_tokens.weight would be of shape \(1000000000, 32\)"),
    ("llama", {"intermediate_size": HUGE}, r"mlp.gate_proj.weight would be of shape \(1000000000, 32\)"),
    ("llama", {"num_attention_heads": HUGE}, "not a multiple"),
    ("llama", {"num_key_value_heads": HUGE}, "num_key_value_heads = 1000000000"),
    ("llama", {"num_key_value_heads": 0}, "division or modulo by zero"),
    ("llama", {"head_dim": HUGE}, r"self_attn.q_proj.weight would be of shape \(4000000000, 32\)"),
    ("gpt2", {"n_layer": HUGE}, "n_layer = 1000000000"),
    ("gpt2", {"n_positions": HUGE}, r"wpe.weight would be of shape \(1000000000, 32\)"),
    ("gpt2", {"n_inner": HUGE}, r"mlp.c_fc.weight would be of shape"),
    ("gptj", {"n_positions": HUGE}, "the model would have [0-9,]+ numbers; in the weights, there are"),
    ("mixtral", {"num_local_experts": HUGE}, "num_local_experts = 1000000000"),
    ("bloom", {"n_head": HUGE}, "n_head = 1000000000"),
    ("gemma3", {"layer_types": ["full_attention"] * 10_000}, "layer_types"),
    ("smollm3", {"no_rope_layers": [1] * 10_000}, "no_rope_layers = 10000"),
]


@pytest.mark.parametrize(("family", "change", "reason"), CONTRADICTIONS, ids=[str(c[1])[:40] for c in CONTRADICTIONS])
def test_a_size_that_the_weights_contradict_is_refused_before_anything_is_built(family, change, reason, tmp_path):
    folder = tiny_models.copy(tiny_models.folder(family), tmp_path / "model", **change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=reason) as caught:
        echoembed.load(folder, device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_experts_of_another_model_are_refused(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("mixtral"), tmp_path / "model", num_local_experts=5)
    with pytest.raises(ModelError, match=r"experts|lacks|cannot be loaded|shape"):
        echoembed.load(folder, device="cpu")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_whole_model_passes(family):
    folder = tiny_models.folder(family)
    attention = "bidirectional" if family in ("bert", "roberta", "xlm-roberta") else "causal"
    sizes.check_sizes(folder, family, backbone.read_config(folder, family, attention))


@pytest.mark.parametrize("quantization", [None, {"quant_method": "novelty"}])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights_unless_the_configuration_says_what_they_stand_for(dtype, quantization, tmp_path):
    """transformers would take them as they are: 90 for what a scale of 1/700 makes 0.13."""
    changes = {} if quantization is None else {"quantization_config": quantization}
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "model", **changes)
    weights = load_file(folder / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    weights[key] = (weights[key] * 100).to(dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has whole numbers \([IUB]\w+\) in layers.1.mlp.down_proj.weight, and its"):
        echoembed.load(folder, device="cpu")


def test_shards_that_the_index_does_not_name_count_for_nothing(tmp_path):
    """Such as those of a download that was cut otherwise."""
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "model")
    plain = echoembed.load(folder, device="cpu").encode(TEXTS)
    weights = load_file(folder / "model.safetensors")
    save_file({key: weight[:1].clone() for key, weight in weights.items()}, folder / "model-00003-of-00003.safetensors")
    assert (echoembed.load(folder, device="cpu").encode(TEXTS) == plain).all()


PADDING = [-1, 10**6, None]


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "qwen3"])
@pytest.mark.parametrize("pad", PADDING)
def test_a_padding_id_that_is_no_token_stands_for_none(family, pad, tmp_path):
    """Older configurations say -1."""
    plain = echoembed.load(tiny_models.folder(family), device="cpu")
    path = tiny_models.copy(tiny_models.folder(family), tmp_path / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": pad}))
    model = echoembed.load(path.parent, device="cpu")
    texts = ["the cat sat", "rain fell over the old town and the river carried its boats"]
    assert (model.encode(texts) == plain.encode(texts)).all()


def test_several_end_tokens_are_no_fault(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "model", eos_token_id=[2, 5])
    assert echoembed.load(folder, device="cpu").encode("the cat").any()


# Weights that make no vectors

SPOILT: dict[str, Any] = {
    "all zero": lambda key, weight: torch.zeros_like(weight),
    "embeddings zero": lambda key, weight: torch.zeros_like(weight) if "embed_tokens" in key else weight,
    "last norm zero": lambda key, weight: torch.zeros_like(weight) if key == "model.norm.weight" else weight,
    "embeddings alike": lambda key, weight: torch.ones_like(weight) if "embed_tokens" in key else weight,
    "embeddings x 1e30": lambda key, weight: weight * 1e30 if "embed_tokens" in key else weight,
    "last norm x 1e25": lambda key, weight: weight * 1e25 if key == "model.norm.weight" else weight,
    "last norm x 1e-25": lambda key, weight: weight * 1e-25 if key == "model.norm.weight" else weight,
    "NaN": lambda key, weight: torch.full_like(weight, torch.nan) if key == "model.norm.weight" else weight,
    "infinite": lambda key, weight: torch.full_like(weight, torch.inf) if "layers.1.mlp.up" in key else weight,
}


@pytest.mark.parametrize(
    "options", [{}, {"engine": "padded"}, {"deterministic": True}, {"dtype": "bfloat16"}, {"layer": 2}]
)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("spoilt", SPOILT)
def test_no_zero_vector_comes_of_spoilt_weights(spoilt, normalize, options, tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    changed = {key: SPOILT[spoilt](key, weight).contiguous() for key, weight in weights.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    if options.get("layer") == 2 and ("norm" in spoilt or spoilt == "NaN"):
        vectors = echoembed.load(folder, device="cpu", normalize=normalize, **options).encode(TEXTS)
        assert (abs(vectors).max(axis=1) > 1e-3).all()  # where the last norm is left out, it is spoilt in vain
        return
    with pytest.raises(ModelError) as caught:
        echoembed.load(folder, device="cpu", normalize=normalize, **options).encode(TEXTS)
    assert len(str(caught.value).splitlines()) == 1
