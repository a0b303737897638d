"""Every error of the project, each once: what was got, what is allowed, what to do.

A function per situation builds the exception, so that a message has one home and one test.
The classes are what a caller catches; all derive from ``EchoembedError``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EchoembedError(Exception):
    """Base of all errors that a user can cause and mend."""


class TemplateError(EchoembedError, ValueError):
    """A template that cannot be parsed or cannot be used."""


class RecipeError(EchoembedError, ValueError):
    """A recipe that is unknown or contradicts itself."""


class TextError(EchoembedError, ValueError):
    """An input text that cannot be embedded."""


class ModelError(EchoembedError, ValueError):
    """A model that cannot be found, read, or used as the recipe asks."""


class FileError(EchoembedError, OSError):
    """An input or output file that cannot be read or written."""


def quoted(value: object, limit: int = 40) -> str:
    """The value as a message shows it: its ``repr`` on one line, cut after ``limit`` characters."""
    shown = ascii(value) if isinstance(value, (bytes, bytearray)) else repr(value)
    return shown if len(shown) <= limit else shown[:limit] + "…"


def near(name: str, known: Iterable[str]) -> str:
    """A hint such as `` Did you mean 'echo'?``, or nothing."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
