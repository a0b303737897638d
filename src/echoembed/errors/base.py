"""The exception classes, how messages quote values, and errors about libraries, which belong to no room."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self


class EchoembedError(Exception):
    """The base of all errors that a user can cause and correct. The text is one line, whatever it quotes."""

    def __str__(self) -> str:
        return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda m: ascii(m[0])[1:-1], super().__str__())

    @classmethod
    def bad_value(cls, name: str, value: object, allowed: str) -> Self:
        """An argument, an option, a setting or a field whose value cannot be used."""
        return cls(f"Got {name} = {quoted(value, 100)}. Allowed: {allowed}. Change it.")

    @classmethod
    def unknown_name(cls, kind: str, name: object, known: Iterable[str]) -> Self:
        """A name of something that does not exist, such as a format or an experiment."""
        names = list(known)
        return cls(
            f"Got {kind} {quoted(name)}. Allowed: {', '.join(names)}. Choose one of these.{near(str(name), names)}"
        )


class TemplateError(EchoembedError, ValueError):
    """A template that cannot be parsed or cannot be used."""


class RecipeError(EchoembedError, ValueError):
    """A recipe that is unknown or contradicts itself."""


class TextError(EchoembedError, ValueError):
    """An input text that cannot be embedded."""


class ModelError(EchoembedError, ValueError):
    """A model that cannot be found, read, or used as the recipe asks."""


class LibraryError(EchoembedError, ImportError):
    """A library that is missing, or does not work with the others that are installed."""


class ExperimentError(EchoembedError, ValueError):
    """An experiment that is unknown."""


class FileError(EchoembedError, OSError):
    """An input or output file that cannot be read or written."""


class DataError(EchoembedError, ValueError):
    """A data set for an evaluation that is missing or malformed."""


class CorpusError(EchoembedError, ValueError):
    """A corpus that cannot be built, resumed or searched as requested."""


class TrainingError(EchoembedError, ValueError):
    """A training run that cannot be started or resumed as configured."""


class EvaluationError(EchoembedError, RuntimeError):
    """An evaluation that cannot be started, or of which a part failed.

    Attributes:
        scores: The scores (``echoembed.evaluation.store.Score``) of the tasks that did not fail.
        failures: The error of each other task, by name.
    """

    def __init__(
        self, message: str, scores: Sequence[Any] = (), failures: Mapping[str, BaseException] | None = None
    ) -> None:
        super().__init__(message)
        self.scores = list(scores)
        self.failures = dict(failures or {})


def quoted(value: object, limit: int = 40) -> str:
    """Return a value for a message: its ``repr`` on one line, cut after ``limit`` characters."""
    shown = ascii(value) if isinstance(value, (bytes, bytearray)) else repr(value)
    return shown if len(shown) <= limit else shown[:limit] + "…"


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint such as `` Did you mean 'echo'?``, or ""."""
    matches = get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


# Libraries that are missing, or that do not work together. Each message ends with the command to copy.


def library_missing(library: str, extra: str, purpose: str) -> LibraryError:
    """An optional library that is not installed."""
    return LibraryError(
        f"{purpose} needs an extra library, {library}, which is not installed. "
        f"Install it: pip install 'echoembed[{extra}]'."
    )


def library_broken(libraries: str, purpose: str, reason: str) -> LibraryError:
    """An optional library that is installed and cannot be imported."""
    return LibraryError(
        f"{purpose} needs {libraries}, which is installed but cannot be imported: {quoted(reason, 200)}. "
        f"Install it again: pip install --force-reinstall --no-deps {libraries}."
    )


def library_misfit(library: str, installed: str, by: str, needed: str, command: str) -> LibraryError:
    """A library of a version that another one cannot use."""
    return LibraryError(
        f"{library} {installed} is installed, but {by} needs {needed}. Install versions that work together: {command}."
    )
