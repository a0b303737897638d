"""Scores of candidates: the vectors of each are made from what was read once for all layers.

Shapes: N texts that a calibration is fitted on, and used ones; T texts of the evidence, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from echoembed import errors
from echoembed.evaluation.cache import Vectors
from echoembed.evaluation.layers import LayerStore
from echoembed.model.moments import Moments, map_of
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.recipe import Recipe
from echoembed.tune import cost, space
from echoembed.tune.evidence import Evidence
from echoembed.tune.space import Candidate


class Found(NamedTuple):
    """A candidate on the half that choices are made by."""

    candidate: Candidate
    score: float
    """× 100."""
    spread: float
    """How evenly its vectors lie, where that belongs to the choice; else 0."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A candidate with its scores, × 100."""

    candidate: Candidate
    cost: float
    """In units of a stock classical embedding."""
    chosen: float
    """On the half that choices are made by: flattering for the best of many."""
    judged: float
    """On the other half."""
    low: float
    high: float
    """The middle 95 % of ``judged`` under the bootstrap."""


class Scorer:
    """Scores candidates."""

    def __init__(
        self, model: SentenceTransformer, store: LayerStore, costs: cost.Costs, evidence: Evidence, fitted: list[str]
    ) -> None:
        self.model, self.store, self.costs, self.evidence, self.fitted = model, store, costs, evidence, fitted
        self.layers = transformer_of(model).layers
        self._costs: dict[str, float] = {}

    def cost(self, candidate: Candidate) -> float:
        """In units; one layer's is measured once for each prompt."""
        total = 0.0
        for part in candidate.parts:
            name = part.prompt.name
            if name not in self._costs:
                self._costs[name] = self.costs.of(self.model, part.prompt, 1)
            total += self._costs[name] * part.layer
        return total

    def scores(
        self, prompt: Recipe, sample: NDArray[np.int64], fit_on: int, calibrations: Sequence[str]
    ) -> list[Found]:
        """Every candidate of a prompt with its score on a sample of the evidence."""
        given = list(space.candidates(prompt, self.layers, calibrations))
        used = self._used(sample)
        return [
            self._found(candidate, vectors_TD, sample)
            for candidate, vectors_TD in self._vectors(given, used, self.fitted[:fit_on])
        ]

    def side_by_side(self, candidates: Sequence[Candidate], sample: NDArray[np.int64]) -> list[Found]:
        """Every two candidates of a few, with the score of their vectors put together."""
        used = self._used(sample)
        unit = {str(one): vectors_TD for one in candidates for _, vectors_TD in self._vectors([one], used, self.fitted)}
        return [
            self._found(both, np.hstack([unit[str(part)] for part in both.parts]) / np.float32(np.sqrt(2)), sample)
            for both in space.side_by_side(candidates)
        ]

    def _used(self, sample: NDArray[np.int64]) -> NDArray[np.int64]:
        """The texts of a sample, as places in the evidence."""
        return np.unique(np.concatenate([self.evidence.left_N[sample], self.evidence.right_N[sample]]))

    def _found(self, candidate: Candidate, vectors_TD: Vectors, sample: NDArray[np.int64]) -> Found:
        score = self.evidence.score(self.evidence.values(vectors_TD), sample)
        return Found(candidate, score, self.evidence.spread(vectors_TD[self._used(sample)]))

    def judged(self, found: Found, judge: NDArray[np.int64], seed: int) -> Scored:
        """A candidate's score on the other half, with its interval."""
        everything = np.arange(len(self.evidence.texts))
        parts = [
            vectors_TD
            for part in found.candidate.parts
            for _, vectors_TD in self._vectors([part], everything, self.fitted)
        ]
        values_N = self.evidence.values(np.hstack(parts) / np.float32(np.sqrt(len(parts))))
        low, high = self.evidence.interval(values_N, judge, seed)
        return Scored(
            candidate=found.candidate,
            cost=self.cost(found.candidate),
            chosen=found.score,
            judged=self.evidence.score(values_N, judge),
            low=low,
            high=high,
        )

    def _vectors(
        self, candidates: Sequence[Candidate], used: NDArray[np.int64], fitted: Sequence[str]
    ) -> Iterator[tuple[Candidate, Vectors]]:
        """Unit vectors ``_TD`` of the evidence's texts under each candidate; zeros for those not used."""
        whole = under(self.model, candidates[0].prompt)
        reader = transformer_of(whole).reader
        texts = [self.evidence.texts[place] for place in used]
        prompts = [*reader.render(fitted), *reader.render(texts)]
        self.store.fill(whole, prompts)
        directions = any(candidate.calibration.startswith(("components", "whiten")) for candidate in candidates)
        for (layer, pooling), group in groupby(candidates, key=lambda one: (one.layer, one.pooling)):
            pooled_ND = self.store.vectors(whole, prompts, [layer], pooling)[:, 0]
            moments = Moments(full=directions)
            moments.add(pooled_ND[: len(fitted)])
            for candidate in group:
                try:
                    made_ND = _calibrated_vectors(candidate.calibration, moments, pooled_ND[len(fitted) :])
                except errors.ModelError:  # of constant dimensions, as the first layers may have them, or too few texts
                    continue
                length_N1 = np.linalg.norm(made_ND, axis=1, keepdims=True)
                vectors_TD = np.zeros((len(self.evidence.texts), made_ND.shape[1]), dtype=np.float32)
                vectors_TD[used] = made_ND / np.maximum(length_N1, np.finfo(np.float32).tiny)
                yield candidate, vectors_TD


def _calibrated_vectors(kind: str, moments: Moments, pooled_ND: Vectors) -> Vectors:
    """What ``Calibration`` gives, of many vectors at once."""
    if kind == "none":
        return pooled_ND
    made = {name: array.astype(np.float32) for name, array in map_of(kind, moments).items()}
    moved_ND: Vectors = (pooled_ND - made["shift_D"]) * made.get("scale_D", np.float32(1))
    if "matrix_DK" not in made:
        return moved_ND
    along_NK: Vectors = moved_ND @ made["matrix_DK"]
    return moved_ND - along_NK @ made["matrix_DK"].T if kind.startswith("components") else along_NK
