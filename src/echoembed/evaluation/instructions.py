"""Which instruction a task gets, where the recipe's template has a slot for one (Table 16)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


@cache
def _tables() -> dict[str, dict[str, str]]:
    path = Path(__file__).with_name("instructions.json")
    tables: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return tables


def instruction_for(task: str, kind: str, hint: str = "") -> str:
    """The paper's instruction for a task; failing that the hint; failing that one for its kind.

    Args:
        task: mteb's name, or the name of a local data set: ``sts12`` and ``sick_r`` get those of STS12 and SICK-R.
        kind: One of ``KINDS``.
        hint: The instruction that mteb has, if any.
    """
    tables = _tables()
    name = tables["local"].get(task, task)
    named = {_plain(known): instruction for known, instruction in tables["tasks"].items()}
    return named.get(_plain(name)) or hint or tables["kinds"].get(kind, "")


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
