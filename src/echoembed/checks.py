"""Checks the fields of a dataclass when it is made: by their annotations, and by a further check for each.

``setting`` declares a field with its meaning and its check, so that both stand beside its default.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


class Check(NamedTuple):
    """A condition on a value beyond its type, and the words for it in messages."""

    passes: Callable[[Any], bool]
    allowed: str


LARGEST = 2**63 - 1
"""The largest whole number of any field: Arrow, numpy and torch hold no larger ones."""


def count(least: int, most: int) -> Check:
    """Return the check of a whole number between two bounds, both included."""
    return Check(lambda value: least <= value <= most, f"a whole number from {least} to {most:,}")


COUNT = Check(lambda value: value >= 1, "a whole number above 0")
COUNT_OR_NONE = Check(lambda value: value is None or value >= 1, "a whole number above 0, or left out")
COUNT_OR_ZERO = Check(lambda value: value >= 0, "a whole number, 0 or above")
ABOVE_ZERO = Check(lambda value: value > 0, "a number above 0")
ABOVE_ZERO_OR_NONE = Check(lambda value: value is None or value > 0, "a number above 0, or left out")
NOT_NEGATIVE = Check(lambda value: value >= 0, "a number, 0 or above")
SHARE = Check(lambda value: 0 < value <= 1, "a number above 0, up to 1")
PROBABILITY = Check(lambda value: 0 <= value < 1, "a number from 0 to below 1")
NOT_BLANK = Check(lambda value: bool(value.strip()), "a string that is not blank")


REQUIRED = dataclasses.MISSING
"""Stands in place of a default where the field must be given."""


class _MismatchError(Exception):
    """Raised within this file for a value that is not of its type."""


def setting(default: Any, meaning: str, check: Check | None = None) -> Any:
    """Declare a field of a dataclass of settings.

    Args:
        default: Its default; ``REQUIRED`` for none; a dataclass's class for a new instance of that class.
        meaning: What the setting means, with its unit.
        check: A condition on its values beyond their type.
    """
    metadata = {"meaning": meaning, "check": check}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(
    value: object, refuse: Callable[[str, object, str], Exception], checks: Mapping[str, Check] | None = None
) -> None:
    """Check every field against its type; lists become tuples, and whole numbers become floats where floats belong.

    Args:
        value: The frozen dataclass, which calls this function in its ``__post_init__``.
        refuse: Builds the error from the field's name, its value and what is allowed.
        checks: Field → a condition beyond its type, for fields that ``setting`` did not declare.

    Raises:
        Exception: The error that ``refuse`` builds, for the first field that fails.
    """
    kind: Any = type(value)
    for entry in dataclasses.fields(kind):
        hint, field_value = hints(kind)[entry.name], getattr(value, entry.name)
        check: Check | None = (checks or {}).get(entry.name) or entry.metadata.get("check")
        try:
            converted = _converted(field_value, hint)
            if check is not None and not check.passes(converted):
                raise _MismatchError
        except _MismatchError:
            allowed = check.allowed if check else words(hint)
            if isinstance(field_value, int) and not _fits(field_value) and (check is None or check.passes(field_value)):
                allowed += f", and at most {LARGEST:,}"
            raise refuse(entry.name, field_value, allowed) from None
        object.__setattr__(value, entry.name, converted)


@cache
def hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, resolved."""
    resolved = get_type_hints(kind)
    return {entry.name: resolved[entry.name] for entry in dataclasses.fields(kind)}


def _converted(value: object, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for alternative in arguments:
            try:
                return _converted(value, alternative)
            except _MismatchError:
                continue
    elif origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_converted(entry, arguments[0]) for entry in value)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and _fits(value) and math.isfinite(value):
            return float(value)
    elif type(value) is hint and (hint is not int or _fits(value)):
        return value
    raise _MismatchError


def is_number(value: object) -> bool:
    """Return whether a value is a number that a float holds: finite, and no larger than the largest float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _fits(value: Any) -> bool:
    """Return whether a number, if it is whole, is small enough for the libraries."""
    return isinstance(value, float) or abs(value) <= LARGEST


def words(hint: Any) -> str:
    """Return the words for a type in messages."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(text for alternative in arguments if (text := words(alternative)))
    if origin is Literal:
        return ", ".join(filter(None, arguments))
    if origin is tuple:
        return "an array of tables" if dataclasses.is_dataclass(arguments[0]) else "a list of strings"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", type(None): "left out"}
    return names.get(hint, "a table")
