"""The systems that are compared, all on one thread, with the same weights, texts and batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import echoembed

LIBRARY = "echo, sentence-transformers"
"""Echo prompts through the library's padded forward: what the engine is measured against."""
CLASSICAL = "classical, sentence-transformers"
CLASSICAL_OURS = "classical, echoembed"
LOOP = "echo, a text at a time"
OURS = "echo, echoembed"
INT8 = "echo, echoembed int8"
LLAMA_CPP, LLAMA_CPP_Q8 = "echo, llama.cpp f32", "echo, llama.cpp q8_0"
OPENVINO = "echo, OpenVINO"
_PROMPT = "Write a paragraph: "


@dataclass(frozen=True)
class System:
    """One way to embed.

    Attributes:
        encode: Texts in, vectors out.
        counted: The embedder whose prompts these are.
        note: What was chosen for it, or how close its vectors are to ours.
    """

    encode: Callable[[list[str]], Any]
    counted: SentenceTransformer
    note: str = ""


def load_all(
    folder: Path, scratch: Path, *, batch_size: int, device: str = "cpu", peers: bool = True, sample: list[str]
) -> tuple[dict[str, System], dict[str, str]]:
    """Every system that runs here, and why others do not.

    Args:
        folder: The model.
        scratch: Where peers put files of their own.
        batch_size: Texts of a batch.
        device: ``cpu``, or a GPU, on which bfloat16 is used and there are no peers.
        peers: Whether llama.cpp and OpenVINO are looked for.
        sample: Texts by which peers are checked and tuned.
    """
    dtype = "float32" if device == "cpu" else "bfloat16"

    loaded: list[SentenceTransformer] = []

    def ours(recipe: str, **settings: Any) -> SentenceTransformer:
        settings = {"dtype": dtype, "overflow": "ignore", **settings}
        model = echoembed.load(folder, recipe=recipe, budget=2048, device=device, **settings)
        if settings["dtype"] == dtype:  # the same weights, held once: packing leaves a model as it was
            model[0].model = loaded[0][0].model if loaded else model[0].model
            loaded.append(model)
        return model

    def run(model: SentenceTransformer, **settings: Any) -> Callable[[list[str]], Any]:
        return lambda texts: model.encode(texts, batch_size=batch_size, **settings)

    padded = ours("echo", engine="padded")
    packed, classical = ours("echo"), ours("classical")
    first = Transformer(str(folder), model_kwargs={"dtype": dtype})
    pooling = Pooling(first.get_embedding_dimension(), pooling_mode="mean", include_prompt=False)
    stock = SentenceTransformer(modules=[first, pooling, Normalize()], device=device)
    systems = {
        LIBRARY: System(run(padded), padded),
        CLASSICAL: System(run(stock, prompt=_PROMPT), classical, f"prompt {_PROMPT!r}"),
        LOOP: System(lambda texts: [padded.encode(text) for text in texts], padded),
        OURS: System(run(packed), packed, str(echoembed.describe(packed)["engine"])),
        CLASSICAL_OURS: System(run(classical), classical),
    }
    skipped: dict[str, str] = {}
    if device != "cpu":
        skipped = dict.fromkeys((INT8, LLAMA_CPP, LLAMA_CPP_Q8, OPENVINO), "measured on a CPU only")
        return systems, skipped
    exact = ours("echo", deterministic=True)
    small = ours("echo", dtype="int8")
    cosine = float((small.encode(sample) * packed.encode(sample)).sum(axis=1).min())
    systems["echo, echoembed deterministic"] = System(run(exact), exact, str(echoembed.describe(exact)["engine"]))
    systems[INT8] = System(run(small), small, f"least cosine with float32 {cosine:.4f}")
    if peers:
        for name, load in _peers(packed, padded, scratch, batch_size).items():
            try:
                systems[name] = load(sample)
            except ImportError as error:
                skipped[name] = f"not installed ({error.name})"
            except Exception as error:  # whatever a peer raises, the others are measured
                skipped[name] = f"{type(error).__name__}: {error}"[:300]
    return systems, skipped


def _peers(
    packed: SentenceTransformer, padded: SentenceTransformer, scratch: Path, batch_size: int
) -> dict[str, Callable[[list[str]], System]]:
    def llama_cpp(quantized: bool) -> Callable[[list[str]], System]:
        def load(sample: list[str]) -> System:
            from llama_cpp_peer import LlamaCpp

            peer = LlamaCpp(packed, scratch, quantized=quantized)
            cosine = _same_work(peer.check(packed, sample), quantized)
            return System(peer.encode, packed, f"{peer.tune(sample)}, least cosine with ours {cosine:.6f}")

        return load

    def openvino(sample: list[str]) -> System:
        from openvino_peer import OpenVino

        peer = OpenVino(padded, batch_size)
        return System(peer.encode, padded, f"least cosine with ours {_same_work(peer.check(packed, sample)):.6f}")

    return {LLAMA_CPP: llama_cpp(False), LLAMA_CPP_Q8: llama_cpp(True), OPENVINO: openvino}


def _same_work(cosine: float, quantized: bool = False) -> float:
    """A peer that gives other vectors does other work, and is no peer."""
    if not cosine > (0.99 if quantized else 0.999):
        raise ValueError(f"its vectors are not ours: least cosine {cosine:.4f}")
    return cosine
