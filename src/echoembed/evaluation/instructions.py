"""The instruction of a task, for recipes whose template has a slot for one (Table 16)."""

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
    """Return the paper's instruction for a task, else the hint, else an instruction for its kind.

    Args:
        task: mteb's name, or the name of a local data set: ``sts12`` and ``sick_r`` get those of STS12 and SICK-R.
        kind: One of ``KINDS``.
        hint: mteb's instruction, if any.
    """
    tables = _tables()
    name = tables["local"].get(task, task)
    by_name = {_plain(task_name): instruction for task_name, instruction in tables["tasks"].items()}
    return by_name.get(_plain(name)) or hint or tables["kinds"].get(kind, "")


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
