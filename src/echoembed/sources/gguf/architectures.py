"""Tables of each architecture's tensors and settings, which reverse llama.cpp's conversion from transformers.

Shapes, as letters: V vocabulary, E width, F inner width of the feed-forward, H query heads times head width D,
K key-value heads times D, C context, Q = H + 2K and G = 2F where matrices are fused.

``{i}`` is the number of a layer. A file must have each tensor of its table in exactly this shape, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Change = Literal["none", "rotary", "one less", "turned"]
"""How llama.cpp changed a tensor: ``rotary``, it interleaved the rows of a head's two halves; ``one less``, it added 1
to a norm's weight; ``turned``, it transposed the matrix."""


@dataclass(frozen=True)
class Weight:
    """A row of a table: a tensor's name and shape in transformers, and the change by llama.cpp to undo."""

    name: str
    shape: str
    change: Change = "none"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to read the files of one architecture.

    Attributes:
        model_type: The architecture's name in transformers.
        model_class: The transformers class with a language-modelling head, for config.json.
        weights: Name of a tensor in the file → its weight in transformers.
        optional: Groups of tensors of which a file has all or none, by the key of config.json that says which.
        settings: Key of the file, without the architecture's name → key of config.json.
        fixed: Entries of config.json that are the same for all files.
        rotary: Whether the model uses rotary position embeddings.
    """

    model_type: str
    model_class: str
    weights: dict[str, Weight]
    settings: dict[str, str]
    optional: dict[str, dict[str, Weight]]
    fixed: dict[str, object]
    rotary: bool = True


HEAD = "output.weight"
"""The tensor of the language-modelling head, which a file lacks if the head shares the token embeddings."""

_LAYER = "model.layers.{i}."
_ENDS = {
    "token_embd.weight": Weight("model.embed_tokens.weight", "VE"),
    "output_norm.weight": Weight("model.norm.weight", "E"),
}
_UNFUSED = {
    "blk.{i}.attn_q.weight": Weight(_LAYER + "self_attn.q_proj.weight", "HE"),
    "blk.{i}.attn_k.weight": Weight(_LAYER + "self_attn.k_proj.weight", "KE"),
    "blk.{i}.attn_v.weight": Weight(_LAYER + "self_attn.v_proj.weight", "KE"),
    "blk.{i}.ffn_gate.weight": Weight(_LAYER + "mlp.gate_proj.weight", "FE"),
    "blk.{i}.ffn_up.weight": Weight(_LAYER + "mlp.up_proj.weight", "FE"),
}
_BOTH = {
    "blk.{i}.attn_norm.weight": Weight(_LAYER + "input_layernorm.weight", "E"),
    "blk.{i}.attn_output.weight": Weight(_LAYER + "self_attn.o_proj.weight", "EH"),
    "blk.{i}.ffn_down.weight": Weight(_LAYER + "mlp.down_proj.weight", "EF"),
}
_TWO_NORMS = {"blk.{i}.ffn_norm.weight": Weight(_LAYER + "post_attention_layernorm.weight", "E")}
_HEAD_NORMS = {
    "blk.{i}.attn_q_norm.weight": Weight(_LAYER + "self_attn.q_norm.weight", "D"),
    "blk.{i}.attn_k_norm.weight": Weight(_LAYER + "self_attn.k_norm.weight", "D"),
}
_BIASES = {
    "blk.{i}.attn_q.bias": Weight(_LAYER + "self_attn.q_proj.bias", "H"),
    "blk.{i}.attn_k.bias": Weight(_LAYER + "self_attn.k_proj.bias", "K"),
    "blk.{i}.attn_v.bias": Weight(_LAYER + "self_attn.v_proj.bias", "K"),
}
_OUTPUT_BIAS = {"blk.{i}.attn_output.bias": Weight(_LAYER + "self_attn.o_proj.bias", "E")}
_FEED_FORWARD_BIASES = {
    "blk.{i}.ffn_gate.bias": Weight(_LAYER + "mlp.gate_proj.bias", "F"),
    "blk.{i}.ffn_up.bias": Weight(_LAYER + "mlp.up_proj.bias", "F"),
    "blk.{i}.ffn_down.bias": Weight(_LAYER + "mlp.down_proj.bias", "E"),
}
_HEADS = {"": {HEAD: Weight("lm_head.weight", "VE")}}

_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def _changed(weights: dict[str, Weight], change: Change, ends: tuple[str, ...]) -> dict[str, Weight]:
    """Return the same rows, but with this change for the tensors whose names have these endings."""
    return {
        name: Weight(row.name, row.shape, change if name.endswith(ends) else row.change)
        for name, row in weights.items()
    }


def _gpt2(inside: str, shape: str, change: Change = "none") -> dict[str, Weight]:
    """Return the rows for the weight and the bias of one of GPT-2's modules."""
    outward = shape[0]
    return {
        "weight": Weight(f"transformer.h.{{i}}.{inside}.weight", shape, change),
        "bias": Weight(f"transformer.h.{{i}}.{inside}.bias", outward),
    }


