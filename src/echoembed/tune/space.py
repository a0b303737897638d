"""What is searched: every zero-shot prompt of the table, and on top of each every layer, pooling and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from echoembed.recipe import Pooling, Recipe, recipes

CALIBRATIONS = ("none", "mean", "z-score", "components-1", "components-3", "components-8", "whiten-128")
NAME = "tuned"
"""What the recipe that is found is called."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A point of the space: everything but the prompt is made from one forward's vectors."""

    prompt: Recipe
    """A row of the table under which the whole model reads."""
    layer: int
    """How many layers run."""
    layers: int
    """How many there are."""
    pooling: Pooling
    calibration: str

    @property
    def recipe(self) -> Recipe:
        """The candidate as a recipe of any model of as many layers."""
        layer = -1 if self.layer == self.layers else self.layer
        return replace(
            self.prompt,
            name=NAME,
            layer=layer,
            pooling=self.pooling,
            calibration=self.calibration,
            source="",
            description=f"The prompt of {self.prompt.name!r}, as 'echoembed tune' found it best.",
        )

    def __str__(self) -> str:
        parts = [f"layer {self.layer} of {self.layers}", self.pooling, self.calibration]
        return ", ".join([self.prompt.name, *parts])


def prompts(names: Sequence[str] | None = None) -> list[Recipe]:
    """The rows whose prompts are searched, one for each prompt.

    Args:
        names: Rows of the table; None for all that any causal language model can read without training.
    """
    rows = (
        [row for row in recipes.values() if _is_zero_shot(row)] if names is None else [recipes[name] for name in names]
    )
    different: dict[tuple[object, ...], Recipe] = {}
    for row in rows:
        whole = replace(row, layer=-1, depth=None, calibration="none")
        key = (row.query_template, row.document_template, row.markers, row.preparation, row.instruction)
        different.setdefault(key, whole)
    return list(different.values())


def _is_zero_shot(row: Recipe) -> bool:
    return row.attention == "causal" and not row.trained and not row.checkpoint


def poolings(prompt: Recipe) -> tuple[Pooling, ...]:
    """The poolings that make sense for a prompt: where no text is pooled, only its last token has read all of it."""
    pooled = {part.slot for part in prompt.template("query").parts if part.pooled}
    return ("mean", "weighted-mean", "last") if "text" in pooled else ("last",)


def candidates(prompt: Recipe, layers: int, calibrations: Sequence[str] = CALIBRATIONS) -> Iterator[Candidate]:
    """All candidates of a prompt, those of one layer and pooling together."""
    for layer in range(layers + 1):
        for pooling in poolings(prompt):
            if layer == 0 and pooling == "last":
                continue  # the embedding of a token, whatever the text
            for calibration in calibrations:
                yield Candidate(prompt=prompt, layer=layer, layers=layers, pooling=pooling, calibration=calibration)
