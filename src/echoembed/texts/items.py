"""What travels from a reader to a writer, and the memory of ids already seen."""

from __future__ import annotations

from array import array
from typing import NamedTuple


class Item(NamedTuple):
    """One text to embed.

    Attributes:
        id: The id that the file gives, else the running number of the text, from 0, over all inputs.
        text: A text that has been checked: see ``echoembed.check_text``.
        where: Where it stands, as messages say it: ``line 7 of notes.txt``.
    """

    id: str
    text: str
    where: str


class SeenIds:
    """Ids seen so far, with the number of the text that had each.

    An open-addressing table of 64-bit hashes: 16 to 32 bytes an id where a dict of strings takes
    some 200. Two ids with one hash would be taken for one; among 100 million ids that happens
    once in some 3,700 runs, and refuses the file rather than harming it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._hashes = array("Q", [0]) * 1024
        self._numbers = array("I", [0]) * 1024

    def add(self, id_: str, number: int) -> int | None:
        """Remember an id; the number of the text that had it before, or None for a new one."""
        key = hash(id_) & 0xFFFF_FFFF_FFFF_FFFF or 1  # 0 marks a free slot
        slot = self._slot(key)
        if self._hashes[slot]:
            return self._numbers[slot]
        self._hashes[slot], self._numbers[slot] = key, number
        self._count += 1
        if 4 * self._count > 3 * len(self._hashes):
            self._grow()
        return None

    def _slot(self, key: int) -> int:
        """The slot that holds ``key``, or the free one where it belongs."""
        hashes, mask = self._hashes, len(self._hashes) - 1
        slot = key & mask
        while hashes[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        hashes, numbers = self._hashes, self._numbers
        self._hashes = array("Q", [0]) * (2 * len(hashes))
        self._numbers = array("I", [0]) * (2 * len(hashes))
        for key, number in zip(hashes, numbers, strict=True):
            if key:
                slot = self._slot(key)
                self._hashes[slot], self._numbers[slot] = key, number
