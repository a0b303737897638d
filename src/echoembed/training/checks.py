"""Checking the fields of a frozen dataclass at its birth, by their annotations and by rules of their own."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from echoembed import errors


class Rule(NamedTuple):
    """What a value must be beyond its type, and how a message says both."""

    passes: Callable[[Any], bool]
    allowed: str


COUNT = Rule(lambda value: value >= 1, "a whole number above 0")
COUNT_OR_NONE = Rule(lambda value: value is None or value >= 1, "a whole number above 0, or left out")
COUNT_OR_ZERO = Rule(lambda value: value >= 0, "a whole number, 0 or above")
ABOVE_ZERO = Rule(lambda value: value > 0, "a number above 0")
ABOVE_ZERO_OR_NONE = Rule(lambda value: value is None or value > 0, "a number above 0, or left out")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "a number, 0 or above")
SHARE = Rule(lambda value: 0 < value <= 1, "a number above 0, up to 1")
PROBABILITY = Rule(lambda value: 0 <= value < 1, "a number from 0 to below 1")
NOT_BLANK = Rule(lambda value: bool(value.strip()), "a string that is not blank")


class _MismatchError(Exception):
    """A value that is not of its type."""


def check(value: object, table: str, rules: Mapping[str, Rule]) -> None:
    """Check every field of a dataclass; lists become tuples, and whole numbers floats where one is due.

    Args:
        value: The frozen dataclass, from its ``__post_init__``.
        table: What messages put before a field's name, such as ``optimiser``; empty for the outermost.
        rules: Field → what it must be beyond its type.

    Raises:
        TrainingError: For the first field that is not what it must be.
    """
    kind: Any = type(value)
    for name, hint in hints(kind).items():
        given, rule = getattr(value, name), rules.get(name)
        try:
            converted = _converted(given, hint)
            if rule is not None and not rule.passes(converted):
                raise _MismatchError
        except _MismatchError:
            allowed = rule.allowed if rule else words(hint)
            raise errors.training_bad_field(f"{table}.{name}".lstrip("."), given, allowed) from None
        object.__setattr__(value, name, converted)


@cache
def hints(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved."""
    resolved = get_type_hints(kind)
    return {entry.name: resolved[entry.name] for entry in dataclasses.fields(kind)}


def _converted(value: object, hint: Any) -> Any:  # noqa: ANN401
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for one in arguments:
            try:
                return _converted(value, one)
            except _MismatchError:
                continue
    elif origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_converted(entry, arguments[0]) for entry in value)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    raise _MismatchError


def words(hint: Any) -> str:  # noqa: ANN401
    """A type as messages say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(said for one in arguments if (said := words(one)))
    if origin is Literal:
        return ", ".join(arguments)
    if origin is tuple:
        return "an array of tables" if dataclasses.is_dataclass(arguments[0]) else "a list of strings"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "left out"}
    return named.get(hint, "a table")
