"""Folders that a verb fills over minutes or hours."""

from __future__ import annotations

import tempfile
from pathlib import Path

from echoembed import errors
from echoembed.files import folder_of, lookup, reason_of


def writable_folder(path: Path, holds: str) -> Path:
    """Make a folder, write in it, and return it with ``~`` expanded: better refused now than after an hour.

    Args:
        path: The folder.
        holds: What it is for, in the plural, for the error.

    Raises:
        FileError: If it is a file, or cannot be made or written.
    """
    folder = lookup(path)
    if folder.exists() and folder_of(folder) is None:
        raise errors.output_unwritable(path, f"it is a file, and {holds} need a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise errors.output_unwritable(path, reason_of(error)) from error
