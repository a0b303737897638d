"""Recipes: each system the paper compares is one frozen row of one table.

The rows are in ``recipes.toml`` beside this file, and a user's own rows have the same form. A
recipe says everything that decides a vector apart from the weights: how a query and a document are
written, which states are pooled and how, under which attention, from which layer, and how much of
a text is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from echoembed import errors
from echoembed.checks import SHARE, Check, check_fields
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.reader import Overflow, Reader
from echoembed.prompts.template import SLOTS, Template
from echoembed.prompts.template import Kind as Kind

Attention = Literal["causal", "bidirectional"]
Pooling = Literal["mean", "last", "weighted-mean", "first"]
Preparation = Literal["none", "prompteol"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How texts become vectors.

    Raises:
        RecipeError: If a field has a value that is not allowed; the message names both.
        TemplateError: If a template is not valid (see ``Template``).
    """

    name: str
    """What it is called in the table and on the command line."""
    query_template: str
    """Template of queries, and of all texts where no task is given (grammar: ``prompts/template.py``)."""
    document_template: str = ""
    """Template of documents; the query template unless given."""
    pooling: Pooling = "mean"
    """What becomes of the pooled states: their mean, the last, the first, or the mean weighted 1, 2, 3, …"""
    attention: Attention = "causal"
    """Whether a token sees the tokens after it. Checked when a model is loaded."""
    layer: int = -1
    """Layer whose states are pooled: 0 the token embeddings, k the k-th layer, -1 the last after its norm."""
    depth: float | None = None
    """In place of ``layer``: the share of the model's layers that run, above 0 and at most 1; the nearest layer."""
    calibration: str = "none"
    """The affine map of pooled vectors that is fitted on texts: one of ``CALIBRATIONS`` (see ``model/moments.py``)."""
    budget: int | None = 512
    """Most tokens of text, for each reading; None for what the model's context holds."""
    instruction: str = ""
    """What stands in ``{instruction}`` where the caller gives no prompt."""
    markers: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    """Further slots: name → the string, or the added token, it stands for. Unlike literals they can be pooled."""
    preparation: Preparation = "none"
    """What is done to a text first: ``prompteol`` sets its final full stop and its quotes."""
    checkpoint: str = ""
    """The published model the row belongs to: loaded where no model is named, and picks the row where it is."""
    adapters: tuple[str, ...] = ()
    """Published adapters that are merged into the checkpoint, in order."""
    trained: bool = False
    """Whether the row only means something with weights that were trained for it."""
    tuned_for: str = ""
    """The model whose weights the row's calibration in the package is of; on others the row is refused."""
    source: str = ""
    """The paper's section or table, or the publication."""
    description: str = ""
    """What it is, in a line."""

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen after this
        set_(self, "document_template", self.document_template or self.query_template)
        given = self.markers
        if isinstance(given, Mapping):
            set_(self, "markers", tuple(sorted(given.items(), key=lambda marker: str(marker[0]))))

        def refuse(field: str, value: object, allowed: str) -> errors.RecipeError:
            return errors.recipe_bad_field(self.name, field, given if field == "markers" else value, allowed)

        check_fields(self, refuse, _CHECKS)
        if self.depth is not None and self.layer != -1:
            raise refuse("depth", self.depth, f"left out beside layer = {self.layer}, or the layer left out")
        for kind in get_args(Kind):
            self.template(kind)

    def template(self, kind: Kind) -> Template:
        """The parsed template of queries or of documents."""
        return self._templates[kind]

    @cached_property
    def _templates(self) -> dict[str, Template]:
        return {
            "query": Template(self.query_template, self.markers),
            "document": Template(self.document_template, self.markers),
        }

    def overridden(self, *, layer: int | None = None, budget: int | None = None) -> Recipe:
        """The same recipe with another layer or budget, where one is given; a layer takes the place of a depth."""
        changes: dict[str, Any] = {} if layer is None else {"layer": layer, "depth": None}
        changes |= {} if budget is None else {"budget": budget}
        return Recipe(**{**self.as_dict(), **changes}) if changes else self

    def differs_in_budget_alone(self, other: Recipe) -> bool:
        """Whether texts within both budgets have the same vectors under both recipes."""
        return replace(self, budget=None).fingerprint() == replace(other, budget=None).fingerprint()

    def layer_of(self, count: int) -> int:
        """The layer whose states are pooled, of a model with ``count`` layers; negative ones count from the end."""
        return self.layer if self.depth is None else math.floor(self.depth * count + 0.5)

    def reader(self, pieces: PieceTokenizer, *, context: int | None, overflow: Overflow = "warn") -> Reader:
        """What renders texts by this recipe for a model.

        Args:
            pieces: The model's tokenizer.
            context: Most tokens the model reads at once; None if nothing limits it.
            overflow: What becomes of a text over the budget (see ``Reader``).

        Raises:
            TemplateError: If a template does not fit the tokenizer.
        """
        return Reader.of(
            {kind: self.template(kind) for kind in get_args(Kind)},
            pieces,
            recipe=self.name,
            budget=self.budget,
            context=context,
            instruction=self.instruction,
            prepare=partial(prepare, preparation=self.preparation),
            overflow=overflow,
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything in the recipe that decides a vector; name and notes are left out.

        A field that came after the first release is left out, too, where it stands at its default: the recipes of
        that time are hashed as they were, and vectors that were stored then can still be compared.
        """
        notes = {"name", "checkpoint", "adapters", "trained", "tuned_for", "source", "description"}
        plain, default = self.as_dict(), _DEFAULTS
        decides = {
            key: value
            for key, value in plain.items()
            if key not in notes and (key in _FIRST_RELEASE or value != default[key])
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON and TOML can hold them; ``Recipe(**recipe.as_dict())`` is the same recipe."""
        plain: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**plain, "markers": dict(self.markers), "adapters": list(self.adapters)}


