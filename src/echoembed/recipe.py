"""Recipes: each system that the paper compares is one frozen row of one table.

The rows are in ``recipes.toml`` beside this file, and a user's own rows have the same form. A recipe says everything,
apart from the weights, that decides a vector: the templates of queries and documents, which states are pooled and how,
the attention, the layer, the calibration, and how much of a text is read.
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
from echoembed.prompts.text import Preparation, prepare

Attention = Literal["causal", "bidirectional"]
Pooling = Literal["mean", "last", "weighted-mean", "first", "frequency-mean", "attention-mean"]
Join = Literal["concatenate", "mean"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How texts become vectors.

    Raises:
        RecipeError: If a field has a value that is not allowed.
        TemplateError: If a template is not valid (see ``Template``).
    """

    name: str
    """The name in the table and on the command line."""
    query_template: str
    """The template of queries, and of all texts without a task (grammar: ``prompts/template.py``)."""
    document_template: str = ""
    """The template of documents; if empty, the query template."""
    pooling: Pooling = "mean"
    """Which vector is made of the pooled states: their mean, the last, the first, or a weighted mean: with weights 1,
    2, 3, …, by how rare each token is (``model/frequencies.py``), or by attention read backwards
    (``model/hindsight.py``)."""
    attention: Attention = "causal"
    """Whether a query token attends only to earlier tokens, or to all. Checked when a model is loaded."""
    layer: int = -1
    """The layer whose states are pooled: 0 for the token embeddings, k for the k-th layer, -1 for the last, after its
    norm."""
    depth: float | None = None
    """In place of ``layer``: the share of the model's layers that run, above 0 and at most 1, to the nearest layer."""
    calibration: str = "none"
    """The affine map of pooled vectors that is fitted on texts: one of ``CALIBRATIONS`` (see ``model/moments.py``)."""
    hindsight: str = "none"
    """How, and in which layers, all tokens see the last one: one of ``HINDSIGHTS`` (see ``model/hindsight.py``)."""
    budget: int | None = 512
    """The most tokens of text in each copy; None for as many as the model's context holds."""
    instruction: str = ""
    """What fills ``{instruction}`` if the caller gives no prompt."""
    markers: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    """Further slots: name → the string, or the added token, of the slot. Unlike literals, markers can be pooled."""
    preparation: Preparation = "none"
    """How a text is changed before it is tokenised: ``prompteol`` changes its quotes and its final full stop."""
    beside: tuple[Recipe, ...] = ()
    """Further prompts, each a recipe with one prompt that pools no deeper layer than this one: recipes, names of rows,
    or tables of fields. Each prompt's vector is calibrated by itself and scaled to length 1; then all are joined."""
    join: Join = "concatenate"
    """How the vectors of several prompts are joined: end to end, or as their mean."""
    checkpoint: str = ""
    """The published model of the row. It is loaded if no model is named; if it is named, this row is the default."""
    adapters: tuple[str, ...] = ()
    """Published adapters to merge into the checkpoint, in order."""
    trained: bool = False
    """Whether the row needs weights that were trained for it."""
    tuned_for: str = ""
    """The model on which the row's calibration in the package was fitted; other models are refused."""
    source: str = ""
    """The paper's section or table, or another publication."""
    description: str = ""
    """A description in one line."""

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen after this
        set_(self, "document_template", self.document_template or self.query_template)
        as_given = {"markers": self.markers, "beside": self.beside}
        if isinstance(self.markers, Mapping):
            set_(self, "markers", tuple(sorted(self.markers.items(), key=lambda marker: str(marker[0]))))
        if isinstance(self.beside, (list, tuple)):
            parts = [_part(part, f"{self.name}, {place}") for place, part in enumerate(self.beside, 2)]
            set_(self, "beside", tuple(parts))

        def refuse(field: str, value: object, allowed: str) -> errors.RecipeError:
            return errors.recipe_bad_field(self.name, field, as_given.get(field, value), allowed)

        check_fields(self, refuse, _CHECKS)
        if any(part.attention != self.attention for part in self.beside):
            raise refuse("beside", self.beside, f"recipes with attention = {self.attention!r}, as it has itself")
        if self.depth is not None and self.layer != -1:
            raise refuse("depth", self.depth, f"left out beside layer = {self.layer}, or the layer left out")
        if self.looks_back and self.attention != "causal":
            field = "pooling" if self.hindsight == "none" else "hindsight"
            raise refuse(
                field, getattr(self, field), "another with bidirectional attention, in which all tokens see all"
            )
        for kind in get_args(Kind):
            self.template(kind)

    def template(self, kind: Kind) -> Template:
        """Return the parsed template of queries or of documents."""
        return self._templates[kind]

    @cached_property
    def _templates(self) -> dict[str, Template]:
        return {
            "query": Template(self.query_template, self.markers),
            "document": Template(self.document_template, self.markers),
        }

    def overridden(self, *, layer: int | None = None, budget: int | None = None) -> Recipe:
        """Return the recipe with another layer or budget, if given; a layer replaces a depth."""
        if budget is not None and (type(budget) is not int or budget < 1):
            raise errors.ModelError.bad_value("budget", budget, "a whole number of tokens above 0; None: the recipe's")
        changes: dict[str, Any] = {} if layer is None else {"layer": layer, "depth": None}
        changes |= {} if budget is None else {"budget": budget}
        if not changes:
            return self
        beside = [part.overridden(layer=layer, budget=budget) for part in self.beside]
        return Recipe(**{**self.as_dict(), **changes, "beside": beside})

    @property
    def prompts(self) -> tuple[Recipe, ...]:
        """The recipe of each prompt by itself: this one's, then those beside it."""
        return (replace(self, beside=(), join="concatenate"), *self.beside)

    @property
    def looks_back(self) -> bool:
        """Whether attention is changed or read, which the padded forward alone can do."""
        return self.hindsight != "none" or self.pooling == "attention-mean"

    @property
    def needs_prompts(self) -> bool:
        """Whether ids in padded tensors are not enough to make a vector."""
        return bool(self.beside) or self.looks_back or self.pooling == "frequency-mean"

    def sees_text(self, layer: int) -> bool:
        """Whether vectors of a layer, counted from 0, depend on the text, for queries and for documents."""
        ends = {"first": slice(0, 1), "last": slice(-1, None)}.get(self.pooling, slice(None))
        blind = layer == 0 or (self.attention == "causal" and self.hindsight == "none")
        for parts in (self.template(kind).parts for kind in get_args(Kind)):
            pooled = [place for place, part in enumerate(parts) if part.pooled][ends]
            seen = range(pooled[0] if layer == 0 else 0, pooled[-1] + 1)
            if blind and not any(parts[place].slot == "text" for place in seen):
                return False
        return True

    @property
    def counts_tokens(self) -> bool:
        """Whether a prompt is pooled by the frequencies of tokens."""
        return any(prompt.pooling == "frequency-mean" for prompt in self.prompts)

    def without_calibrations(self) -> Recipe:
        """The same recipe, no prompt of it calibrated."""
        return replace(self, calibration="none", beside=tuple(part.without_calibrations() for part in self.beside))

    def differs_in_budget_alone(self, other: Recipe) -> bool:
        """Return whether texts within both budgets have the same vectors under both recipes."""
        return self._of_any_budget() == other._of_any_budget()

    def _of_any_budget(self) -> tuple[str, ...]:
        return self.join * bool(self.beside), *(replace(prompt, budget=None).fingerprint() for prompt in self.prompts)

    def layer_of(self, count: int) -> int:
        """Return the layer to pool in a model with ``count`` layers; negative layers count from the end."""
        return self.layer if self.depth is None else math.floor(self.depth * count + 0.5)

    def reader(self, pieces: PieceTokenizer, *, context: int | None, overflow: Overflow = "warn") -> Reader:
        """Return the reader that renders texts by this recipe for a model.

        Args:
            pieces: The model's tokenizer.
            context: The most tokens that the model reads at once; None if nothing limits them.
            overflow: What to do with a text over the budget (see ``Reader``).

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
            beside=tuple(part.reader(pieces, context=context, overflow=overflow) for part in self.beside),
        )

    def fingerprint(self) -> str:
        """Hash all fields that decide a vector to 16 hexadecimal digits; name and notes are left out.

        A field that was added after the first release is left out where it has its default, so that older hashes hold.
        """
        notes = {"name", "checkpoint", "adapters", "trained", "tuned_for", "source", "description"}
        plain = {**self.as_dict(), "beside": [part.fingerprint() for part in self.beside]}
        decides = {
            key: value
            for key, value in plain.items()
            if key not in notes and (key in _FIRST_RELEASE or value != _DEFAULTS[key])
        }
        if any(self.template(kind).mixed for kind in get_args(Kind)):
            decides["copies"] = "each as it stands"  # in the first release, all had the first one's blank
        if not self.beside:
            decides.pop("join", None)  # nothing is joined
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields in plain values for JSON and TOML; ``Recipe(**recipe.as_dict())`` is the same recipe."""
        plain: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        beside = [part.as_dict() for part in self.beside]
        return {**plain, "markers": dict(self.markers), "beside": beside, "adapters": list(self.adapters)}


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
"""The fields of the first release that decide vectors; they are hashed even where they have their defaults."""


