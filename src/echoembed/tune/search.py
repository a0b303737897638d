"""The search: every layer's pooled vectors once for each prompt, everything else on top of them.

1. All prompts read a small sample; the best of them, and those that stand for comparison, read everything.
2. Each layer and pooling is calibrated on texts that are not judged, and scored on one half of the evidence.
3. The best candidate within the cost is judged, with the frontier, on the other half.

What was read is kept in a store (``evaluation/layers.py``): a search that is started again goes on where it was.

Shapes: C texts of the calibration, T texts of the evidence, L layers and the embeddings, D width of the vectors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from echoembed import errors
from echoembed.evaluation.cache import Vectors
from echoembed.evaluation.layers import LayerStore
from echoembed.model.calibrate import calibrate
from echoembed.model.moments import LEAST_TEXTS, Moments, map_of
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.recipe import Recipe
from echoembed.tune import cost, space
from echoembed.tune.evidence import Evidence, Halves, LabelledPairs, halves_of
from echoembed.tune.space import Candidate

REFERENCES = {
    "classical": (1.0, "none", "one reading, last layer"),
    "echo": (1.0, "none", "echo of the paper, last layer"),
    "bag of words": (0.0, "z-score", "one reading, first layer, calibrated"),
}
"""Always judged beside the winner: depth, calibration, what it is."""
SMALL, LARGE = 192, 512
"""Texts that calibrations are fitted on in the first round, and in the second."""
JUDGED = 400
"""Most texts that are cut in two where there are no labels."""
_FIRST_ROUND = ("none", "mean", "z-score")
_KEPT = 2


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


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search found."""

    winner: Scored
    frontier: list[Scored]
    """By cost: each better than all that cost less."""
    references: dict[str, Scored]
    evidence: str
    labelled: bool
    candidates: int
    """How many were scored on everything."""
    model: SentenceTransformer


