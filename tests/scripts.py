"""The scripts of benchmarks/ and models/, which import their neighbours by bare names, as tests import them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


@contextmanager
def importing(folder: str) -> Iterator[Callable[[str], ModuleType]]:
    """A function that imports a script of `folder` by its name; afterwards the process is as it was.

    Two folders may have scripts of one name (`texts`), and all test files of a worker share one process: without
    tidying up, which of the two a script gets would depend on the files that ran before.
    """
    names = {script.stem for script in (ROOT / folder).glob("*.py")}
    before, path = {name: sys.modules.pop(name) for name in names & set(sys.modules)}, list(sys.path)
    sys.path.insert(0, str(ROOT / folder))
    try:
        yield importlib.import_module
    finally:
        sys.path[:] = path
        for name in names & set(sys.modules):
            del sys.modules[name]
        sys.modules.update(before)
