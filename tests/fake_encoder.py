"""An encoder that needs no model: a vector is drawn from the hash of its text and its neighbours play no part."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from echoembed import errors
from echoembed.corpus.encoder import Identity

CUT_AT = 30


class FakePrompt(NamedTuple):
    text: str
    dropped: int


@dataclass
class FakeEncoder:
    """Words are tokens, 30 are read; a text with BLANK has no token, one with NAN no vector."""

    dimension: int = 8
    recipe: str = "echo"
    revision: str = "0" * 40
    dtype: str = "float32"
    texts: list[str] = field(default_factory=list)

    def identity(self) -> Identity:
        return Identity(
            decides={"revision": self.revision, "recipe_fingerprint": self.recipe, "dimension": self.dimension},
            names={"model": "fake", "fingerprint": f"{self.recipe}-{self.revision[:8]}"},
            numerics={"dtype": self.dtype},
        )

    def encode(self, prompts):
        texts = [prompt.text for prompt in prompts]
        self.texts += texts
        vectors_ND = np.stack([self.vector(text) for text in texts])
        for row, text in enumerate(texts):
            if "ZERO" in text:
                vectors_ND[row] = 0
            if "NAN" in text:
                vectors_ND[row, 0] = np.nan
        return vectors_ND

    def vector(self, text):
        """What the vector of a text must be, float32 of length 1."""
        seed = int.from_bytes(hashlib.sha256(f"{self.recipe}{self.revision}{text}".encode()).digest()[:8], "big")
        vector_D = np.random.default_rng(seed).standard_normal(self.dimension)
        return (vector_D / np.linalg.norm(vector_D)).astype(np.float32)

    def read(self, texts):
        for text in texts:
            if "BLANK" in text:
                raise errors.text_blank(" ", "The text")
        return [FakePrompt(text, max(0, self.tokens(text) - CUT_AT)) for text in texts]

    def tokens(self, text):
        return len(text.split())

    def room(self):
        return CUT_AT
