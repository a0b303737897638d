"""Scores of candidates. Each prompt is read once for all layers; the vectors of all its candidates come from that.

Shapes: N texts that are read, T texts of the evidence, D width of the vectors.
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
from echoembed.model.moments import Moments, map_of, removes
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.recipe import Recipe
from echoembed.tune import cost, space
from echoembed.tune.evidence import Evidence
from echoembed.tune.space import Candidate


class Trial(NamedTuple):
    """A candidate's results on the half by which candidates are chosen."""

    candidate: Candidate
    score: float
    """The score, × 100."""
    spread: float
    """How evenly the vectors are spread, if the choice depends on that; else 0."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A candidate with its scores, × 100."""

    candidate: Candidate
    cost: float
    """The cost, where a stock classical embedding costs 1."""
    chosen: float
    """The score on the half by which candidates are chosen, which flatters the best of many."""
    judged: float
    """The score on the other half."""
    low: float
    high: float
    """The middle 95 % of ``judged`` by the bootstrap are from ``low`` to ``high``."""


class Scorer:
    """Scores candidates."""

    def __init__(
        self, model: SentenceTransformer, store: LayerStore, costs: cost.Costs, evidence: Evidence, fitted: list[str]
    ) -> None:
        self.model, self.store, self.costs, self.evidence, self.fitted = model, store, costs, evidence, fitted
        self.layers = transformer_of(model).layers
        self._costs: dict[str, float] = {}

    def cost(self, candidate: Candidate) -> float:
        """Return a candidate's cost; the cost of one layer is measured once for each prompt."""
        total = 0.0
        for part in candidate.parts:
            name = part.prompt.name
            if name not in self._costs:
                self._costs[name] = self.costs.of(self.model, part.prompt, 1)
            total += self._costs[name] * part.layer
        return total

    def scores(
        self, prompt: Recipe, sample: NDArray[np.int64], fit_on: int, calibrations: Sequence[str]
    ) -> list[Trial]:
        """Score all candidates of a prompt on a sample of the evidence."""
        candidates = list(space.candidates(prompt, self.layers, calibrations, labelled=self.evidence.labelled))
        used = self._used(sample)
        return [
            self._trial(candidate, vectors_TD, sample)
            for candidate, vectors_TD in self._vectors(candidates, used, self.fitted[:fit_on])
        ]

    def side_by_side(self, candidates: Sequence[Candidate], sample: NDArray[np.int64]) -> list[Trial]:
        """Score pairs of candidates, by their vectors put side by side."""
        used = self._used(sample)
        unit = {
            str(candidate): vectors_TD
            for candidate in candidates
            for _, vectors_TD in self._vectors([candidate], used, self.fitted)
        }
        return [
            self._trial(both, np.hstack([unit[str(part)] for part in both.parts]) / np.float32(np.sqrt(2)), sample)
            for both in space.side_by_side(candidates, labelled=self.evidence.labelled)
        ]

    def _used(self, sample: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the texts of a sample, by their index in the evidence."""
        return np.unique(np.concatenate([self.evidence.left_N[sample], self.evidence.right_N[sample]]))

    def _trial(self, candidate: Candidate, vectors_TD: Vectors, sample: NDArray[np.int64]) -> Trial:
        score = self.evidence.score(self.evidence.values(vectors_TD), sample)
        return Trial(candidate, score, self.evidence.spread(vectors_TD[self._used(sample)]))

    def judged(self, trial: Trial, judge: NDArray[np.int64], seed: int) -> Scored:
        """Score a candidate on the other half, with an interval."""
        everything = np.arange(len(self.evidence.texts))
        parts = [
            vectors_TD
            for part in trial.candidate.parts
            for _, vectors_TD in self._vectors([part], everything, self.fitted)
        ]
        values_N = self.evidence.values(np.hstack(parts) / np.float32(np.sqrt(len(parts))))
        low, high = self.evidence.interval(values_N, judge, seed)
        return Scored(
            candidate=trial.candidate,
            cost=self.cost(trial.candidate),
            chosen=trial.score,
            judged=self.evidence.score(values_N, judge),
            low=low,
            high=high,
        )

    def _vectors(
        self, candidates: Sequence[Candidate], used: NDArray[np.int64], fitted: Sequence[str]
    ) -> Iterator[tuple[Candidate, Vectors]]:
        """Yield each candidate with unit vectors ``_TD`` of the evidence's texts, zeros for those not in ``used``."""
        whole = under(self.model, candidates[0].prompt)
        reader = transformer_of(whole).reader
        texts = [self.evidence.texts[place] for place in used]
        prompts = [*reader.render(fitted), *reader.render(texts)]
        self.store.fill(whole, prompts)
        directions = any(Moments.needed_by(candidate.calibration).full for candidate in candidates)
        for (layer, pooling), group in groupby(candidates, key=lambda candidate: (candidate.layer, candidate.pooling)):
            pooled_ND = self.store.vectors(whole, prompts, [layer], pooling)[:, 0]
            moments = Moments(full=directions)
            moments.add(pooled_ND[: len(fitted)])
            for candidate in group:
                try:
                    made_ND = _calibrated_vectors(candidate.calibration, moments, pooled_ND[len(fitted) :])
                except errors.ModelError:  # too few texts, or a constant dimension, as in some first layers
                    continue
                length_N1 = np.linalg.norm(made_ND, axis=1, keepdims=True)
                vectors_TD = np.zeros((len(self.evidence.texts), made_ND.shape[1]), dtype=np.float32)
                vectors_TD[used] = made_ND / np.maximum(length_N1, np.finfo(np.float32).tiny)
                yield candidate, vectors_TD


def _calibrated_vectors(kind: str, moments: Moments, pooled_ND: Vectors) -> Vectors:
    """Calibrate many vectors at once, as ``Calibration`` does row by row."""
    if kind == "none":
        return pooled_ND
    arrays = {name: array.astype(np.float32) for name, array in map_of(kind, moments).items()}
    moved_ND: Vectors = (pooled_ND - arrays["shift_D"]) * arrays.get("scale_D", np.float32(1))
    if "matrix_DK" not in arrays:
        return moved_ND
    along_NK: Vectors = moved_ND @ arrays["matrix_DK"]
    return moved_ND - along_NK @ arrays["matrix_DK"].T if removes(kind) else along_NK
