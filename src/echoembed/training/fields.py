"""Every field of a run's configuration with its meaning, read from the dataclasses themselves.

Python throws the strings under a dataclass's fields away; they are read from the source, where each follows its field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from typing import NamedTuple, get_args

from echoembed.training import checks
from echoembed.training.config import TrainConfig


class Field(NamedTuple):
    """One field.

    Attributes:
        table: The table of the TOML file that it stands in, such as ``[optimiser]``; empty for none.
        name: The key.
        type: What it takes, in words.
        default: As TOML writes it; ``required`` where there is none, ``left out`` for what TOML cannot write.
        meaning: What it is, with its unit.
    """

    table: str
    name: str
    type: str
    default: str
    meaning: str


def fields() -> list[Field]:
    """All fields, in the order in which a file would have them."""
    found = []
    inner: list[tuple[str, type]] = []
    for name, hint in checks.hints(TrainConfig).items():
        entry = get_args(hint)[0] if get_args(hint) else hint
        if isinstance(entry, type) and dataclasses.is_dataclass(entry):
            inner.append((f"[[{name}]]" if get_args(hint) else f"[{name}]", entry))
    for table, kind in [("", TrainConfig), *inner]:
        tables = {title.strip("[]") for title, _ in inner} if kind is TrainConfig else set()
        meanings = _meanings(kind)
        found += [
            Field(
                table, entry.name, checks.words(checks.hints(kind)[entry.name]), _default(entry), meanings[entry.name]
            )
            for entry in dataclasses.fields(kind)
            if entry.name not in tables
        ]
    return found


def _default(entry: dataclasses.Field[object]) -> str:
    if entry.default is dataclasses.MISSING:
        return "required"
    return "left out" if entry.default is None else json.dumps(entry.default, ensure_ascii=False)


def _meanings(kind: type) -> dict[str, str]:
    """Field → the string under it."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for entry, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(entry, ast.AnnAssign)
            and isinstance(entry.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[entry.target.id] = " ".join(str(after.value.value).split())
    return found
