"""The search. Each prompt is read once, which gives the pooled vectors of all layers; the rest is computed from these.

1. A small sample of texts is read under all prompts. The best prompts, and those of the references, read all texts.
2. Each layer and pooling is calibrated on texts outside the evidence, and scored on one half of the evidence.
3. The best of these candidates are joined, two at a time.
4. The best candidate within the cost, and the frontier of score against cost, are judged on the other half.

All vectors are kept in a store (``evaluation/layers.py``), so that an interrupted search resumes where it was.

Shapes: N texts that are read, T texts of the evidence, D width of the vectors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sentence_transformers import SentenceTransformer

from echoembed import errors
from echoembed.evaluation.layers import LayerStore
from echoembed.model.calibrate import calibrated_under
from echoembed.model.moments import LEAST_TEXTS
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe
from echoembed.tune import cost, space
from echoembed.tune.evidence import LEAST_PAIRS, Evidence, Halves, LabelledPairs, cut_in_two, halves_of, merits
from echoembed.tune.scores import Scored, Scorer, Trial
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
_PROMPTS = 2  # the prompts of the second round, with labels
_SIDES = 12
"""Candidates that are tried side by side; as many again of those that cost next to nothing."""
_CHEAP = 0.1


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
        prompts: Rows of the table whose prompts are tried; None for all zero-shot rows, and without labels for
            ``space.UNLABELLED``.
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
    names = prompts or (None if evidence.labelled else space.UNLABELLED)
    rows = [row.overridden(budget=budget) for row in space.prompts(names)]
    model = load(cost.BARE)
    if transformer_of(model).int8:
        raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16, to save the model")
    rows = [row for row in rows if _fits(row, model)]
    costs = cost.measured(model, distinct[: cost.TEXTS], rows[0] if rows else cost.BARE)
    scorer = Scorer(model, store, costs, evidence, to_fit)
    # 1. Score all prompts that can be within the cost on a small sample.
    sample = np.sort(np.random.default_rng(seed).permutation(choose)[: len(choose) // 3 + 1])
    if evidence.fault(sample):
        sample = choose
    affordable = [row for row in rows if costs.of(model, row, 1) <= most_cost]
    tried: list[Trial] = []
    for row in affordable:
        scored = scorer.scores(row, sample, SMALL, _FIRST_ROUND)
        tried += [trial for trial in scored if scorer.cost(trial.candidate) <= most_cost]
        say(f"{row.name}: {max((trial.score for trial in scored), default=0.0):.1f} on a sample")
    best: dict[str, float] = {}
    for trial, merit in zip(tried, _merits(tried), strict=True):
        name = trial.candidate.prompt.name
        best[name] = max(merit, best.get(name, -np.inf))
    if not rows:
        raise errors.tune_no_prompt(transformer_of(model).name, transformer_of(model).context)
    if not best:
        raise errors.tune_too_dear(most_cost, min(costs.of(model, row, 1) for row in rows))
    # 2. Score all candidates of the best prompts, and of the references, on all texts.
    count = _PROMPTS if evidence.labelled else len(space.UNLABELLED)
    second_round = sorted(best, key=lambda name: -best[name])[:count]
    trials: list[Trial] = []
    for row in rows:
        if row.name in second_round or row.name in REFERENCES:
            say(f"{row.name}: all layers on all texts")
            trials += scorer.scores(row, choose, LARGE, space.CALIBRATIONS)
    # 3. Score pairs of the best candidates, side by side.
    say("two at a time")
    trials += scorer.side_by_side(_sides(scorer, trials, most_cost), choose)
    # 4. Choose the winner and the frontier, and judge them and the references on the other half.
    merits_of = dict(zip(map(str, (trial.candidate for trial in trials)), _merits(trials), strict=True))
    within = [trial for trial in trials if scorer.cost(trial.candidate) <= most_cost]
    winner = max(within, key=lambda trial: merits_of[str(trial.candidate)])
    frontier = list(_frontier(scorer, trials, merits_of))
    judged = {str(trial.candidate): scorer.judged(trial, judge, seed) for trial in [*frontier, winner]}
    references = {
        name: scorer.judged(trial, judge, seed)
        for name in REFERENCES
        for trial in trials
        if _is_reference(name, trial.candidate)
    }
    say("fitting the winner's calibration on all texts")
    return Tuned(
        winner=judged[str(winner.candidate)],
        frontier=[judged[str(trial.candidate)] for trial in frontier],
        references=references,
        evidence=evidence.name,
        labelled=evidence.labelled,
        candidates=len(trials),
        model=_calibrated(load, winner.candidate, distinct),
    )


def _fits(row: Recipe, model: SentenceTransformer) -> bool:
    """Return whether the model's tokenizer has a template's tokens, such as those of a chat, and its context room."""
    try:
        transformer_of(model).under(row).reader.room()
    except (errors.TemplateError, errors.TextError):
        return False
    return True


def _evidence(texts: Sequence[str], pairs: Sequence[tuple[str, str, float]] | None) -> tuple[list[str], Evidence]:
    """Return texts to fit calibrations on, and evidence to judge candidates by, with no text in common."""
    if pairs is not None:
        evidence: Evidence = LabelledPairs.of(pairs)
        judged = set(evidence.texts)
        to_fit = [text for text in texts if text not in judged]
    else:
        long = [text for text in texts if cut_in_two(text)]
        if len(long) >= LEAST_PAIRS and len(texts) < 2 * LEAST_PAIRS:
            raise errors.tune_too_few("different texts", len(texts), 2 * LEAST_PAIRS)
        evidence = Halves.of(long[: min(JUDGED, max(len(texts) // 2, LEAST_PAIRS))])
        cut = set(long[: len(evidence)])
        to_fit = [text for text in texts if text not in cut]
    if len(to_fit) < LEAST_TEXTS:
        raise errors.tune_too_few("texts that are not among the pairs", len(to_fit), LEAST_TEXTS)
    return to_fit[:LARGE], evidence


def _merits(trials: Sequence[Trial]) -> list[float]:
    return list(map(float, merits([trial.score for trial in trials], [trial.spread for trial in trials])))


def _sides(scorer: Scorer, trials: Sequence[Trial], most_cost: float) -> list[Candidate]:
    """Choose the candidates to try side by side: the best of different prompts and layers, and the best cheap ones."""
    ranked = sorted(zip(_merits(trials), trials, strict=True), key=lambda pair: -pair[0])
    within = [trial.candidate for _, trial in ranked if scorer.cost(trial.candidate) <= most_cost]
    cheap = [candidate for candidate in within if scorer.cost(candidate) <= _CHEAP * most_cost]
    chosen: dict[str, Candidate] = {}
    for group in (within, cheap):
        seen: dict[tuple[str, int], int] = {}
        for candidate in group:
            place = (candidate.prompt.name, candidate.layer)
            seen[place] = seen.get(place, 0) + 1
            if seen[place] == 1 and len(seen) <= _SIDES:
                chosen[str(candidate)] = candidate
    return list(chosen.values())


def _frontier(scorer: Scorer, trials: Sequence[Trial], merit: Mapping[str, float]) -> Iterator[Trial]:
    """Yield, by cost, each candidate that is better than all that cost no more."""
    best = -np.inf
    for trial in sorted(trials, key=lambda trial: (scorer.cost(trial.candidate), -merit[str(trial.candidate)])):
        if merit[str(trial.candidate)] > best:
            best = merit[str(trial.candidate)]
            yield trial


def _is_reference(name: str, candidate: Candidate) -> bool:
    depth, calibration, _ = REFERENCES[name]
    layer = candidate.layers if depth else 1
    row = "classical" if name == "bag of words" else name
    same = (candidate.prompt.name, candidate.layer, candidate.calibration) == (row, layer, calibration)
    return same and candidate.pooling == "mean" and candidate.beside is None


def _calibrated(
    load: Callable[[Recipe], SentenceTransformer], winner: Candidate, texts: Sequence[str]
) -> SentenceTransformer:
    """Return the winner as a model, cut at its layer and calibrated on all texts."""
    cut = load(winner.recipe.without_calibrations())
    return calibrated_under(cut, winner.recipe, texts)
