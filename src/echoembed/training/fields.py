"""Every field of a run's configuration with its meaning, as declared in the dataclasses."""

from __future__ import annotations

import dataclasses
import json
from typing import NamedTuple, get_args

from echoembed import checks
from echoembed.training.config import TrainConfig


class Field(NamedTuple):
    """A field of the configuration.

    Attributes:
        table: The field's table in the TOML file, such as ``[optimiser]``; empty for none.
        name: The key.
        type: The allowed types, in words.
        default: The default in TOML; ``required`` if there is none, ``left out`` if TOML cannot express it.
        meaning: What the field means, with its unit.
    """

    table: str
    name: str
    type: str
    default: str
    meaning: str


def fields() -> list[Field]:
    """Return all fields, in the order of a file."""
    plain, inner = [], []
    for entry in dataclasses.fields(TrainConfig):
        hint = checks.hints(TrainConfig)[entry.name]
        kind = get_args(hint)[0] if get_args(hint) else hint
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            title = f"[[{entry.name}]]" if get_args(hint) else f"[{entry.name}]"
            inner += [_field(title, kind, field) for field in dataclasses.fields(kind)]
        else:
            plain.append(_field("", TrainConfig, entry))
    return plain + inner


def _field(table: str, kind: type, entry: dataclasses.Field[object]) -> Field:
    type_ = checks.words(checks.hints(kind)[entry.name])
    return Field(table, entry.name, type_, _default(entry), entry.metadata["meaning"])


def _default(entry: dataclasses.Field[object]) -> str:
    if entry.default is dataclasses.MISSING:
        return "required"
    return "left out" if entry.default is None else json.dumps(entry.default, ensure_ascii=False)
