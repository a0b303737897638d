"""The house stands: imports run downhill, in no circle; files stay short; heavy libraries wait until they are used.

All imports are read from the source, those inside functions too, so that nothing has to be imported to be judged.
"""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import echoembed

ROOT = Path(echoembed.__file__).parent
FLOORS = (
    ("errors",),
    ("checks", "files", "progress", "numerics", "versions", "prompts"),
    ("recipe", "plots"),
    ("sources", "engine", "tiny"),
    ("model",),
    ("echoembed", "texts"),  # the package itself stands here, with its public names
    ("evaluation",),
    ("training", "experiments", "tune", "corpus", "server", "integrations"),
    ("cli",),
    ("__main__",),
)
"""The rooms from the bottom up. A room imports those below its floor; rooms of one floor do not import each other."""
LONGEST = 400
"""Most lines of a file."""
USUAL = 150
"""Most lines of the median file."""
SHORTEST = 30
"""Fewest lines of a file other than ``__init__`` and ``__main__``."""
LATE = (
    "mteb",
    "fastapi",
    "uvicorn",
    "ray",
    "lancedb",
    "peft",
    "datasets",
    "matplotlib",
    "accelerate",
    "gguf",
    "llama_cpp",
)
"""Libraries that are imported inside functions only, as they are extras or take seconds."""
ALLOWED_AT_THE_TOP = {
    "evaluation/encoder.py": {"mteb"},  # both subclass mteb's classes and are imported inside functions
    "evaluation/mteb_tasks.py": {"mteb", "datasets"},
    "integrations/lancedb.py": {"lancedb"},  # subclasses its class; users import it where they use LanceDB
    "server/connection.py": {"uvicorn"},  # both subclass uvicorn's classes, and the verb imports them when it serves
    "server/listen.py": {"uvicorn"},
    "training/run.py": {"accelerate"},  # sentence-transformers' trainer needs it at its import
}


class Import(NamedTuple):
    """An import statement."""

    module: str
    """What is imported, in full."""
    line: int
    top: bool
    """Whether it happens when the importing module does."""
    typing_only: bool


def modules() -> dict[str, Path]:
    """Full name → file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
ROOMS = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of a file."""
    found: list[Import] = []

    def visit(node: ast.AST, top: bool, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, top, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append(Import(inner if inner in MODULES else str(node.module), node.lineno, top, typing_only))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, top, True)
            for child in node.orelse:
                visit(child, top, typing_only)
            return
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, top and not inside, typing_only)

    visit(ast.parse(path.read_text(encoding="utf-8")), True, False)
    return tuple(found)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} - set(ROOMS) == set()


def test_a_room_imports_only_rooms_below_it():
    upward = []
    for module, path in MODULES.items():
        room = room_of(module)
        for entry in imports_of(path):
            other = room_of(entry.module) if entry.module.split(".")[0] == "echoembed" else room
            if other != room and ROOMS[other] >= ROOMS[room]:
                upward.append(f"{place(path, entry.line)}: {room} imports {other}")
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {entry.module for entry in imports_of(path) if entry.module in MODULES and not entry.typing_only}
        - {module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_imports_were_found():
    """Else the two tests above would hold for anything."""
    assert len(MODULES) > 100
    seen = {entry.module for path in MODULES.values() for entry in imports_of(path)}
    assert {"echoembed.model.transformer", "echoembed.recipe", "torch", "mteb", "peft"} <= seen
    assert any(not entry.top for path in MODULES.values() for entry in imports_of(path))


def test_no_two_classes_have_one_name():
    """A reader who meets a class knows which."""
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_no_star_is_imported():
    """A reader could not tell where a name comes from. (That no name hides one of Python's own, ruff checks.)"""
    stars = [
        place(path, node.lineno)
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]
    assert stars == []


def test_files_are_neither_long_nor_fragments():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()}
    long = [f"{path.relative_to(ROOT)}: {count}" for path, count in lines.items() if count > LONGEST]
    fragments = [
        f"{path.relative_to(ROOT)}: {count}"
        for path, count in lines.items()
        if count < SHORTEST and not path.stem.startswith("__")
    ]
    assert (long, fragments) == ([], [])
    assert statistics.median(lines.values()) <= USUAL


def test_extras_and_slow_libraries_are_imported_where_they_are_used():
    early = [
        f"{place(path, entry.line)}: {library}"
        for path in MODULES.values()
        for entry in imports_of(path)
        if entry.top
        and not entry.typing_only
        and (library := entry.module.split(".")[0]) in LATE
        and library not in ALLOWED_AT_THE_TOP.get(path.relative_to(ROOT).as_posix(), set())
    ]
    assert early == []


@pytest.mark.parametrize("module", ["echoembed", "echoembed.cli", "echoembed.errors", "echoembed.recipe"])
def test_the_front_door_opens_without_torch(module):
    heavy = ["torch", "transformers", "sentence_transformers", "pyarrow", *LATE]
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
