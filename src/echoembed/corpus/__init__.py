"""Corpora: embed millions of texts without losing one, and search them.

``build`` makes a folder of Parquet shards with a manifest; ``open_corpus`` opens the folder for searches.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echoembed.corpus.encoder import Encoder, Identity, ModelEncoder
    from echoembed.corpus.groups import Reading
    from echoembed.corpus.job import build
    from echoembed.corpus.manifest import plain_load
    from echoembed.corpus.records import Keep
    from echoembed.corpus.search import Corpus, open_corpus
    from echoembed.corpus.work import BuildProgress, Report

_HOMES = {
    "Corpus": "search",
    "Encoder": "encoder",
    "Identity": "encoder",
    "Keep": "records",
    "ModelEncoder": "encoder",
    "Reading": "groups",
    "Report": "work",
    "BuildProgress": "work",
    "build": "job",
    "open_corpus": "search",
    "plain_load": "manifest",
}
__all__ = [
    "BuildProgress",
    "Corpus",
    "Encoder",
    "Identity",
    "Keep",
    "ModelEncoder",
    "Reading",
    "Report",
    "build",
    "open_corpus",
    "plain_load",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
