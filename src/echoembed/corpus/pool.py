"""Vectors that exist already, by the hash of their text: a text that returns, or that has not changed, is copied."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echoembed.corpus import shard
from echoembed.corpus.embed import Known
from echoembed.corpus.scratch import Places

SHARDS_IN_MEMORY = 4


class Pool:
    """The vectors of a corpus's shards.

    Args:
        places: An empty table.
    """

    def __init__(self, places: Places) -> None:
        self._paths: list[Path] = []
        self._places = places
        self._loaded = lru_cache(maxsize=SHARDS_IN_MEMORY)(self._load)

    def add(self, path: Path) -> None:
        """Add the vectors of a shard that is whole, of one identity and one precision with the others."""
        self._places.add(len(self._paths), shard.read(path, ["text_hash"]).column("text_hash").to_pylist())
        self._paths.append(path)

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, Known]:
        """Return the vectors of those texts that have one."""
        places = self._places.find(hashes)
        known = {}
        # In the order of the shards, so that each shard is read once.
        for hash_, (number, row) in sorted(places.items(), key=lambda item: item[1]):
            stored, dropped_N = self._loaded(number)
            known[hash_] = Known(stored.values_ND[row], float(stored.scale_N[row]), int(dropped_N[row]))
        return known

    def _load(self, number: int) -> tuple[shard.Stored, NDArray[Any]]:
        table = shard.read(self._paths[number])
        return shard.stored_of(table), np.asarray(table.column("dropped_tokens").to_numpy())
