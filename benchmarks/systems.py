"""The systems to compare, all on one thread, with the same weights, texts and batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import echoembed
from echoembed import Recipe

CLASSICAL = "classical, sentence-transformers"
"""The bare text, read once, by the library's own modules: what everything is measured against."""
LIBRARY = "echo, sentence-transformers"
"""Echo prompts through the library's padded forward."""
ONNX, OPENVINO_LIBRARY = "classical, sentence-transformers ONNX", "classical, sentence-transformers OpenVINO"
CLASSICAL_OURS = "classical, echoembed"
LOOP = "echo, a text at a time"
OURS = "echo, echoembed"
DEPTH = "echo at 0.8 of the depth, echoembed"
BFLOAT16, INT8 = "echo, echoembed bfloat16", "echo, echoembed int8"
DETERMINISTIC = "echo, echoembed deterministic"
LLAMA_CPP, LLAMA_CPP_Q8 = "echo, llama.cpp f32", "echo, llama.cpp q8_0"
LLAMA_CPP_FILE = "echo, llama.cpp on the GGUF file"
OPENVINO = "echo, OpenVINO"
PEERS = (ONNX, OPENVINO_LIBRARY, LLAMA_CPP, LLAMA_CPP_Q8, LLAMA_CPP_FILE, OPENVINO)
BARE = Recipe(name="bare", query_template="{text:pool}", document_template="{text:pool}")
# Unpinned, the library wraps the texts of an instruct model in its chat format: other vectors, at twice the cost.
TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@dataclass(frozen=True)
class System:
    """One way to embed.

    Attributes:
        encode: Texts in, vectors out.
        counted: The embedder whose prompts these are.
        note: What was chosen for it, or how close its vectors are to ours.
        dtype: In which it multiplies.
        clock: The seconds of processor time that it has taken so far, in all its processes.
    """

    encode: Callable[[list[str]], Any]
    counted: SentenceTransformer
    note: str = ""
    dtype: str = "float32"
    clock: Callable[[], float] = time.process_time


def load_all(
    folder: Path,
    scratch: Path,
    *,
    batch_size: int,
    device: str = "cpu",
    peers: bool = True,
    sample: list[str],
    gguf: Path | None = None,
    backends: Path | None = None,
    wanted: Sequence[str] = ("",),
) -> tuple[dict[str, System], dict[str, str]]:
    """Load every system that runs here, and say why others do not.

    Args:
        folder: The model.
        scratch: Where peers put files of their own.
        batch_size: Texts of a batch.
        device: ``cpu``, or a GPU, on which bfloat16 is used and there are no peers.
        peers: Whether ONNX, OpenVINO and llama.cpp are looked for.
        sample: Texts by which peers are checked and tuned.
        gguf: The file that the model was read from, if it was.
        backends: The interpreter of an environment with sentence-transformers' ONNX and OpenVINO backends, if any.
        wanted: How the names of those begin that are loaded beside the first two and ours.
    """
    dtype = "float32" if device == "cpu" else "bfloat16"
    shared: list[SentenceTransformer] = []

    def ours(recipe: str | Recipe, **settings: Any) -> SentenceTransformer:
        same = "dtype" not in settings and "layer" not in settings
        settings = {"dtype": dtype, "overflow": "ignore", "budget": 2048, **settings}
        model = echoembed.load(folder, recipe=recipe, device=device, **settings)
        if same:  # the same weights, held once: packing leaves a model as it was
            model[0].model = shared[0][0].model if shared else model[0].model
            shared.append(model)
        return model

    def run(model: SentenceTransformer) -> Callable[[list[str]], Any]:
        return lambda texts: model.encode(texts, batch_size=batch_size)

    def engine(model: SentenceTransformer) -> str:
        return str(echoembed.describe(model)["engine"])

    padded, packed = ours("echo", engine="padded"), ours("echo")
    classical, bare = ours("classical"), ours(BARE, engine="padded")
    stock = _stock(folder, device=device, model_kwargs={"dtype": dtype})
    stock[0].model = packed[0].model  # the same weights again
    systems = {
        CLASSICAL: System(run(stock), bare, "the bare text, pinned to text", dtype),
        LIBRARY: System(run(padded), padded, dtype=dtype),
        LOOP: System(lambda texts: [padded.encode(text) for text in texts], padded, dtype=dtype),
        OURS: System(run(packed), packed, engine(packed), dtype),
        CLASSICAL_OURS: System(run(classical), classical, dtype=dtype),
    }
    if device != "cpu":
        return systems, dict.fromkeys((DEPTH, BFLOAT16, INT8, DETERMINISTIC, *PEERS), "measured on a CPU only")
    layers = int(packed[0].model.config.num_hidden_layers)
    more: dict[str, dict[str, Any]] = {
        DETERMINISTIC: {"deterministic": True},
        DEPTH: {"layer": max(1, round(0.8 * layers))},
        BFLOAT16: {"dtype": "bfloat16"},
        INT8: {"dtype": "int8"},
    }
    for name, settings in more.items():
        if name.startswith(tuple(wanted)):
            model = ours("echo", **settings)
            note = f"layer {model[0].layers} of {layers}, {engine(model)}"
            systems[name] = System(run(model), model, note, settings.get("dtype", "float32"))
    skipped: dict[str, str] = {}
    loaders = _peers(packed, padded, stock, bare, folder, scratch, batch_size, gguf, backends)
    for name, load in loaders.items() if peers else ():
        if not name.startswith(tuple(wanted)):
            continue
        try:
            systems[name] = load(sample)
        except ImportError as error:
            skipped[name] = f"not installed ({error.name or error})"
        except Exception as error:  # whatever a peer raises, the others are measured
            skipped[name] = f"{type(error).__name__}: {error}"[:300]
    return systems, skipped


