"""The candidates of a search: every zero-shot prompt with every layer, pooling and calibration, and two together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from echoembed.recipe import Pooling, Recipe, recipes

CALIBRATIONS = ("none", "mean", "z-score", "components-1", "components-8", "z-components-8", "whiten-128")
UNLABELLED = ("prompteol", "echo", "echo-deep", "classical")
"""The rows whose prompts are searched without labels. The choice without labels was compared with true scores on these,
their mean or last token, and a bag of words beside them; among more, it picks what suits its score and nothing else."""
BAG = ("classical", 1)
"""The prompt and the layer of a bag of words."""
NAME = "tuned"
"""The name of the recipe that a search returns."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A point of the space. All candidates with the same prompt come from one forward."""

    prompt: Recipe
    """A row of the table with the candidate's prompt, which pools the model's last layer."""
    layer: int
    """The number of layers that run."""
    layers: int
    """The number of layers that the model has."""
    pooling: Pooling
    calibration: str
    beside: Candidate | None = None
    """A second candidate, at most as deep, whose vectors are appended to these; None for a single one."""

    @property
    def parts(self) -> tuple[Candidate, ...]:
        """The candidate, and the second one if there is one, each by itself."""
        return (replace(self, beside=None), *(() if self.beside is None else (self.beside,)))

    @property
    def recipe(self) -> Recipe:
        """The candidate as a recipe for any model with as many layers."""
        layer = -1 if self.layer == self.layers else self.layer
        names = " and ".join(repr(part.prompt.name) for part in self.parts)
        return replace(
            self.prompt,
            name=NAME,
            layer=layer,
            pooling=self.pooling,
            calibration=self.calibration,
            beside=() if self.beside is None else (replace(self.beside.recipe, name=f"{NAME}, 2"),),
            source="",
            description=f"The prompt of {names}, as 'echoembed tune' found it best.",
        )

    def __str__(self) -> str:
        parts = [
            f"{part.prompt.name}, layer {part.layer} of {part.layers}, {part.pooling}, {part.calibration}"
            for part in self.parts
        ]
        return " beside ".join(parts)


def side_by_side(candidates: Sequence[Candidate], *, labelled: bool = True) -> Iterator[Candidate]:
    """Yield pairs of candidates with different layers or prompts, the deeper candidate first.

    Args:
        candidates: The candidates.
        labelled: Whether the choice is made by labels; if not, the second one is a bag of words.
    """
    for left, right in combinations(candidates, 2):
        deep, flat = (left, right) if left.layer >= right.layer else (right, left)
        different = (deep.prompt, deep.layer) != (flat.prompt, flat.layer)
        if different and (labelled or (flat.prompt.name, flat.layer) == BAG):
            yield replace(deep, beside=flat)


def prompts(names: Sequence[str] | None = None) -> list[Recipe]:
    """Return the rows whose prompts are searched, one row for each different prompt.

    Args:
        names: Names of rows; None for all rows for causal language models without training.
    """
    rows = (
        [row for row in recipes.values() if _is_zero_shot(row)] if names is None else [recipes[name] for name in names]
    )
    by_prompt: dict[tuple[object, ...], Recipe] = {}
    for row in rows:
        key = (row.query_template, row.document_template, row.markers, row.preparation, row.instruction)
        by_prompt.setdefault(key, replace(row.prompts[0], layer=-1, depth=None, calibration="none"))
    return list(by_prompt.values())


def _is_zero_shot(row: Recipe) -> bool:
    return row.attention == "causal" and not (row.trained or row.checkpoint or row.beside)


def poolings(prompt: Recipe, *, labelled: bool = True) -> tuple[Pooling, ...]:
    """Return the poolings to try for a prompt; if it pools no text, only its last token has read the whole text."""
    pooled = {part.slot for part in prompt.template("query").parts if part.pooled}
    if "text" not in pooled:
        return ("last",)
    return ("mean", "weighted-mean", "last") if labelled else ("mean",)


def candidates(
    prompt: Recipe, layers: int, calibrations: Sequence[str] = CALIBRATIONS, *, labelled: bool = True
) -> Iterator[Candidate]:
    """Yield all candidates of a prompt, those with the same layer and pooling together."""
    for layer in range(layers + 1):
        for pooling in poolings(prompt, labelled=labelled):
            if layer == 0 and pooling == "last":
                continue  # a token embedding, which is the same for all texts
            for calibration in calibrations:
                yield Candidate(prompt=prompt, layer=layer, layers=layers, pooling=pooling, calibration=calibration)
