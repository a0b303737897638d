"""A teacher's vectors of texts, from SentenceTransformers or from a file; each is computed once and stored.

A run draws few of a corpus's texts, so that a vector is computed when a batch first needs it. Vectors are stored in
``teacher.sqlite`` in the run's folder, under the SHA-256 of their text, where a resumed run finds them; a second
teacher's in ``teacher-2.sqlite``.

Shapes: N texts, D width of the teacher.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echoembed import errors
from echoembed.files import folder_of
from echoembed.model.describe import fingerprint
from echoembed.model.load import load
from echoembed.model.saved import OURS, read_modules
from echoembed.model.transformer import EchoTransformer
from echoembed.sources.adapters import names_one
from echoembed.sources.files import MODULES
from echoembed.sources.resolve import resolve
from echoembed.texts.rows import format_of, opened, records
from echoembed.training.run_folder import STORE
from echoembed.training.tables import TeacherConfig

_ASKED = 500
"""The most texts that are looked up at once."""
_BATCH = {"cpu": 32, "cuda": 512}
"""The texts that a teacher reads at once."""
_LENGTHS = (1e-6, 1e6)
"""The lengths of vectors that are left as they are: the cosines of others would be rounded, or overflow."""


class Teacher:
    """Returns the teachers' vectors of texts.

    Args:
        config: The teacher, or several.
        folder: The run's folder, in which vectors are stored when the first are computed; None to store them in memory.

    Raises:
        TrainingError: If a teacher cannot be loaded or read, or the run's folder has another teacher's vectors.
    """

    def __init__(self, config: TeacherConfig, folder: Path | None = None) -> None:
        names = config.models or ("",)
        stores = (STORE, *(f"{Path(STORE).stem}-{number}{Path(STORE).suffix}" for number in range(2, len(names) + 1)))
        self._parts = [
            _One(replace(config, model=name), folder, store) for name, store in zip(names, stores, strict=True)
        ]

    @property
    def computed(self) -> int:
        """How many vectors were computed and not found."""
        return sum(part.computed for part in self._parts)

    def check(self, texts: Iterable[str]) -> None:
        """Check, before training starts, that the teacher has a vector of every text; a model computes them later.

        Raises:
            TrainingError: If the file of vectors lacks a text.
        """
        self._parts[0].check(texts)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors of N texts, ``_ND`` in float32, whose cosines are the mean of all teachers' cosines.

        Raises:
            TrainingError: If the file of vectors lacks a text, or a vector is not finite or 0.
            FileError: If the vectors cannot be stored.
        """
        vectors = [part.vectors(texts) for part in self._parts]
        if len(vectors) == 1:
            return vectors[0]
        return torch.cat([torch.nn.functional.normalize(part_ND, dim=-1) for part_ND in vectors], dim=-1)