def _stock(folder: Path, *, device: str, **settings: Any) -> SentenceTransformer:
    """Return sentence-transformers' own modules with mean pooling."""
    first = Transformer(str(folder), modality_config=TEXT, module_output_name="token_embeddings", **settings)
    pooling = Pooling(first.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[first, pooling, Normalize()], device=device)


def _peers(
    packed: SentenceTransformer,
    padded: SentenceTransformer,
    stock: SentenceTransformer,
    bare: SentenceTransformer,
    folder: Path,
    scratch: Path,
    batch_size: int,
    gguf: Path | None,
    backends: Path | None,
) -> dict[str, Callable[[list[str]], System]]:
    def backend(name: str) -> Callable[[list[str]], System]:
        def load(sample: list[str]) -> System:
            from backend_peer import Backend

            if backends is None:
                raise ImportError(name="an environment of their own: --backends PYTHON")
            peer = Backend(backends, folder, name, batch_size, scratch)
            cosine = _same_work(float((peer.encode(sample) * stock.encode(sample)).sum(axis=1).min()))
            note = f"least cosine with PyTorch's {cosine:.6f}"
            return System(peer.encode, bare, note, clock=lambda: time.process_time() + peer.cpu)

        return load

    def llama_cpp(dtype: str, file: Path | None = None) -> Callable[[list[str]], System]:
        def load(sample: list[str]) -> System:
            from llama_cpp_peer import LlamaCpp

            peer = LlamaCpp(packed, scratch, quantized=dtype == "int8" and file is None, file=file)
            cosine = _same_work(peer.check(packed, sample), quantized=dtype == "int8")
            note = f"{peer.tune(sample)}, least cosine with ours {cosine:.6f}"
            return System(peer.encode, packed, note + (f", {file.name}" if file else ""), dtype)

        return load

    def openvino(sample: list[str]) -> System:
        from openvino_peer import OpenVino

        peer = OpenVino(padded, batch_size)
        return System(peer.encode, padded, f"least cosine with ours {_same_work(peer.check(packed, sample)):.6f}")

    peers = {
        ONNX: backend("onnx"),
        OPENVINO_LIBRARY: backend("openvino"),
        LLAMA_CPP: llama_cpp("float32"),
        LLAMA_CPP_Q8: llama_cpp("int8"),
        OPENVINO: openvino,
    }
    return peers | ({} if gguf is None else {LLAMA_CPP_FILE: llama_cpp("int8", gguf)})


def _same_work(cosine: float, quantized: bool = False) -> float:
    """Refuse a peer whose vectors differ, because it does other work."""
    if not cosine > (0.97 if quantized else 0.9999):
        raise ValueError(f"its vectors are not ours: least cosine {cosine:.4f}")
    return cosine