_GPT2_LAYER = {
    "attn_norm": _gpt2("ln_1", "E"),
    "attn_qkv": _gpt2("attn.c_attn", "QE", "turned"),
    "attn_output": _gpt2("attn.c_proj", "EE", "turned"),
    "ffn_norm": _gpt2("ln_2", "E"),
    "ffn_up": _gpt2("mlp.c_fc", "FE", "turned"),
    "ffn_down": _gpt2("mlp.c_proj", "EF", "turned"),
}

ARCHITECTURES = {
    "llama": Architecture(  # and Mistral, whose files have the same form
        model_type="llama",
        model_class="LlamaForCausalLM",
        weights=_changed({**_ENDS, **_UNFUSED, **_BOTH, **_TWO_NORMS}, "rotary", ("attn_q.weight", "attn_k.weight")),
        optional={
            **_HEADS,
            "attention_bias": _changed({**_BIASES, **_OUTPUT_BIAS}, "rotary", ("attn_q.bias", "attn_k.bias")),
            "mlp_bias": _FEED_FORWARD_BIASES,
        },
        settings=_SIZES,
        fixed={"hidden_act": "silu"},
    ),
    "qwen2": Architecture(
        model_type="qwen2",
        model_class="Qwen2ForCausalLM",
        weights={**_ENDS, **_UNFUSED, **_BOTH, **_TWO_NORMS, **_BIASES},
        optional=_HEADS,
        settings=_SIZES,
        fixed={"hidden_act": "silu", "use_sliding_window": False},
    ),
    "qwen3": Architecture(
        model_type="qwen3",
        model_class="Qwen3ForCausalLM",
        weights={**_ENDS, **_UNFUSED, **_BOTH, **_TWO_NORMS, **_HEAD_NORMS},
        optional={**_HEADS, "attention_bias": {**_BIASES, **_OUTPUT_BIAS}},
        settings=_SIZES,
        fixed={"hidden_act": "silu", "use_sliding_window": False},
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        model_class="Gemma3ForCausalLM",
        weights=_changed(
            {
                **_ENDS,
                **_UNFUSED,
                **_BOTH,
                **_HEAD_NORMS,
                "blk.{i}.post_attention_norm.weight": Weight(_LAYER + "post_attention_layernorm.weight", "E"),
                "blk.{i}.ffn_norm.weight": Weight(_LAYER + "pre_feedforward_layernorm.weight", "E"),
                "blk.{i}.post_ffw_norm.weight": Weight(_LAYER + "post_feedforward_layernorm.weight", "E"),
            },
            "one less",
            ("norm.weight",),
        ),
        optional=_HEADS,
        settings={
            **_SIZES,
            "attention.sliding_window": "sliding_window",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        fixed={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
    ),
    "phi3": Architecture(
        model_type="phi3",
        model_class="Phi3ForCausalLM",
        weights={
            **_ENDS,
            **_BOTH,
            **_TWO_NORMS,
            "blk.{i}.attn_qkv.weight": Weight(_LAYER + "self_attn.qkv_proj.weight", "QE"),
            "blk.{i}.ffn_up.weight": Weight(_LAYER + "mlp.gate_up_proj.weight", "GE"),
        },
        optional=_HEADS,
        settings={**_SIZES, "attention.sliding_window": "sliding_window"},
        fixed={"hidden_act": "silu"},
    ),
    "gpt2": Architecture(
        model_type="gpt2",
        model_class="GPT2LMHeadModel",
        weights={
            "token_embd.weight": Weight("transformer.wte.weight", "VE"),
            "position_embd.weight": Weight("transformer.wpe.weight", "CE"),
            "output_norm.weight": Weight("transformer.ln_f.weight", "E"),
            "output_norm.bias": Weight("transformer.ln_f.bias", "E"),
            **{f"blk.{{i}}.{name}.{part}": row for name, parts in _GPT2_LAYER.items() for part, row in parts.items()},
        },
        optional=_HEADS,
        settings={
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"activation_function": "gelu_new"},
        rotary=False,
    ),
}
