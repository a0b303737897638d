"""Vectors that exist already, by the hash of their text: a text that returns, or that has not changed, is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        self._shards: list[tuple[Path, bool]] = []
        self._places = places
        self._loaded = lru_cache(maxsize=SHARDS_IN_MEMORY)(self._load)

    def add(self, path: Path, *, old: bool) -> None:
        """Add the vectors of a shard that is whole, of one identity and one precision with the others.

        Args:
            path: The shard.
            old: Whether the corpus had the shard before this build.
        """
        self._places.add(len(self._shards), shard.read(path, ["text_hash"]).column("text_hash").to_pylist())
        self._shards.append((path, old))

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, Known]:
        """Return the vectors of those texts that have one."""
        places = self._places.find(hashes)
        known = {}
        # In the order of the shards, so that each shard is read once.
        for hash_, (number, row) in sorted(places.items(), key=lambda item: item[1]):
            stored, dropped_N, numerics = self._loaded(number)
            known[hash_] = Known(
                stored.values_ND[row],
                float(stored.scale_N[row]),
                int(dropped_N[row]),
                numerics,
                old=self._shards[number][1],
            )
        return known

    def _load(self, number: int) -> tuple[shard.Stored, NDArray[Any], Mapping[str, object]]:
        path, _ = self._shards[number]
        table = shard.read(path)
        dropped_N = np.asarray(table.column("dropped_tokens").to_numpy())
        return shard.stored_of(table), dropped_N, shard.numerics_of(path)
