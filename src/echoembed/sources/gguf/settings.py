"""Converts the settings of a GGUF file to transformers' config.json; refuses a file with a setting that is not used.

Keys of the architecture and of the tokenizer decide what a model computes, so each of them must be known here. Keys
under ``general.`` describe the file; all others are notes by the programs that wrote the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from echoembed import errors
from echoembed.sources.gguf.architectures import ARCHITECTURES, HEAD, Architecture
from echoembed.sources.gguf.file import GgufFile, Value

_Kind = TypeVar("_Kind", int, float, str, bool)
_OTHER_KINDS = ("adapter.", "clip.", "diffusion.")
_QUANTIZATION = 2
_GEMMA_27B = 62
_USUAL_THETA = 10000.0
# Settings that may only have values that change nothing: a file with another value is refused.
_AS_USUAL: dict[str, Callable[[Value], bool]] = {
    "attention.causal": lambda value: value is True,
    "attention.sliding_window": lambda value: value == 0,
    "expert_count": lambda value: value == 0,
    "expert_used_count": lambda value: value == 0,
    "rope.scaling.type": lambda value: value == "none",
    "rope.scaling.factor": lambda value: value in (0.0, 1.0),
    "rope.scale_linear": lambda value: value in (0.0, 1.0),
    "tensor_data_layout": lambda value: value == "Meta AI original pth",
    # These change nothing without scaling, or concern only the use of the states afterwards:
    "rope.scaling.finetuned": lambda value: True,
    "rope.scaling.original_context_length": lambda value: True,
    "pooling_type": lambda value: True,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The settings that decide the tensors: the architecture, config.json, and the size for each letter of a shape."""

    architecture: Architecture
    config: dict[str, object]
    sides: dict[str, int]
    layers: int


class _Settings:
    """The settings with a prefix. ``take`` removes a setting that is used; ``close`` refuses those that are left."""

    def __init__(self, file: GgufFile, prefix: str) -> None:
        self._where, self._prefix = str(file.path), prefix
        self.left = {key.removeprefix(prefix): value for key, value in file.settings.items() if key.startswith(prefix)}

    def take(self, key: str, kind: type[_Kind], usual: _Kind | None = None) -> _Kind:
        """Return a value of this kind; a list of equal values, one for each layer, counts as a single value."""
        value = self.left.pop(key, usual)
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            value = value[0]
        if value is None:
            raise errors.gguf_broken(self._where, f"it has no {self._prefix}{key}")
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or int(value) < 0)):
            raise errors.gguf_setting(self._where, f"{self._prefix}{key}", value)
        return value

    def require(self, key: str, allowed: Callable[[Value], bool]) -> None:
        """Refuse the file if a key has a value that is not allowed."""
        if key in self.left and not allowed(value := self.left.pop(key)):
            raise errors.gguf_setting(self._where, f"{self._prefix}{key}", value)

    def close(self) -> None:
        """Refuse the file if a setting was not used."""
        for key, value in self.left.items():
            raise errors.gguf_setting(self._where, f"{self._prefix}{key}", value)


