"""Reading settings files, which come from strangers: their size and depth are limited before they are used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

from echoembed import errors

_Json = TypeVar("_Json")
MEGABYTE = 2**20
_LARGE = 50 * MEGABYTE
_USUAL = MEGABYTE
# For vocabularies, and the index of a model with tens of thousands of tensors. Parsed, a file takes six times its size.
_LARGE_FILES = ("tokenizer.json", "vocab", "merges", "model.safetensors.index.json", "added_tokens.json")
_LARGE_ENDINGS = (".model",)
_TOKENIZER_CONFIG = 10 * MEGABYTE  # lists every added token with its settings
MOST_NESTED = 100
MOST_GROWTH = 1000
"""How many characters a tokenizer's normaliser may make of one character.

Five steps that each make a hundred of one would fill any memory.
"""


def read_json(path: Path, kind: type[_Json]) -> _Json:
    """Read a JSON file whose content must be of this kind.

    Raises:
        ModelError: If the file is not JSON, holds another kind of value, is too large, or is nested too deep.
    """
    check_size(path)
    try:
        content: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise errors.model_json_broken(str(path), reason(error)) from error
    if not isinstance(content, kind):
        raise errors.model_json_broken(str(path), f"it holds a {type(content).__name__}, not a {kind.__name__}")
    if _nested_deeper(content, MOST_NESTED):
        raise errors.model_json_broken(str(path), f"its entries are nested more than {MOST_NESTED} deep")
    return content


def check_size(path: Path) -> None:
    """Refuse a settings file, before it is read, that is larger than that of any real model.

    Raises:
        ModelError: If the file is too large.
    """
    check_bytes(str(path), path.stat().st_size)


def check_bytes(path: str, size: int) -> None:
    """Refuse a settings file of this size, such as one that is still on the hub; weights may have any size.

    Raises:
        ModelError: If a settings file of that name may not be so large.
    """
    name = PurePosixPath(path).name
    most = _TOKENIZER_CONFIG if name == "tokenizer_config.json" else _USUAL
    if name.startswith(_LARGE_FILES) or name.endswith(_LARGE_ENDINGS):
        most = _LARGE
    if size > most and not name.endswith(".safetensors"):
        raise errors.model_settings_too_large(path, size, most)


def check_normalizer(path: Path, tokenizer: object) -> None:
    """Refuse a tokenizer.json whose normaliser makes texts much longer, before any text is normalised.

    Raises:
        ModelError: If a text could become more than ``MOST_GROWTH`` times as long.
    """
    normalizer = tokenizer.get("normalizer") if isinstance(tokenizer, dict) else None
    growth = 1
    for step in _steps(normalizer):
        if step.get("type") in ("Replace", "Prepend"):
            content = step.get("content") or step.get("prepend") or ""
            growth *= max(1, len(str(content)))
    if growth > MOST_GROWTH:
        reason_ = f"its normaliser makes {growth:,} characters of one, where {MOST_GROWTH:,} are allowed"
        raise errors.model_json_broken(str(path), reason_)


def _steps(normalizer: object) -> Iterator[dict[str, object]]:
    """Yield all steps of a normaliser, also those in nested sequences."""
    if isinstance(normalizer, dict):
        yield normalizer
        inner = normalizer.get("normalizers")
        for step in inner if isinstance(inner, list) else []:
            yield from _steps(step)


def _nested_deeper(content: object, most: int) -> bool:
    """Return whether lists and tables are nested more than ``most`` deep; goes level by level, without recursion."""
    level = [content]
    for _ in range(most):
        inner = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [child for values in inner if isinstance(values, list) for child in values if _holds(child)]
        if not level:
            return False
    return True


def _holds(value: object) -> bool:
    return isinstance(value, (dict, list)) and bool(value)


def reason(error: BaseException) -> str:
    """Return an error's kind and text on one line, shortened, as a part of a message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
