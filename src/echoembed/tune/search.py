"""The search. Each prompt is read once, which gives the pooled vectors of all layers; the rest is computed from these.

1. A small sample of texts is read under all prompts. The best prompts, and those of the references, read all texts.
2. Each layer and pooling is calibrated on texts outside the evidence, and scored on one half of the evidence.
3. The best candidate within the cost, and the frontier of score against cost, are judged on the other half.

All vectors are kept in a store (``evaluation/layers.py``), so that an interrupted search resumes where it was.

Shapes: N texts that are read, T texts of the evidence, D width of the vectors.
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
"""References, which are always judged beside the winner: depth, calibration, description."""
SMALL, LARGE = 192, 512
"""The number of texts that calibrations are fitted on in the first round, and in the second."""
JUDGED = 400
"""The most texts that are cut in two if there are no labels."""
_FIRST_ROUND = ("none", "mean", "z-score")
_PROMPTS = 2  # the prompts of the second round


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A candidate with its scores, × 100."""

    candidate: Candidate
    cost: float
    """The cost in units of a stock classical embedding."""
    chosen: float
    """The score on the half by which the winner is chosen; it flatters the best of many candidates."""
    judged: float
    """The score on the other half."""
    low: float
    high: float
    """The bootstrap's 95 % interval of ``judged``, from ``low`` to ``high``."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The results of a search."""

    winner: Scored
    frontier: list[Scored]
    """The candidates, by cost, that are better than all that cost less."""
    references: dict[str, Scored]
    evidence: str
    labelled: bool
    candidates: int
    """The number of candidates that were scored on all texts."""
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
    """Find a model's best zero-shot recipe for some texts.

    Args:
        load: Loads the model under a recipe, as ``echoembed.load`` does.
        texts: Some hundreds or thousands of texts of the kind that will be embedded, without labels.
        pairs: Pairs of texts with a judgement of how similar they are; None to judge by ``texts`` alone.
        most_cost: The most that embedding may cost, in units of a stock classical embedding on this machine.
        store: Keeps the vectors that are read.
        prompts: Rows of the table whose prompts are tried; None for all zero-shot rows.
        budget: The most tokens of text in each copy; None for each row's own budget.
        seed: The seed of samples and of the bootstrap.
        say: Called with a line of progress now and then.

    Returns:
        The winner, the references, and the model under the winner's recipe, calibrated on ``texts``.

    Raises:
        DataError: If there are too few texts or pairs, or no candidate is within the cost.
    """
    distinct = list(dict.fromkeys(texts))
    random.Random(seed).shuffle(distinct)  # noqa: S311
    to_fit, evidence = _evidence(distinct, pairs)
    choose, judge = halves_of(evidence, seed)
    rows = [row.overridden(budget=budget) for row in space.prompts(prompts)]
    model = load(rows[0])
    costs = cost.measured(model, distinct[: cost.TEXTS], rows[0])
    search = _Search(model, store, costs, evidence, to_fit)
    # 1. Read a small sample under all prompts of which some candidate can be within the cost.
    rows = [row for row in rows if _fits(row, model)]
    affordable = [row for row in rows if costs.of(model, row, 1) <= most_cost]
    best: dict[str, float] = {}
    for row in affordable:
        sampled = search.scores(row, choose[: len(choose) // 3 + 1], SMALL, _FIRST_ROUND)
        within = [score for candidate, score in sampled if search.cost(candidate) <= most_cost]
        best[row.name] = max(within, default=0.0)
        say(f"{row.name}: {best[row.name]:.1f} on a sample")
    if not best:
        raise errors.tune_too_dear(most_cost, min(costs.of(model, row, 1) for row in rows))
    # 2. Read all texts under the best of these prompts, and under those of the references.
    second_round = sorted(best, key=lambda name: -best[name])[:_PROMPTS]
    scored: list[tuple[Candidate, float]] = []
    for row in rows:
        if row.name in second_round or row.name in REFERENCES:
            say(f"{row.name}: all layers on all texts")
            scored += search.scores(row, choose, LARGE, space.CALIBRATIONS)
    # 3. Judge the winner, the frontier and the references on the half by which nothing was chosen.
    frontier = list(_frontier(search, scored))
    winner = max((pair for pair in scored if search.cost(pair[0]) <= most_cost), key=lambda pair: pair[1])
    judged = {str(pair[0]): search.judged(*pair, judge, seed) for pair in [*frontier, winner]}
    references = {
        name: search.judged(candidate, score, judge, seed)
        for name in REFERENCES
        for candidate, score in scored
        if _is_reference(name, candidate)
    }
    say("fitting the winner's calibration on all texts")
    return Tuned(
        winner=judged[str(winner[0])],
        frontier=[judged[str(candidate)] for candidate, _ in frontier],
        references=references,
        evidence=evidence.name,
        labelled=pairs is not None,
        candidates=len(scored),
        model=_calibrated(load, winner[0], distinct),
    )


def _fits(row: Recipe, model: SentenceTransformer) -> bool:
    """Return whether the model's tokenizer has the tokens that a template needs, such as those of a chat."""
    try:
        transformer_of(model).under(row)
    except errors.TemplateError:
        return False
    return True


def _evidence(texts: Sequence[str], pairs: Sequence[tuple[str, str, float]] | None) -> tuple[list[str], Evidence]:
    """Return texts to fit calibrations on, and evidence to judge candidates by, with no text in common."""
    if pairs is not None:
        evidence: Evidence = LabelledPairs.of(pairs)
        judged = set(evidence.texts)
        to_fit = [text for text in texts if text not in judged]
    else:
        count = min(JUDGED, len(texts) // 2)
        evidence, to_fit = Halves.of(texts[:count]), list(texts[count:])
    if len(to_fit) < LEAST_TEXTS:
        raise errors.tune_too_few("texts that are not among the pairs", len(to_fit), LEAST_TEXTS)
    return to_fit[:LARGE], evidence


class _Search:
    """Scores candidates."""

    def __init__(
        self, model: SentenceTransformer, store: LayerStore, costs: cost.Costs, evidence: Evidence, to_fit: list[str]
    ) -> None:
        self.model, self.store, self.costs, self.evidence, self.to_fit = model, store, costs, evidence, to_fit
        self.layers = transformer_of(model).layers
        self._costs: dict[str, float] = {}

    def cost(self, candidate: Candidate) -> float:
        """Return a candidate's cost in units; the cost of a layer is computed once per prompt."""
        name = candidate.prompt.name
        if name not in self._costs:
            self._costs[name] = self.costs.of(self.model, candidate.prompt, 1)
        return self._costs[name] * candidate.layer

    def scores(
        self, prompt: Recipe, sample: NDArray[np.int64], fit_on: int, calibrations: Sequence[str]
    ) -> list[tuple[Candidate, float]]:
        """Score every candidate of a prompt on a sample of the evidence."""
        candidates = list(space.candidates(prompt, self.layers, calibrations))
        used = np.unique(np.concatenate([self.evidence.left_N[sample], self.evidence.right_N[sample]]))
        return [
            (candidate, self.evidence.score(self.evidence.values(vectors_TD), sample))
            for candidate, vectors_TD in self._vectors(candidates, used, self.to_fit[:fit_on])
        ]

    def judged(self, candidate: Candidate, chosen: float, judge: NDArray[np.int64], seed: int) -> Scored:
        """Score a candidate on the other half, with an interval."""
        everything = np.arange(len(self.evidence.texts))
        ((_, vectors_TD),) = self._vectors([candidate], everything, self.to_fit)
        values_N = self.evidence.values(vectors_TD)
        low, high = self.evidence.interval(values_N, judge, seed)
        score = self.evidence.score(values_N, judge)
        return Scored(candidate=candidate, cost=self.cost(candidate), chosen=chosen, judged=score, low=low, high=high)

    def _vectors(
        self, candidates: Sequence[Candidate], used: NDArray[np.int64], to_fit: Sequence[str]
    ) -> Iterator[tuple[Candidate, Vectors]]:
        """Yield unit vectors ``_TD`` of the evidence's texts under each candidate; unused texts have zeros."""
        whole = under(self.model, candidates[0].prompt)
        reader = transformer_of(whole).reader
        texts = [self.evidence.texts[place] for place in used]
        prompts = [*reader.render(to_fit), *reader.render(texts)]
        self.store.fill(whole, prompts)
        directions = any(candidate.calibration.startswith(("components", "whiten")) for candidate in candidates)
        for (layer, pooling), group in groupby(candidates, key=lambda each: (each.layer, each.pooling)):
            pooled_ND = self.store.vectors(whole, prompts, [layer], pooling)[:, 0]
            moments = Moments(full=directions)
            moments.add(pooled_ND[: len(to_fit)])
            for candidate in group:
                try:
                    calibrated_ND = _calibrated_vectors(candidate.calibration, moments, pooled_ND[len(to_fit) :])
                except errors.ModelError:  # a constant dimension, as in some first layers, or too few texts
                    continue
                length_N1 = np.linalg.norm(calibrated_ND, axis=1, keepdims=True)
                vectors_TD = np.zeros((len(self.evidence.texts), calibrated_ND.shape[1]), dtype=np.float32)
                vectors_TD[used] = calibrated_ND / np.maximum(length_N1, np.finfo(np.float32).tiny)
                yield candidate, vectors_TD


def _calibrated_vectors(kind: str, moments: Moments, pooled_ND: Vectors) -> Vectors:
    """Calibrate many vectors at once, to the results of ``Calibration``."""
    if kind == "none":
        return pooled_ND
    arrays = {name: array.astype(np.float32) for name, array in map_of(kind, moments).items()}
    moved_ND: Vectors = (pooled_ND - arrays["shift_D"]) * arrays.get("scale_D", np.float32(1))
    if "matrix_DK" not in arrays:
        return moved_ND
    along_NK: Vectors = moved_ND @ arrays["matrix_DK"]
    return moved_ND - along_NK @ arrays["matrix_DK"].T if kind.startswith("components") else along_NK


def _frontier(search: _Search, scored: Sequence[tuple[Candidate, float]]) -> Iterator[tuple[Candidate, float]]:
    """Yield, by cost, each candidate that is better than all that cost no more."""
    best = -np.inf
    for candidate, score in sorted(scored, key=lambda pair: (search.cost(pair[0]), -pair[1])):
        if score > best:
            best = score
            yield candidate, score


def _is_reference(name: str, candidate: Candidate) -> bool:
    depth, calibration, _ = REFERENCES[name]
    layer = candidate.layers if depth else 1
    row = "classical" if name == "bag of words" else name
    point = (candidate.prompt.name, candidate.layer, candidate.calibration, candidate.pooling)
    return point == (row, layer, calibration, "mean")


def _calibrated(
    load: Callable[[Recipe], SentenceTransformer], winner: Candidate, texts: Sequence[str]
) -> SentenceTransformer:
    """Load the winner as a model: cut at its layer, and calibrated on all texts."""
    cut = load(replace(winner.recipe, calibration="none"))
    return cut if winner.calibration == "none" else calibrate(cut, texts, winner.calibration)