def shape_of(file: GgufFile) -> Shape:
    """Derive the model's shape from a file's settings.

    Raises:
        ModelError: If the architecture is not one of ours, or a setting is missing or would not be used.
    """
    where = str(file.path)
    name = file.settings.get("general.architecture")
    _check_kind(file)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise errors.gguf_architecture(where, str(name), ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    settings = _Settings(file, f"{name}.")

    # 1. Sizes, under transformers' names.
    config: dict[str, object] = dict(architecture.fixed)
    for key, ours in architecture.settings.items():
        if key == "attention.head_count_kv":
            config[ours] = settings.take(key, int, _integer(config["num_attention_heads"]))
        elif key == "attention.sliding_window":
            config[ours] = settings.take(key, int, 0) or None
        elif key == "final_logit_softcapping":
            config[ours] = _exact(settings.take(key, float, 0.0)) or None
        elif key.endswith("epsilon"):
            config[ours] = _exact(settings.take(key, float))
        else:
            config[ours] = settings.take(key, int)
            if not config[ours]:
                raise errors.gguf_setting(where, f"{name}.{key}", 0)
    tokens = file.settings.get("tokenizer.ggml.tokens")
    vocabulary = len(tokens) if isinstance(tokens, list) else 0
    settings.require("vocab_size", lambda value: value == vocabulary)

    # 2. Heads, positions and kinds of attention.
    width = _integer(config[architecture.settings["embedding_length"]])
    heads = _integer(config[architecture.settings["attention.head_count"]])
    groups = _integer(config.get("num_key_value_heads", heads))
    if not heads or not groups or heads % groups:
        raise errors.gguf_broken(where, f"it has {heads} query heads over {groups} key-value heads")
    head = settings.take("attention.key_length", int, width // heads)
    settings.require("attention.value_length", lambda value: value == head)
    settings.require("attention.head_count_kv", lambda value: value == heads)
    if head * heads != width and name in {"phi3", "gpt2"}:
        raise errors.gguf_broken(where, f"its {heads} heads of {head} do not make its width {width}")
    layers = _integer(config[architecture.settings["block_count"]])
    if architecture.rotary:
        settings.require("rope.dimension_count", lambda value: value == head)
        config |= {"head_dim": head, "rope_parameters": _rope(settings)}
    if name == "gemma3":
        config |= _gemma3(config, settings, head=head, width=width, heads=heads, layers=layers)

    # 3. All other settings must have values that change nothing, or the file is refused.
    for key, allowed in _AS_USUAL.items():
        settings.require(key, allowed)
    settings.close()
    inner = _integer(config[architecture.settings["feed_forward_length"]])
    query, key_value = heads * head, groups * head
    sides = {"V": vocabulary, "E": width, "F": inner, "G": 2 * inner, "D": head, "H": query, "K": key_value}
    sides |= {"Q": query + 2 * key_value, "C": _integer(config[architecture.settings["context_length"]])}
    config |= {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        "vocab_size": vocabulary,
        "tie_word_embeddings": HEAD not in file.tensors,
        "dtype": "float32",
    }
    return Shape(architecture=architecture, config=config, sides=sides, layers=layers)


def _check_kind(file: GgufFile) -> None:
    """Refuse a file that is not one complete language model."""
    where, settings = str(file.path), file.settings
    if settings.get("general.type", "model") != "model":
        raise errors.gguf_setting(where, "general.type", settings["general.type"])
    if settings.get("split.count", 0) not in (0, 1):
        raise errors.gguf_split(where, settings["split.count"])
    if settings.get("general.quantization_version", _QUANTIZATION) != _QUANTIZATION:
        raise errors.gguf_setting(where, "general.quantization_version", settings["general.quantization_version"])
    if other := next((key for key in settings if key.startswith(_OTHER_KINDS)), None):
        raise errors.gguf_setting(where, other, settings[other])


def _rope(settings: _Settings) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": _exact(settings.take("rope.freq_base", float, _USUAL_THETA))}


def _gemma3(
    config: Mapping[str, object], settings: _Settings, *, head: int, width: int, heads: int, layers: int
) -> dict[str, object]:
    """Return Gemma 3's own settings: two kinds of layers, each with its rotary base, and attention's scale.

    Files do not contain the scale; it follows from the model's size.
    """
    window = config["sliding_window"]
    pattern = settings.left.pop("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        sliding = [bool(layer) for layer in pattern]
    else:
        every = pattern if isinstance(pattern, int) and pattern > 0 else 1
        sliding = [(layer + 1) % every != 0 for layer in range(layers)]
    if len(sliding) != layers:
        settings.left["attention.sliding_window_pattern"] = pattern  # a setting that is left is refused
    local = _exact(settings.take("rope.freq_base_swa", float, _USUAL_THETA))
    return {
        "layer_types": ["sliding_attention" if window and slides else "full_attention" for slides in sliding],
        "sliding_window": window or config["max_position_embeddings"],
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        # The largest model divides attention by the root of width / heads; the others, by the root of a head's width.
        "query_pre_attn_scalar": width // heads if layers == _GEMMA_27B else head,
    }


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _exact(value: float) -> float:
    """Return the shortest decimal of a 32-bit number, as files hold them: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
