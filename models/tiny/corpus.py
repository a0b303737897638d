"""The corpus as one long array of token ids, and the sequences that a step of training sees.

A sequence is either plain, a stretch of the corpus as it stands, or made of repeated spans: a few tokens of ordinary
text, a span, a few other tokens, the same span again. Both are drawn from a generator that is seeded with the run's
seed and the step, so that a resumed run sees what it would have seen.

Shapes: B sequences of a step, T tokens of each, one more as the last target.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SPAN = (8, 150)
"""Fewest and most tokens of a repeated span; lengths are drawn evenly on a logarithmic scale."""
BETWEEN = (1, 8)
"""Fewest and most tokens before a span and between its two occurrences."""


def documents(paths: list[Path]) -> Iterator[str]:
    """The texts of xz-compressed JSON lines, in order."""
    import json

    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def train_tokenizer(paths: list[Path], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of so many tokens; its first three are the special ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents(paths), trainer)
    return tokenizer


def tokenise(paths: list[Path], tokenizer: Tokenizer, target: Path) -> np.ndarray:
    """All documents as ``<s> text </s>``, one after another: uint16, kept in ``target`` and mapped from there."""
    if not target.is_file():
        bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        unfinished = target.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            texts = list(documents(paths))
            for start in track(range(0, len(texts), 512), description=f"Tokenising {target.stem}"):
                for encoded in tokenizer.encode_batch(texts[start : start + 512], add_special_tokens=False):
                    file.write(np.array([bos, *encoded.ids, eos], dtype=np.uint16).tobytes())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(target)
    return np.memmap(target, dtype=np.uint16, mode="r")


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The sequences of a run."""

    ids: np.ndarray
    """The corpus."""
    bos: int
    eos: int
    repeated: float
    """Share of the sequences that are made of repeated spans."""
    seed: int

    def batch(self, step: int, rows: int, length: int) -> np.ndarray:
        """The step's sequences, int64 of shape (B, T + 1).

        Plain ones are stretches of the corpus in an order that is shuffled anew each time it has been read.
        """
        draw = np.random.default_rng([self.seed, step])
        out = np.empty((rows, length + 1), dtype=np.int64)
        stretches = (len(self.ids) - 1) // length
        for row in range(rows):
            if draw.random() < self.repeated:
                out[row] = self._repeats(draw, length + 1)
            else:
                epoch, place = divmod(step * rows + row, stretches)
                at = self._order(epoch, stretches)[place] * length
                out[row] = self.ids[at : at + length + 1]
        return out

    def _order(self, epoch: int, stretches: int) -> np.ndarray:
        key = (epoch, stretches)
        if _ORDERS.get("key") != key:
            _ORDERS.update(key=key, order=np.random.default_rng([self.seed, 1, epoch]).permutation(stretches))
        return _ORDERS["order"]

    def _repeats(self, draw: np.random.Generator, length: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < length:
            span = self._piece(draw, int(np.exp(draw.uniform(np.log(SPAN[0]), np.log(SPAN[1] + 1)))))
            before, between = (self._piece(draw, int(draw.integers(BETWEEN[0], BETWEEN[1] + 1))) for _ in range(2))
            parts += [np.array([self.bos]), before, span, between, span, np.array([self.eos])]
        return np.concatenate(parts)[:length]

    def _piece(self, draw: np.random.Generator, tokens: int) -> np.ndarray:
        at = int(draw.integers(0, len(self.ids) - tokens))
        piece = np.asarray(self.ids[at : at + tokens], dtype=np.int64)
        return np.where((piece == self.bos) | (piece == self.eos), np.roll(piece, 1), piece)


_ORDERS: dict = {}