class _One:
    """Returns one teacher's vectors of texts.

    Args:
        config: The teacher.
        folder: The run's folder, in which vectors are stored when the first are computed; None to store them in memory.
        store: The name of the file in it.

    Raises:
        TrainingError: If the teacher cannot be loaded or read, or the run's folder has another teacher's vectors.
    """

    def __init__(self, config: TeacherConfig, folder: Path | None, store: str) -> None:
        self.config = config
        self.computed = 0
        self._folder = folder
        self._store_name = store
        self._model: Any = None
        self._file: dict[bytes, NDArray[np.float32]] = {}
        self._connection: sqlite3.Connection | None = None
        if config.vectors:
            self._file = _read(Path(config.vectors))
            return
        self._model = _load(config.models[0])
        if folder is not None and (folder / store).exists():
            with _usable(self._place):
                self._opened()

    def check(self, texts: Iterable[str]) -> None:
        """Check, before training starts, that the teacher has a vector of every text; a model computes them later.

        Raises:
            TrainingError: If the file of vectors lacks a text.
        """
        for text in texts if self._model is None else ():
            if _key(text) not in self._file:
                raise errors.teacher_vector_missing(self.config.vectors, text)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors of N texts, ``_ND`` in float32.

        Raises:
            TrainingError: If the file of vectors lacks a text, or a vector is not finite or 0.
            FileError: If the vectors cannot be stored.
        """
        if self._model is None:
            self.check(texts)
            return torch.from_numpy(np.stack([self._file[_key(text)] for text in texts]))
        keys = [_key(text) for text in texts]
        with _usable(self._place):
            # 1. Look up stored vectors.
            vectors = dict(self._stored(keys))
            # 2. Compute the other vectors, each text once, and store them.
            new = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
            if new:
                computed_ND = self._computed(list(new.values()))
                pairs = [(key, vector.tobytes()) for key, vector in zip(new, computed_ND, strict=True)]
                self._store(pairs)
                vectors |= dict(zip(new, computed_ND, strict=True))
                self.computed += len(new)
        return torch.from_numpy(np.stack([vectors[key] for key in keys]))

    @property
    def _place(self) -> str:
        return str(self._folder / self._store_name) if self._folder else ":memory:"

    def _stored(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        for start in range(0, len(keys), _ASKED):
            asked = keys[start : start + _ASKED]
            marks = ", ".join("?" * len(asked))
            rows = self._opened().execute(f"SELECT text, vector FROM vectors WHERE text IN ({marks})", asked)  # noqa: S608
            yield from ((key, np.frombuffer(vector, np.float32)) for key, vector in rows)

    def _store(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Store vectors in one transaction: each takes a millisecond if it is one by itself."""
        store = self._opened()
        store.execute("BEGIN IMMEDIATE")
        try:
            store.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", pairs)
            store.execute("COMMIT")
        except BaseException:
            store.execute("ROLLBACK")
            raise

    def _computed(self, texts: list[str]) -> NDArray[np.float32]:
        encoded = self._model.encode(
            texts, batch_size=_BATCH[_device()], convert_to_numpy=True, show_progress_bar=False
        )
        vectors_ND = np.asarray(encoded, np.float32)
        for text, vector in zip(texts, vectors_ND, strict=True):
            if fault := _fault(vector):
                raise errors.teacher_unusable(self.config.models[0], f"its vector of {errors.quoted(text)} {fault}")
        return np.stack([_scaled(vector) for vector in vectors_ND])

    def _opened(self) -> sqlite3.Connection:
        """Open the store, and refuse one with another teacher's vectors."""
        if self._connection is None:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            store = sqlite3.connect(self._place, timeout=60, isolation_level=None)
            store.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB)")
            identity = b"identity:" + _identity(self._model)
            store.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?)", (b"teacher", identity))
            (stored,) = store.execute("SELECT vector FROM vectors WHERE text = ?", (b"teacher",)).fetchone()
            if stored != identity:
                fault = "the teacher is another: its weights, recipe or settings are not those of the run's beginning"
                raise errors.training_run_differs(self._folder, [fault])
            self._connection = store
        return self._connection


@contextmanager
def _usable(place: str) -> Iterator[None]:
    """Turn errors of the store into our own: a full disk, a folder that cannot be written, a damaged file."""
    try:
        yield
    except errors.EchoembedError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise errors.teacher_store_unusable(place, str(error)) from error


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _fault(vector: NDArray[np.float32]) -> str:
    """Say why a vector has no cosine; empty if it has."""
    if not np.isfinite(vector).all():
        return "is not finite"
    return "" if vector.any() else "is 0"


