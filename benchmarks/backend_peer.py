"""sentence-transformers' ONNX and OpenVINO backends as peers, in a process and an environment of their own.

Their packages ask for an older transformers than echoembed needs. So they are installed beside it:

    python -m venv .venv-backends
    .venv-backends/bin/pip install 'sentence-transformers[onnx,openvino]<5.4' 'transformers<4.58'
    python benchmarks/engine.py --backends .venv-backends/bin/python

The child embeds the bare texts that it is sent, on one thread, and answers with vectors and its processor time. Both
backends export Llama with an input for positions that sentence-transformers does not fill: ONNX then raises, and
OpenVINO gives NaN. The child fills it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SETTINGS: dict[str, dict[str, Any]] = {
    "onnx": {"provider": "CPUExecutionProvider", "export": True},
    "openvino": {
        "export": True,
        "ov_config": {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"},
    },
}
"""What each backend is told: float32, one thread."""


class Backend:
    """Classical embeddings by a backend of sentence-transformers, in another process.

    Args:
        python: The interpreter of the environment that has the backend.
        folder: The model.
        backend: ``onnx`` or ``openvino``.
        batch_size: Texts of a batch.
        scratch: A folder for the model's files as the child needs them, and for a log of what it says.

    Attributes:
        cpu: The seconds of processor time that the child has spent on texts.

    Raises:
        ImportError: If the environment lacks the backend, or the backend cannot run the model.
    """

    def __init__(self, python: Path, folder: Path, backend: str, batch_size: int, scratch: Path) -> None:
        self.cpu = 0.0
        self.log = scratch / f"{backend}.log"
        own = scratch / f"{backend}-model"
        _for_older_versions(folder, own)
        self._child = subprocess.Popen(
            [str(python), __file__, str(own), backend, str(batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        self.encode(["a first text"])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, ``_ND`` in float32, in the order of the texts."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(list(texts)).encode() + b"\n")
            self._child.stdin.flush()
            head = json.loads(self._child.stdout.readline())
        except (OSError, ValueError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ImportError(lines[-1] if lines else "the child process ended") from None
        self.cpu += head["cpu"]
        rows, width = head["shape"]
        return np.frombuffer(_exactly(self._child.stdout, 4 * rows * width), dtype="<f4").reshape(rows, width)


def _for_older_versions(folder: Path, own: Path) -> None:
    """Link a model's files into a folder whose configuration names the rotary base as transformers 4 reads it."""
    own.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name != "config.json":
            (own / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rope_theta"] = config.get("rope_parameters", {}).get("rope_theta", config.get("rope_theta"))
    (own / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _exactly(stream: Any, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        parts += stream.read(count - len(parts))
    return parts


def _serve(folder: str, backend: str, batch_size: int, out: BinaryIO) -> None:
    """The child: answer each line of texts with a line about the vectors, and their bytes."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    torch.set_num_threads(1)
    first = models.Transformer(folder, backend=backend, model_args=_settings(backend))
    _give_positions(first.auto_model, backend)
    pooling = models.Pooling(first.get_word_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[first, pooling, models.Normalize()], device="cpu")
    for line in sys.stdin:
        begun = time.process_time()
        vectors_ND = np.asarray(model.encode(json.loads(line), batch_size=batch_size), dtype="<f4")
        head = {"cpu": time.process_time() - begun, "shape": vectors_ND.shape}
        out.write(json.dumps(head).encode() + b"\n" + vectors_ND.tobytes())
        out.flush()


def _give_positions(model: Any, backend: str) -> None:
    """Let a model get the positions of its tokens; texts are padded on the right."""
    if backend == "onnx":
        forward = model.forward

        def with_positions(input_ids: Any, **inputs: Any) -> Any:
            return forward(
                input_ids=input_ids, position_ids=input_ids.new_ones(input_ids.shape).cumsum(1) - 1, **inputs
            )

        model.forward = with_positions
        return
    infer = model._inference
    model._inference = lambda inputs: infer(
        {**inputs, "position_ids": np.ones_like(inputs["input_ids"]).cumsum(axis=1) - 1}
    )


def _settings(backend: str) -> dict[str, Any]:
    if backend != "onnx":
        return SETTINGS[backend]
    import onnxruntime

    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = session.inter_op_num_threads = 1
    return {**SETTINGS[backend], "session_options": session}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the vectors
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), answers)
