"""Every field of a run's configuration with its meaning, as the dataclasses themselves declare it."""

from __future__ import annotations

import dataclasses
import json
from typing import NamedTuple, get_args

from echoembed import checks
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
    listed, inner = [], []
    for entry in dataclasses.fields(TrainConfig):
        hint = checks.hints(TrainConfig)[entry.name]
        kind = get_args(hint)[0] if get_args(hint) else hint
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            title = f"[[{entry.name}]]" if get_args(hint) else f"[{entry.name}]"
            inner += [_field(title, kind, own) for own in dataclasses.fields(kind)]
        else:
            listed.append(_field("", TrainConfig, entry))
    return listed + inner


def _field(table: str, kind: type, entry: dataclasses.Field[object]) -> Field:
    type_ = checks.words(checks.hints(kind)[entry.name])
    return Field(table, entry.name, type_, _default(entry), entry.metadata["meaning"])


def _default(entry: dataclasses.Field[object]) -> str:
    if entry.default is dataclasses.MISSING:
        return "required"
    return "left out" if entry.default is None else json.dumps(entry.default, ensure_ascii=False)
