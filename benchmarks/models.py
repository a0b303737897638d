"""The models to measure: SmolLM2-135M, the bundled model, and larger shapes with random weights.

The cost of an embedding does not depend on the values of the weights; its quality does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

import echoembed
from echoembed.sources.resolve import resolve

DEFAULT = "smollm2-135m"
BUNDLED = Path(echoembed.__file__).with_name("tiny")
CONTEXT = 4096
_SHAPES = {
    "llama-100m": {
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
    "0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
    },
}
NAMES = (DEFAULT, "bundled", *_SHAPES)


def shrink(name: str) -> None:
    """Let ``make`` draw a tiny model of the same family, to see that all steps run."""
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    _SHAPES[name] |= {**tiny, "num_attention_heads": 4, "num_key_value_heads": 2}


def make(name: str, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Path:
    """Write a model and the bundled tokenizer into a folder; SmolLM2 has a folder of its own.

    Args:
        name: One of ``NAMES``.
        folder: Where to; made if it is not there.
        device: Where random weights are drawn: seven billion take minutes on a CPU.
        dtype: Of random weights.
    """
    if name == DEFAULT:
        return resolve(name).folder
    folder.mkdir(parents=True, exist_ok=True)
    if name == "bundled":
        shutil.copytree(BUNDLED, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # Longer than it was trained for: what its vectors mean there is no matter here, what they cost is.
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    else:
        _draw(name, folder, torch.device(device), dtype)
    settings = folder / "tokenizer_config.json"
    (folder / "tokenizer.json").write_bytes((BUNDLED / "tokenizer.json").read_bytes())
    tokenizer = json.loads((BUNDLED / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**tokenizer, "model_max_length": CONTEXT}))
    return folder


def _draw(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    from transformers import AutoConfig, AutoModel

    shape = dict(_SHAPES[name])
    config = AutoConfig.for_model(
        shape.pop("model_type"),
        vocab_size=8192,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **shape,
    )
    torch.manual_seed(0)
    with device:
        AutoModel.from_config(config, dtype=dtype).save_pretrained(folder)