_FIRST_RELEASE = (
    "query_template",
    "document_template",
    "pooling",
    "attention",
    "layer",
    "budget",
    "instruction",
    "markers",
    "preparation",
)
"""Fields that decide vectors and that recipes have had from the beginning, in no need of a default."""


CALIBRATIONS = "none, mean, z-score, components-K, whiten-K (K a whole number above 0), spectrum-R (R above 1)"
"""What a recipe's ``calibration`` can be."""


def calibration_parts(name: str) -> tuple[str, int] | None:
    """A calibration's kind and its number, 0 where it has none; None for a name that is no calibration."""
    if name in ("none", "mean", "z-score"):
        return name, 0
    match = re.fullmatch(r"(components|whiten|spectrum)-([1-9][0-9]{0,5})", name)
    if match is None or match[0] == "spectrum-1":
        return None
    return match[1], int(match[2])


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_marker(pair: tuple[str, ...]) -> bool:
    return len(pair) == 2 and pair[0].isidentifier() and pair[0] not in SLOTS and pair[1] != "" and _is_text(pair[1])


_TEXT = Check(_is_text, "a string of valid Unicode")
_CHECKS = {
    "name": Check(lambda name: bool(name.strip()), "a name that is not blank"),
    "query_template": _TEXT,
    "document_template": _TEXT,
    "instruction": _TEXT,
    "checkpoint": _TEXT,
    "tuned_for": _TEXT,
    "source": _TEXT,
    "description": _TEXT,
    "layer": Check(lambda _: True, "a whole number, -1 for the last layer"),
    "depth": Check(lambda depth: depth is None or SHARE.passes(depth), f"{SHARE.allowed}, or left out"),
    "calibration": Check(lambda name: calibration_parts(name) is not None, CALIBRATIONS),
    "budget": Check(
        lambda budget: budget is None or budget > 0, "a whole number of tokens above 0, or None for the model's context"
    ),
    "markers": Check(
        lambda markers: all(map(_is_marker, markers)),
        f"a table of slot names (other than {', '.join(SLOTS)}) to strings that are not empty",
    ),
    "adapters": Check(all, "a list of names"),
}


def prepare(text: str, preparation: Preparation) -> str:
    """A text as its recipe wants it before it is tokenised.

    ``prompteol`` (Jiang et al. 2023, "Scaling sentence embeddings with large language models"): double
    quotes become single ones, as double ones enclose the text in the prompt, and the sentence ends in
    one full stop, also where it asked. The full stop itself stands in the template: it shares a token
    with the quote behind it, which must be there even when the text is cut.
    """
    if preparation == "none":
        return text
    unended = text[:-1] if text[-1:] in (".", "?") and text[:-1].strip() else text
    return unended.replace('"', "'")


def load_recipes(path: str | Path) -> dict[str, Recipe]:
    """Read recipes from a TOML file: a table per recipe, its keys the fields of ``Recipe``.

    Raises:
        RecipeError: If the file is missing or no TOML, or a table has an unknown key or a bad value.
        TemplateError: If a template cannot be.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise errors.recipe_file_unreadable(path, str(error)) from error
    known = [entry.name for entry in fields(Recipe) if entry.name != "name"]
    rows = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise errors.recipe_file_unreadable(path, f"{name} is no table")
        for key in table:
            if key not in known:
                raise errors.recipe_file_unknown_key(path, name, key, known)
        if "query_template" not in table:
            raise errors.recipe_file_unreadable(path, f"the recipe {name} has no query_template")
        rows[name] = Recipe(name=name, **table)
    return rows


_DEFAULTS = Recipe(name="default", query_template="{text:pool}").as_dict()

recipes: Mapping[str, Recipe] = MappingProxyType(load_recipes(Path(__file__).with_name("recipes.toml")))
"""The table: name → recipe."""


def find_recipe(recipe: str | Recipe) -> Recipe:
    """The recipe itself, or the row of that name.

    Raises:
        RecipeError: If there is no such row.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str) or recipe not in recipes:
        raise errors.recipe_unknown(recipe, recipes)
    return recipes[recipe]


def recipe_of_checkpoint(name: str) -> Recipe | None:
    """The row a published checkpoint belongs to, if it is the checkpoint of exactly one trained row."""
    rows = [row for row in recipes.values() if name.lower() in (row.checkpoint.lower(), *map(str.lower, row.adapters))]
    last = [row for row in rows if not row.adapters or row.adapters[-1].lower() == name.lower()]
    return last[0] if len(last) == 1 else None
