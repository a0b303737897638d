"""Strict JSON for request bodies: one object in UTF-8, no repeated keys, only finite numbers.

JSON that parsers read differently (repeated keys, ``NaN``, other encodings) is refused, so that a proxy or a log cannot
see another request than the model does.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from echoembed import errors

_KINDS = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
_HALF = re.compile(r"[\ud800-\udfff]")


def parse(body: bytes) -> dict[str, Any]:
    """Parse a body as one object; fields that are null are left out, in objects within it too.

    Raises:
        RequestError: If the body is anything else.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_no_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise errors.request_not_json(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise errors.request_not_json("it is nested too deeply") from error
    except ValueError as error:
        raise errors.request_not_json(str(error)) from error
    if not isinstance(value, dict):
        raise errors.request_not_object(_KINDS[type(value)])
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise errors.request_repeated_key(key)
        if _HALF.search(key):
            raise errors.request_not_json("a key holds half of a surrogate pair")
        entries[key] = value
    return {key: entry for key, entry in entries.items() if entry is not None}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value