CALIBRATIONS = "none, mean, z-score, components-K, z-components-K, whiten-K (K above 0), spectrum-R (R above 1)"
"""The allowed values of a recipe's ``calibration``."""


def calibration_parts(name: str) -> tuple[str, int] | None:
    """Split a calibration into its kind and its number (0 if it has none); None if it is no calibration."""
    if name in ("none", "mean", "z-score"):
        return name, 0
    match = re.fullmatch(r"(components|z-components|whiten|spectrum)-([1-9][0-9]{0,5})", name)
    if match is None or match[0] == "spectrum-1":
        return None
    return match[1], int(match[2])


HINDSIGHTS = "none, slot-A-B, keys-A-B (A and B the first and the last layer of it, counted from 1)"
"""The allowed values of a recipe's ``hindsight``."""


def hindsight_parts(name: str) -> tuple[str, int, int]:
    """Split a hindsight into its kind and its first and last layer (0 if it has none); ("", 0, 0) if it is none."""
    if name == "none":
        return name, 0, 0
    match = re.fullmatch(r"(slot|keys)-([1-9][0-9]{0,3})-([1-9][0-9]{0,3})", name)
    if match is None or int(match[2]) > int(match[3]):
        return "", 0, 0
    return match[1], int(match[2]), int(match[3])


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_marker(pair: tuple[str, ...]) -> bool:
    return len(pair) == 2 and pair[0].isidentifier() and pair[0] not in SLOTS and pair[1] != "" and _is_text(pair[1])


