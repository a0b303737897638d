"""Libraries that are missing, or that do not work together.

Each message ends with the command that mends it, for that is what its reader will copy.
"""

from __future__ import annotations

from echoembed.errors.base import LibraryError, quoted


def library_missing(library: str, extra: str, purpose: str) -> LibraryError:
    """An optional library that is not installed."""
    return LibraryError(
        f"{purpose} needs an extra library, {library}, which is not installed. "
        f"Install it: pip install 'echoembed[{extra}]'."
    )


def library_broken(libraries: str, purpose: str, reason: str) -> LibraryError:
    """An optional library that is installed and cannot be imported."""
    return LibraryError(
        f"{purpose} needs {libraries}, installed but not to be imported: {quoted(reason, 200)}. "
        f"Install it again: pip install --force-reinstall --no-deps {libraries}."
    )


def library_misfit(library: str, installed: str, by: str, needed: str, command: str) -> LibraryError:
    """A library of a version that another one cannot use."""
    return LibraryError(
        f"{library} {installed} is installed, but {by} needs {needed}. Install versions that work together: {command}."
    )
