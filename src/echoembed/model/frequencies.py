"""How often tokens occur, by which a recipe can weigh the states that it pools.

Frequent tokens, such as that of "the", say little about a text. Pooling ``frequency-mean`` gives each state the weight
a / (a + p), where p is the share of its token among those of ordinary texts, and a is 0.001. With the calibration
``components-1`` this is SIF (Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline for sentence embeddings").

The tokens are counted in the sentences that come with the package, or in the texts that a model is calibrated on.

Shapes: B texts of a batch, S tokens of the longest span, D width of the states, W different tokens that were counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from echoembed import errors
from echoembed.prompts.template import Rendered

if TYPE_CHECKING:
    from echoembed.prompts.pieces import PieceTokenizer
    from echoembed.prompts.reader import Reader
    from echoembed.recipe import Recipe

FILE = "frequencies.safetensors"
RARE = 1e-3
"""The share of all tokens from which on a token's weight is below a half: a in a / (a + p)."""
_SENTENCES = Path(__file__).with_name("sentences.txt")
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """The number of times that each token occurs in some texts.

    Attributes:
        ids_W: The ids of the tokens that occur, each once, in order, int64.
        counts_W: How often each occurs, int64.
    """

    ids_W: Tensor = field(repr=False)
    counts_W: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        shape = self.ids_W.shape
        whole = self.ids_W.dtype == self.counts_W.dtype == torch.int64 and len(shape) == 1
        good = whole and self.counts_W.shape == shape and len(self.ids_W) and int(self.counts_W.min()) >= 1
        if not good or int(self.ids_W[0]) < 0 or bool((self.ids_W.diff() <= 0).any()):
            allowed = "two int64 tensors of equal length: ids in order, each once, and their counts, each above 0"
            raise errors.ModelError.bad_value("frequencies", tuple(shape), allowed)

    @classmethod
    def of(cls, reader: Reader, texts: Iterable[str]) -> Frequencies:
        """Count the tokens that a reader's query template pools of texts.

        Raises:
            TextError: If a text cannot be embedded.
            ModelError: If there are no texts.
        """
        reader, counts, every = replace(reader, overflow="ignore", beside=()), Counter[int](), list(texts)
        for start in range(0, len(every), _CHUNK):
            for prompt in reader.render(every[start : start + _CHUNK]):
                counts.update(prompt.ids[slice(*prompt.span)])
        ids = sorted(counts)
        return cls(
            ids_W=torch.tensor(ids, dtype=torch.int64),
            counts_W=torch.tensor([counts[id_] for id_ in ids], dtype=torch.int64),
        )

    @classmethod
    def needed_by(
        cls, recipe: Recipe, pieces: PieceTokenizer, context: int | None, texts: Iterable[str] | None = None
    ) -> Frequencies | None:
        """Count tokens for a recipe, in the given texts or the package's sentences; None if no prompt is pooled so."""
        rows = [prompt for prompt in recipe.prompts if prompt.pooling == "frequency-mean"]
        if not rows:
            return None
        return cls.of(rows[0].reader(pieces, context=context), sentences() if texts is None else texts)

    @cached_property
    def _weights(self) -> dict[int, float]:
        share_W = self.counts_W.double() / self.counts_W.double().sum()
        return dict(zip(self.ids_W.tolist(), (RARE / (RARE + share_W)).tolist(), strict=True))

    def weights(self, prompts: Sequence[Rendered]) -> list[Tensor]:
        """Return the weight ``_S`` of each pooled state of each prompt, float32; 1 for a token that never occurred."""
        weights = self._weights
        return [
            torch.tensor([weights.get(id_, 1.0) for id_ in prompt.ids[slice(*prompt.span)]], dtype=torch.float32)
            for prompt in prompts
        ]

    def identity(self) -> str:
        """Return a hash of all counts; the same texts and tokenizer give the same on every machine."""
        pairs = zip(self.ids_W.tolist(), self.counts_W.tolist(), strict=True)
        written = " ".join(f"{id_}:{count}" for id_, count in pairs)
        return f"token frequencies {hashlib.sha256(written.encode()).hexdigest()[:16]}"

    def save(self, folder: Path) -> None:
        """Write the counts into a model's folder."""
        save_file({"ids": self.ids_W, "counts": self.counts_W}, folder / FILE)

    @classmethod
    def read(cls, folder: Path, name: str, *, needed: bool) -> Frequencies | None:
        """Read the counts from a model's folder; None if it has none.

        Args:
            folder: The folder of the model's first module.
            name: What errors call the model.
            needed: Whether the model was saved with counts.

        Raises:
            ModelError: If the file is damaged, or is needed and missing.
        """
        if not (folder / FILE).is_file() and not needed:
            return None
        try:
            tensors = load_file(folder / FILE)
            return cls(ids_W=tensors["ids"], counts_W=tensors["counts"])
        except (OSError, SafetensorError, KeyError, errors.ModelError) as error:
            raise errors.model_saved_unreadable(name, f"{FILE} ({error})") from error


@cache
def sentences() -> tuple[str, ...]:
    """Return the generic English texts that come with the package: short and long, on many subjects."""
    lines = _SENTENCES.read_text(encoding="utf-8").splitlines()
    return tuple(line.partition("\t")[2] for line in lines if not line.startswith("#"))
