"""A quick start: import sentence-transformers without the modules that encoding never uses.

The library imports scikit-learn for one function, datasets for training and peft for adapters, and these import pandas
and pyarrow: together, more than half of the time to a first vector. While the library is imported and a model is
loaded, stand-ins take the places of these modules. A stand-in imports the real module as soon as one of its names is
called or an attribute of it is read. Code that imported a stand-in therefore works as before, and later imports get the
real module.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from echoembed import versions

LIBRARY = "sentence_transformers"
UNUSED = ("sklearn", "sklearn.metrics", "datasets", "peft")


@contextmanager
def without_unused() -> Iterator[None]:
    """Import sentence-transformers without the modules that encoding never uses, and keep them out in the block."""
    if LIBRARY in sys.modules:
        yield
        return
    placed = [_StandIn(name) for name in UNUSED if name not in sys.modules and find_spec(name.split(".")[0])]
    sys.modules |= {stand_in.__name__: stand_in for stand_in in placed}
    try:
        _import()
        for stand_in in placed:
            if stand_in.__name__ != "datasets":  # sentence-transformers asks for its version whenever it builds a model
                stand_in.make_way()
        yield
    finally:
        for stand_in in placed:
            stand_in.make_way()


def _import() -> None:
    """Import the library with the garbage collector off: imports leave no garbage, and the search for it takes time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        with versions.base_libraries():
            import_module(LIBRARY)
        import_module("echoembed.model.load")
        gc.freeze()
        atexit.register(_end_quietly)
    finally:
        if was_on:
            gc.enable()


def _end_quietly() -> None:
    """Close standard error at the very end, after all output.

    Triton's bindings report objects that are still alive then, and ``gc.freeze`` keeps all of them alive. Freeing the
    objects would avoid the report too, but takes more than a second.
    """
    if "triton" in sys.modules and sys.stderr is not None:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class _StandIn(ModuleType):
    """Takes a module's place in ``sys.modules`` until the module is needed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = find_spec(name) if "." not in name else ModuleSpec(name, None)

    def make_way(self) -> None:
        """Let the next import find the real module."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> object:
        if name == "__version__":
            return version(self.__name__)
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(name, (), {"_home": self})


class _Later(type):
    """A class or a function of a module that is not imported yet.

    While the module is not imported, nothing can be an instance of the class; any other use imports the module.
    """

    _home: _StandIn

    def _real(cls) -> Any:
        for name in UNUSED:  # the parents of a submodule must be the real ones too
            if isinstance(stand_in := sys.modules.get(name), _StandIn) and cls._home.__name__.startswith(name):
                stand_in.make_way()
        return getattr(import_module(cls._home.__name__), cls.__name__)

    def _is_imported(cls) -> bool:
        return not isinstance(sys.modules.get(cls._home.__name__, cls._home), _StandIn)

    def __call__(cls, *args: object, **kwargs: object) -> object:
        return cls._real()(*args, **kwargs)

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: object) -> bool:
        return cls._is_imported() and isinstance(instance, cls._real())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return cls._is_imported() and issubclass(subclass, cls._real())