def _part(given: object, name: str) -> object:
    """What stands beside a recipe, as a recipe; left as it is where it is none."""
    if isinstance(given, str):
        return find_recipe(given)
    if not isinstance(given, Mapping) or not given.keys() <= {entry.name for entry in fields(Recipe)}:
        return given
    return Recipe(**{"name": name, **given}) if "query_template" in given else given


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
    "hindsight": Check(lambda name: hindsight_parts(name)[0] != "", HINDSIGHTS),
    "budget": Check(lambda budget: budget is None or budget > 0, "a whole number of tokens above 0; None in Python"),
    "markers": Check(
        lambda markers: all(map(_is_marker, markers)),
        f"a table of slot names (other than {', '.join(SLOTS)}) to strings that are not empty",
    ),
    "beside": Check(
        lambda beside: not any(part.beside for part in beside),
        "a list of names of recipes, or of tables of a recipe's fields: query_template in each, beside in none",
    ),
    "adapters": Check(all, "a list of names"),
}


def load_recipes(path: str | Path) -> dict[str, Recipe]:
    """Read recipes from a TOML file with a table for each recipe; the keys are the fields of ``Recipe``.

    Raises:
        RecipeError: If the file is missing or no TOML, or a table has an unknown key or a bad value.
        TemplateError: If a template is not valid.
    """
    return _read(path, recipes)


def _read(path: str | Path, others: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes of a file; what stands beside them may be named from the same file or from others."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise errors.recipe_file_unreadable(path, str(error)) from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise errors.recipe_file_unreadable(path, f"{name} is no table")
        beside = table.get("beside")
        for part in [table, *(beside if isinstance(beside, list) else ())]:
            _check_keys(path, name, part)
    rows = {name: Recipe(name=name, **table) for name, table in tables.items() if "beside" not in table}
    known = {name: row for name, row in {**others, **rows}.items() if name in rows or name not in tables}
    for name, table in tables.items():
        if "beside" in table:
            rows[name] = Recipe(name=name, **{**table, "beside": _named(name, table["beside"], known, tables)})
    return {name: rows[name] for name in tables}


def _check_keys(path: str | Path, name: str, table: object) -> None:
    """Refuse a table of a file that has a key that recipes do not know, or no template."""
    if not isinstance(table, dict):
        return
    known = [entry.name for entry in fields(Recipe) if entry.name != "name"]
    for key in table:
        if key not in known:
            raise errors.recipe_file_unknown_key(path, name, key, known)
    if "query_template" not in table:
        raise errors.recipe_file_unreadable(path, f"the recipe {name} has no query_template")


def _named(name: str, beside: object, known: Mapping[str, Recipe], tables: Mapping[str, object]) -> object:
    """The recipes of a list that are named in it.

    Raises:
        RecipeError: If there is none of such a name, or it has recipes beside it as well.
    """
    if not isinstance(beside, list):
        return beside
    named = [part for part in beside if isinstance(part, str)]
    if missing := [part for part in named if part not in {*known, *tables}]:
        raise errors.recipe_unknown(missing[0], [*known, *tables])
    if any(part not in known or known[part].beside for part in named):
        raise errors.recipe_bad_field(name, "beside", beside, _CHECKS["beside"].allowed)
    return [known[part] if isinstance(part, str) else part for part in beside]


_DEFAULTS = Recipe(name="default", query_template="{text:pool}").as_dict()

recipes: Mapping[str, Recipe] = MappingProxyType(_read(Path(__file__).with_name("recipes.toml"), {}))
"""The table: name → recipe."""


def find_recipe(recipe: str | Recipe) -> Recipe:
    """Return a recipe as it is, or the row of that name.

    Raises:
        RecipeError: If there is no such row.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str) or recipe not in recipes:
        raise errors.recipe_unknown(recipe, recipes)
    return recipes[recipe]


def recipe_of_checkpoint(name: str) -> Recipe | None:
    """Return the row of a published checkpoint or adapter, if it belongs to exactly one row."""
    rows = [row for row in recipes.values() if name.lower() in (row.checkpoint.lower(), *map(str.lower, row.adapters))]
    complete = [row for row in rows if not row.adapters or row.adapters[-1].lower() == name.lower()]
    return complete[0] if len(complete) == 1 else None
