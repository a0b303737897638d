"""A teacher's vectors of texts, from any SentenceTransformer or from a file; each is computed once and stored.

A run draws few of a corpus's texts, so that a vector is computed when a batch first needs it. Vectors are stored in
``teacher.sqlite`` in the run's folder, under the SHA-256 of their text, where a resumed run finds them.

Shapes: N texts, D width of the teacher.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echoembed import errors
from echoembed.texts.rows import format_of, opened, records
from echoembed.training.tables import TeacherConfig

STORE = "teacher.sqlite"
"""The file in a run's folder that stores vectors."""


class Teacher:
    """Returns a teacher's vectors of texts.

    Args:
        config: The teacher.
        folder: The run's folder, in which vectors are stored; None to store them in memory.

    Raises:
        TrainingError: If the teacher cannot be loaded or read, or the run's folder has another teacher's vectors.
    """

    def __init__(self, config: TeacherConfig, folder: Path | None = None) -> None:
        self.config = config
        self.computed = 0
        self._model: Any = None
        if config.vectors:
            self._file = dict(_read(Path(config.vectors)))
            return
        self._file = {}
        self._model = _load(config.model)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._store = sqlite3.connect(folder / STORE if folder else ":memory:", timeout=60, isolation_level=None)
        self._store.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB)")
        self._check_identity(folder)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors of N texts, ``_ND`` in float32.

        Raises:
            TrainingError: If the file of vectors lacks a text, or a vector is not finite.
        """
        keys = [_key(text) for text in texts]
        if self._model is None:
            for key, text in zip(keys, texts, strict=True):
                if key not in self._file:
                    raise errors.teacher_vector_missing(self.config.vectors, text)
            return torch.from_numpy(np.stack([self._file[key] for key in keys]))
        # 1. Look up stored vectors.
        marks = ", ".join("?" * len(keys))
        rows = self._store.execute(f"SELECT text, vector FROM vectors WHERE text IN ({marks})", keys)  # noqa: S608
        vectors = {key: np.frombuffer(vector, np.float32) for key, vector in rows}
        # 2. Compute the other vectors, each text once, and store them.
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        if new:
            computed = self._model.encode(list(new.values()), convert_to_numpy=True, show_progress_bar=False)
            computed_ND = np.asarray(computed, np.float32)
            if not np.isfinite(computed_ND).all():
                raise errors.teacher_unusable(self.config.model, "its vectors are not finite")
            pairs = [(key, vector.tobytes()) for key, vector in zip(new, computed_ND, strict=True)]
            self._store.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", pairs)
            vectors |= dict(zip(new, computed_ND, strict=True))
            self.computed += len(new)
        return torch.from_numpy(np.stack([vectors[key] for key in keys]))

    def _check_identity(self, folder: Path | None) -> None:
        """Refuse a store with another teacher's vectors."""
        identity = b"identity:" + _identity(self._model)
        self._store.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?)", (b"teacher", identity))
        (stored,) = self._store.execute("SELECT vector FROM vectors WHERE text = ?", (b"teacher",)).fetchone()
        if stored != identity:
            raise errors.training_run_differs(folder, ["the teacher's weights are others than when the run was begun"])


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _load(name: str) -> Any:
    """Load a SentenceTransformer from a folder, an installed package or the hub, from safetensors only."""
    from sentence_transformers import SentenceTransformer

    place: str | Path = name
    if not Path(name).expanduser().is_dir():
        try:
            files = distribution(name).files or []
            place = next((Path(str(file.locate())).parent for file in files if file.name == "modules.json"), Path(name))
        except (PackageNotFoundError, ValueError):  # a name on the hub
            place = name
    try:
        model = SentenceTransformer(
            str(place),
            device="cuda" if torch.cuda.is_available() else "cpu",
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # the library, transformers and the hub raise errors of many kinds
        raise errors.teacher_unusable(name, f"{type(error).__name__}: {error}") from error
    return model.eval()


def _identity(model: Any) -> bytes:
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _read(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Yield each text's key and vector from a file such as ``echoembed embed`` writes."""
    kind = format_of(path.name)
    width = 0
    try:
        with opened(path) as handle:
            for where, row in records(kind or "jsonl", handle, str(path), ("text", "vector")):
                if not isinstance(row, dict) or not isinstance(row.get("text"), str) or row.get("vector") is None:
                    raise errors.teacher_unusable(path, f"{where} has no text with its vector")
                vector = np.asarray(row["vector"], np.float32)
                if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all() or not vector.any():
                    raise errors.teacher_unusable(path, f"{where}: its vector is not a list of finite numbers, or is 0")
                if width and len(vector) != width:
                    raise errors.teacher_unusable(
                        path, f"{where}: its vector has {len(vector)} numbers, those before {width}"
                    )
                width = len(vector)
                yield _key(row["text"]), vector
    except (OSError, ValueError, TypeError) as error:
        raise errors.teacher_unusable(path, str(error)) from error
    if not width:
        raise errors.teacher_unusable(path, "it holds no vector")