def _scaled(vector: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Bring a vector that is extremely long or short to length 1, which leaves its cosines as they are."""
    exact = vector.astype(np.float64)
    largest = float(np.abs(exact).max(initial=0.0))
    if not (np.isfinite(largest) and largest):
        return exact.astype(np.float32)
    length = largest * float(np.linalg.norm(exact / largest))  # squares of the numbers themselves may overflow
    scaled = exact if _LENGTHS[0] <= length <= _LENGTHS[1] else exact / largest / np.linalg.norm(exact / largest)
    result: NDArray[np.float32] = scaled.astype(np.float32)
    return result


def _load(name: str) -> Any:
    """Load a SentenceTransformer from a folder, an installed package or the hub, from safetensors only.

    A model that echoembed saved, or an adapter, is loaded with its recipe.
    """
    from sentence_transformers import SentenceTransformer

    device = _device()
    try:
        if names_one(name):
            return load(name, device=device, overflow="ignore").eval()
        source = resolve(str(_packaged(name) or name))
        folder = source.folder
        if any(module["type"] == OURS for module in read_modules(source)):
            return load(folder, device=device, overflow="ignore").eval()
        if not (folder / MODULES).is_file():
            raise errors.teacher_unusable(name, f"it has no {MODULES}, so that it is no SentenceTransformer")
        model = SentenceTransformer(
            str(folder), device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except errors.TrainingError:
        raise
    except Exception as error:  # the library and transformers raise errors of many kinds
        kind = "" if isinstance(error, errors.EchoembedError) else f"{type(error).__name__}: "
        raise errors.teacher_unusable(name, f"{kind}{error}") from error
    return model.eval()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _packaged(name: str) -> Path | None:
    """Return the folder of the SentenceTransformer that an installed package carries; None if there is no package."""
    if folder_of(name) is not None:
        return None
    try:
        files = distribution(name).files or []
    except (PackageNotFoundError, ValueError):
        return None
    folders = (Path(str(file.locate())).parent for file in files if file.name == MODULES)
    if (folder := next(folders, None)) is None:
        raise errors.teacher_unusable(name, "the installed package of that name carries no SentenceTransformer")
    return folder


def _identity(model: Any) -> bytes:
    """Hash what decides a teacher's vectors: its weights, and its recipe or its modules' settings."""
    parts = list(model.children())
    ours = bool(parts) and isinstance(parts[0], EchoTransformer)
    settings = [fingerprint(model)] if ours else [(type(part).__name__, _settings(part)) for part in parts]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _settings(module: Any) -> Any:
    return module.get_config_dict() if hasattr(module, "get_config_dict") else None


def _read(path: Path) -> dict[bytes, NDArray[np.float32]]:
    """Read each text's key and vector from a file such as ``echoembed embed`` writes."""
    vectors: dict[bytes, NDArray[np.float32]] = {}
    width = 0
    try:
        with opened(path) as handle:
            for where, row in records(format_of(path.name) or "jsonl", handle, str(path), ("text", "vector")):
                if row is None:
                    continue
                if not isinstance(row, dict) or not isinstance(row.get("text"), str) or row.get("vector") is None:
                    raise errors.teacher_unusable(path, f"{where} has no text with its vector")
                vector = _vector(path, where, row["vector"])
                if width and len(vector) != width:
                    fault = f"{where}: its vector has {len(vector)} numbers, those before {width}"
                    raise errors.teacher_unusable(path, fault)
                width = len(vector)
                key = _key(row["text"])
                if not np.array_equal(vectors.setdefault(key, vector), vector):
                    raise errors.teacher_unusable(path, f"{where}: its text has another vector in a row before")
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, errors.EchoembedError):
            raise
        raise errors.teacher_unusable(path, str(error)) from error
    if not vectors:
        raise errors.teacher_unusable(path, "it holds no vector")
    return vectors


def _vector(path: Path, where: str, value: object) -> NDArray[np.float32]:
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of different lengths
        numbers = np.asarray(None)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iuf":
        raise errors.teacher_unusable(path, f"{where}: its vector is not a list of numbers")
    if fault := _fault(numbers):
        raise errors.teacher_unusable(path, f"{where}: its vector {fault}")
    return _scaled(numbers.astype(np.float64))
