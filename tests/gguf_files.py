"""GGUF files of tiny models, written as llama.cpp's converter writes them, and files with something wrong in them.

    write(path, "llama")                       the tiny model of that family
    write(path, "llama", settings={...})       with other settings; None takes one out
    write(path, "llama", tensors={...})        with other tensors; None takes one out

Names of tensors come from the gguf package's own table, so that the one in ``src`` is compared with another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import tiny_models

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3"}
FAMILIES |= {"phi3": "phi3", "gpt2": "gpt2"}
"""Family of tiny models → what llama.cpp calls its architecture."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def write(
    path: Path,
    family: str,
    *,
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    kind: gguf.GGMLQuantizationType | None = None,
    **model: Any,
) -> Path:
    """Write a tiny model's file.

    Args:
        path: Where to.
        family: Of ``FAMILIES``.
        settings: Keys with other values; None takes one out.
        tensors: Tensors with other values; None takes one out.
        kind: Quantise the matrices so; None for float32.
        model: Changes to the model's configuration.
    """
    folder = tiny_models.folder(family, **model)
    architecture = FAMILIES[family]
    config = json.loads((folder / "config.json").read_text())
    keys = {**_sizes(architecture, config), **_vocabulary(folder), **(settings or {})}
    weights = {**_tensors(architecture, folder, config), **(tensors or {})}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        if value is not None:
            _add(writer, key, value)
    for name, value in weights.items():
        if value is None:
            continue
        data = np.ascontiguousarray(value, np.float32)
        if kind is not None and data.ndim == 2 and data.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    """One setting, in the type that the value has."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, str(value))


def _sizes(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    if architecture == "gpt2":
        sizes = {
            "block_count": config["n_layer"],
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "feed_forward_length": 4 * config["n_embd"],
            "attention.head_count": config["n_head"],
            "attention.layer_norm_epsilon": config["layer_norm_epsilon"],
        }
        return {f"gpt2.{key}": value for key, value in sizes.items()}
    rope = config["rope_parameters"]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    sizes = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
    }
    if architecture in {"llama", "phi3"}:
        sizes |= {"rope.dimension_count": head, "vocab_size": config["vocab_size"]}
    if architecture in {"gemma3", "phi3"}:
        sizes["attention.sliding_window"] = config.get("sliding_window") or 0
    if architecture == "phi3":
        sizes["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
        del sizes["vocab_size"]
    if architecture == "gemma3":
        sizes["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    return {f"{architecture}.{key}": value for key, value in sizes.items()}


def _tensors(architecture: str, folder: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = gguf.get_tensor_name_map(arch, layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    written: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, name
        array = weight.numpy()
        if architecture == "llama" and ".q_proj." in name:
            array = _interleaved(array, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in name:
            array = _interleaved(array, config["num_key_value_heads"])
        if architecture == "gemma3" and name.endswith("norm.weight"):
            array = array + 1
        if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        written[target] = array
    return written


def _interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head's first half and of its second, in turns."""
    by_head = array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:])
    return np.stack([by_head[:, 0], by_head[:, 1]], axis=2).reshape(array.shape)


@cache
def _vocabulary(folder: Path) -> dict[str, Any]:
    """The tokenizer's settings, as the converter reads them off a folder's tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)  # another class may split by rules of its own
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    special = {token["content"] for token in described["added_tokens"]}
    types = [CONTROL if token in special else NORMAL for token in tokens]
    pre = described["pre_tokenizer"] or {}
    byte_level = pre.get("type") == "ByteLevel"
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in described["model"]["merges"]]
    settings: dict[str, Any] = {"tokenizer.ggml.tokens": tokens}
    if byte_level:
        settings |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
        settings["tokenizer.ggml.merges"] = [" ".join(merge) for merge in merges]
        settings["tokenizer.ggml.add_bos_token"] = False
    else:
        rank = {left + right: place for place, (left, right) in reversed(list(enumerate(merges)))}
        types = [BYTE if token.startswith("<0x") else kind for token, kind in zip(tokens, types, strict=True)]
        types = [UNKNOWN if token == "<unk>" else kind for token, kind in zip(tokens, types, strict=True)]
        prefix = any(step["type"] == "Prepend" for step in described["normalizer"].get("normalizers", []))
        settings |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        settings["tokenizer.ggml.scores"] = [-float(rank.get(token, 10**6)) for token in tokens]
        settings |= {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.add_bos_token": True}
    settings["tokenizer.ggml.token_type"] = types
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for key, role in roles.items():
        if (id_ := getattr(tokenizer, f"{role}_token_id")) is not None:
            settings[f"tokenizer.ggml.{key}_token_id"] = id_
    return settings