def tune(
    load: Callable[[Recipe], SentenceTransformer],
    texts: Iterable[str],
    *,
    pairs: Sequence[tuple[str, str, float]] | None = None,
    most_cost: float = 1.0,
    store: LayerStore,
    prompts: Sequence[str] | None = None,
    budget: int | None = None,
    seed: int = 42,
    say: Callable[[str], object] = lambda _: None,
) -> Tuned:
    """Find the best zero-shot embedder that a model holds for some texts.

    Args:
        load: Gives the model under a recipe, as ``echoembed.load`` does.
        texts: Some hundreds or thousands of the kind that will be embedded, without labels.
        pairs: LabelledPairs of texts with a judgement of how alike they are; None to judge by ``texts`` alone.
        most_cost: What embedding may cost, in units of a stock classical embedding on this machine.
        store: Keeps what was read.
        prompts: Rows of the table whose prompts are tried; None for all zero-shot ones.
        budget: Most tokens of text that are read; None for what each row says.
        seed: Of samples and of the bootstrap.
        say: Takes a line now and then.

    Returns:
        The winner, what it was compared with, and the model under it, calibrated on ``texts``.

    Raises:
        DataError: If there are too few texts or pairs, or no candidate is within the cost.
    """
    distinct = list(dict.fromkeys(texts))
    random.Random(seed).shuffle(distinct)  # noqa: S311
    fitted, evidence = _evidence(distinct, pairs)
    choose, judge = halves_of(evidence, seed)
    rows = [row.overridden(budget=budget) for row in space.prompts(prompts)]
    model = load(rows[0])
    costs = cost.measured(model, distinct[: cost.TEXTS], rows[0])
    search = _Search(model, store, costs, evidence, fitted)
    # 1. A small sample under all prompts that can be within the cost at all.
    rows = [row for row in rows if _fits(row, model)]
    affordable = [row for row in rows if costs.of(model, row, 1) <= most_cost]
    best: dict[str, float] = {}
    for row in affordable:
        scored = search.scores(row, choose[: len(choose) // 3 + 1], SMALL, _FIRST_ROUND)
        best[row.name] = max((score for candidate, score in scored if search.cost(candidate) <= most_cost), default=0.0)
        say(f"{row.name}: {best[row.name]:.1f} on a sample")
    if not best:
        raise errors.tune_too_dear(most_cost, min(costs.of(model, row, 1) for row in rows))
    # 2. Everything under the best of them, and under those that the winner is compared with.
    kept = sorted(best, key=lambda name: -best[name])[:_KEPT]
    found: list[tuple[Candidate, float]] = []
    for row in rows:
        if row.name in kept or row.name in REFERENCES:
            say(f"{row.name}: all layers on all texts")
            found += search.scores(row, choose, LARGE, space.CALIBRATIONS)
    # 3. The winner, the frontier and the references, judged on the half that no choice was made by.
    within = [(candidate, score) for candidate, score in found if search.cost(candidate) <= most_cost]
    frontier = list(_frontier(search, found))
    winner = max(within, key=lambda pair: pair[1])
    judged = {str(pair[0]): search.judged(*pair, judge, seed) for pair in [*frontier, winner]}
    references = {
        name: search.judged(candidate, score, judge, seed)
        for name in REFERENCES
        for candidate, score in found
        if _is_reference(name, candidate)
    }
    say("fitting the winner's calibration on all texts")
    return Tuned(
        winner=judged[str(winner[0])],
        frontier=[judged[str(candidate)] for candidate, _ in frontier],
        references=references,
        evidence=evidence.name,
        labelled=pairs is not None,
        candidates=len(found),
        model=_calibrated(load, winner[0], distinct),
    )


def _fits(row: Recipe, model: SentenceTransformer) -> bool:
    """Whether the model's tokenizer has what the row's template needs, such as the marks of a chat."""
    try:
        transformer_of(model).under(row)
    except errors.TemplateError:
        return False
    return True


def _evidence(texts: Sequence[str], pairs: Sequence[tuple[str, str, float]] | None) -> tuple[list[str], Evidence]:
    """Texts for the calibrations, and what candidates are judged by: no text is in both."""
    if pairs is not None:
        evidence: Evidence = LabelledPairs.of(pairs)
        judged = set(evidence.texts)
        fitted = [text for text in texts if text not in judged]
    else:
        count = min(JUDGED, len(texts) // 2)
        evidence, fitted = Halves.of(texts[:count]), list(texts[count:])
    if len(fitted) < LEAST_TEXTS:
        raise errors.tune_too_few("texts that are not among the pairs", len(fitted), LEAST_TEXTS)
    return fitted[:LARGE], evidence


class _Search:
    """Scores candidates."""

    def __init__(
        self, model: SentenceTransformer, store: LayerStore, costs: cost.Costs, evidence: Evidence, fitted: list[str]
    ) -> None:
        self.model, self.store, self.costs, self.evidence, self.fitted = model, store, costs, evidence, fitted
        self.layers = transformer_of(model).layers
        self._costs: dict[str, float] = {}

    def cost(self, candidate: Candidate) -> float:
        """In units; one layer's is measured once for each prompt."""
        name = candidate.prompt.name
        if name not in self._costs:
            self._costs[name] = self.costs.of(self.model, candidate.prompt, 1)
        return self._costs[name] * candidate.layer

    def scores(
        self, prompt: Recipe, sample: NDArray[np.int64], fit_on: int, calibrations: Sequence[str]
    ) -> list[tuple[Candidate, float]]:
        """Every candidate of a prompt with its score on a sample of the evidence."""
        given = list(space.candidates(prompt, self.layers, calibrations))
        used = np.unique(np.concatenate([self.evidence.left_N[sample], self.evidence.right_N[sample]]))
        return [
            (candidate, self.evidence.score(self.evidence.values(vectors_TD), sample))
            for candidate, vectors_TD in self._vectors(given, used, self.fitted[:fit_on])
        ]

    def judged(self, candidate: Candidate, chosen: float, judge: NDArray[np.int64], seed: int) -> Scored:
        """A candidate's score on the other half, with its interval."""
        everything = np.arange(len(self.evidence.texts))
        ((_, vectors_TD),) = self._vectors([candidate], everything, self.fitted)
        values_N = self.evidence.values(vectors_TD)
        low, high = self.evidence.interval(values_N, judge, seed)
        score = self.evidence.score(values_N, judge)
        return Scored(candidate=candidate, cost=self.cost(candidate), chosen=chosen, judged=score, low=low, high=high)

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


def _frontier(search: _Search, found: Sequence[tuple[Candidate, float]]) -> Iterator[tuple[Candidate, float]]:
    """By cost, each candidate that is better than all that cost no more."""
    best = -np.inf
    for candidate, score in sorted(found, key=lambda pair: (search.cost(pair[0]), -pair[1])):
        if score > best:
            best = score
            yield candidate, score


def _is_reference(name: str, candidate: Candidate) -> bool:
    depth, calibration, _ = REFERENCES[name]
    layer = candidate.layers if depth else 1
    row = "classical" if name == "bag of words" else name
    same = (candidate.prompt.name, candidate.layer, candidate.calibration) == (row, layer, calibration)
    return same and candidate.pooling == "mean"


def _calibrated(
    load: Callable[[Recipe], SentenceTransformer], winner: Candidate, texts: Sequence[str]
) -> SentenceTransformer:
    """The winner as a model: cut at its layer, calibrated on all texts."""
    cut = load(replace(winner.recipe, calibration="none"))
    return cut if winner.calibration == "none" else calibrate(cut, texts, winner.calibration)
