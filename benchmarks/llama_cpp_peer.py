"""llama.cpp as a peer: a GGUF file of the same weights, and echo embeddings computed with it.

We use llama.cpp as well as its interface allows:

- It gets the input embeddings of the same token ids. So the file needs no vocabulary, and the output head, which
  llama.cpp computes for every pooled token though its output is not used, is only 32 wide.
- The prefix that all prompts share is computed once for a call, and copied into every sequence.
- Texts are sorted by length, with many sequences in a batch. ``tune`` tries batches of several sizes, with and without
  flash attention, on some of the texts; the fastest setting is measured. All sequences share one key-value store,
  because llama.cpp cannot copy the prefix from one store to another.
- Only pooled tokens are requested, so that the last layer skips the others.
- You can give a GGUF file of the model. Its output head is then as wide as its vocabulary, and is computed.
- Extra buffers are off, because llama.cpp crashes with them on virtual machines that have AMX.

Shapes: T tokens of a batch, D width of the model.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

VOCABULARY = 32  # of the file: llama.cpp wants one
BATCH = 2048


@dataclass(frozen=True)
class Settings:
    """Settings of llama.cpp: the most sequences and tokens of a batch, and whether to use flash attention."""

    sequences: int = 32
    tokens: int = 512
    flash: bool = True


CANDIDATES = (
    Settings(),
    Settings(flash=False),
    Settings(sequences=8),
    Settings(sequences=8, flash=False),
    Settings(sequences=1),
    Settings(tokens=1024),
)


def write_gguf(model: Any, path: Path) -> None:
    """Write a Llama's weights in float32."""
    import gguf

    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: weight.detach().float().numpy() for name, weight in model.named_parameters()}
    writer.add_tensor("token_embd.weight", np.ascontiguousarray(weights["embed_tokens.weight"][:VOCABULARY]))
    writer.add_tensor("output_norm.weight", weights["norm.weight"])
    for layer, (ours, theirs) in itertools.product(range(config.num_hidden_layers), names.items()):
        weight = weights[f"layers.{layer}.{ours}.weight"]
        if theirs in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if theirs == "attn_q" else config.num_key_value_heads
            weight = _neighbouring_halves(weight, heads)
        writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _neighbouring_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours of a head, transformers its two halves: the same, the rows in another order."""
    rows, width = weight.shape
    return np.ascontiguousarray(weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width))


class LlamaCpp:
    """Echo embeddings by llama.cpp, one thread.

    Args:
        model: The embedder whose prompts, spans and weights are used; pooled by the mean.
        folder: Where the GGUF files go.
        quantized: Whether weights are in ``q8_0``.
        file: A GGUF file of the same model, used as it is; None to write one.

    Raises:
        ImportError: If ``llama_cpp`` or ``gguf`` is not installed.
    """

    def __init__(self, model: SentenceTransformer, folder: Path, *, quantized: bool, file: Path | None = None) -> None:
        import llama_cpp

        self.api = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        self.first = model[0]
        path = file or folder / "model-f32.gguf"
        if not path.exists():
            write_gguf(self.first.model, path)
        if quantized:
            source, path = path, folder / "model-q8_0.gguf"
            wanted = llama_cpp.llama_model_quantize_default_params()
            wanted.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
            if not path.exists() and llama_cpp.llama_model_quantize(
                str(source).encode(), str(path).encode(), ctypes.byref(wanted)
            ):
                raise RuntimeError("llama.cpp could not quantise the model")
        self.embeddings = self.first.model.get_input_embeddings().weight.detach().float().numpy()
        settings = llama_cpp.llama_model_default_params()
        settings.use_extra_bufts = False
        self.weights = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self.weights:
            raise RuntimeError(f"llama.cpp could not read {path.name}")
        self.context: Any = None
        self.use(Settings())

    def use(self, settings: Settings) -> None:
        """Take other settings."""
        if self.context:
            self.api.llama_free(self.context)
        self.settings = settings
        longest = self.first.context or self.first.model.config.max_position_embeddings
        wanted = self.api.llama_context_default_params()
        wanted.n_ctx = max(longest, settings.tokens) + 256  # a whole batch, or a prompt longer than one, and the prefix
        wanted.n_batch = max(longest, BATCH)
        wanted.n_ubatch = settings.tokens
        wanted.n_seq_max = settings.sequences + 1  # and the prefix
        wanted.n_threads = wanted.n_threads_batch = 1
        wanted.embeddings = True
        wanted.pooling_type = self.api.LLAMA_POOLING_TYPE_NONE
        wanted.flash_attn_type = int(settings.flash)
        wanted.kv_unified = True
        for name in ("n_outputs_max", "n_outputs_max_per_seq"):
            if hasattr(wanted, name):
                setattr(wanted, name, wanted.n_batch)
        self.context = self.api.llama_init_from_model(self.weights, wanted)
        if not self.context:
            raise RuntimeError(f"llama.cpp refuses {settings}")
        self.memory = self.api.llama_get_memory(self.context)

    def tune(self, texts: Sequence[str]) -> Settings:
        """Try settings on texts and keep the fastest by processor time."""
        best, fastest = self.settings, float("inf")
        for settings in CANDIDATES:
            self.use(settings)
            start = time.process_time()
            self.encode(texts)
            if (seconds := time.process_time() - start) < fastest:
                best, fastest = settings, seconds
        self.use(best)
        return best

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, ``_ND`` in the order of the texts."""
        rendered = self.first.reader.render(texts)
        shared = rendered[0].prefix
        out_ND = np.zeros((len(texts), self.embeddings.shape[1]), np.float32)
        self.api.llama_memory_clear(self.memory, True)
        self._decode([(0, rendered[0].ids[:shared], 0, (0, 0))])
        group: list[int] = []
        tokens = 0
        for index in sorted(range(len(texts)), key=lambda index: len(rendered[index].ids)):
            own = len(rendered[index].ids) - shared
            if group and (len(group) == self.settings.sequences or tokens + own > self.settings.tokens):
                self._pool(group, rendered, shared, out_ND)
                group, tokens = [], 0
            group.append(index)
            tokens += own
        self._pool(group, rendered, shared, out_ND)
        return out_ND / np.linalg.norm(out_ND, axis=1, keepdims=True)

    def _pool(self, group: list[int], rendered: Sequence[Any], shared: int, out_ND: np.ndarray) -> None:
        parts = []
        for sequence, index in enumerate(group, start=1):
            self.api.llama_memory_seq_cp(self.memory, 0, sequence, 0, shared)
            parts.append((sequence, rendered[index].ids[shared:], shared, rendered[index].span))
        states_PD = self._decode(parts)
        start = 0
        for index in group:
            count = rendered[index].span[1] - rendered[index].span[0]
            out_ND[index] = states_PD[start : start + count].mean(axis=0)
            start += count
        for sequence, *_ in parts:
            self.api.llama_memory_seq_rm(self.memory, sequence, 0, -1)

    def _decode(self, parts: Sequence[tuple[int, Sequence[int], int, tuple[int, int]]]) -> np.ndarray:
        """Run sequences, each with its number, ids, first position and pooled positions; the pooled states."""
        api, width = self.api, self.embeddings.shape[1]
        total = sum(len(ids) for _, ids, _, _ in parts)
        batch = api.llama_batch_init(total, width, 1)
        try:
            batch.n_tokens = total
            ids_T = np.concatenate([np.asarray(ids) for _, ids, _, _ in parts])
            np.ctypeslib.as_array(batch.embd, (total, width))[:] = self.embeddings[ids_T]
            positions = np.concatenate([np.arange(start, start + len(ids)) for _, ids, start, _ in parts])
            np.ctypeslib.as_array(batch.pos, (total,))[:] = positions
            np.ctypeslib.as_array(batch.n_seq_id, (total,))[:] = 1
            sequences = np.repeat([sequence for sequence, *_ in parts], [len(ids) for _, ids, _, _ in parts])
            for token, sequence in enumerate(sequences.tolist()):
                batch.seq_id[token][0] = sequence
            wanted = np.concatenate(
                [
                    (np.arange(start, start + len(ids)) >= span[0]) & (np.arange(start, start + len(ids)) < span[1])
                    for _, ids, start, span in parts
                ]
            )
            np.ctypeslib.as_array(batch.logits, (total,))[:] = wanted
            if status := api.llama_decode(self.context, batch):
                raise RuntimeError(f"llama_decode: {status} for {total} tokens, {self.settings}")
            rows = [api.llama_get_embeddings_ith(self.context, int(token)) for token in np.flatnonzero(wanted)]
            return np.stack([np.ctypeslib.as_array(row, (width,)) for row in rows]) if rows else np.empty((0, width))
        finally:
            api.llama_batch_free(batch)

    def check(self, model: SentenceTransformer, texts: list[str]) -> float:
        """Return the least cosine between its vectors and ours, which shows that both do the same work."""
        return float((self.encode(texts) * model.encode(texts)).sum(axis=1).min())
