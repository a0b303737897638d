"""Checks of the names of models and adapters, before the heavy libraries that load them are imported.

A wrong name is refused at once, and the error suggests similar names. Weights are read, and folders hashed, only when
the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from echoembed import errors
from echoembed.files import folder_of
from echoembed.sources import adapters
from echoembed.sources.files import CONFIG, MODULES, checked_files
from echoembed.sources.packaged import DEFAULT, PACKAGED, RESERVED, packaged_file
from echoembed.sources.resolve import existing_gguf, resolve


def check_model(name: str | None, *, revision: str | None = None) -> None:
    """Refuse a name that cannot be loaded. A model on the hub is downloaded now, rather than when it is loaded.

    Args:
        name: The model, as for ``echoembed.load``; None for the default model.
        revision: The revision, as for ``echoembed.load``.

    Raises:
        ModelError: If there is no such model, or its folder is incomplete. The error suggests similar names.
        FileError: If the model's files cannot be read.
    """
    text = DEFAULT if name is None else name
    if text.lower() in PACKAGED:
        packaged_file(text.lower())
    if text.lower() in RESERVED or adapters.names_one(text):
        return
    folder = folder_of(text)
    try:
        if existing_gguf(text) is not None:
            return
        if folder is not None and any((folder / file).is_file() for file in (CONFIG, MODULES)):
            checked_files(folder)
        else:
            resolve(text, revision=revision)
    except errors.ModelError as error:
        raise type(error)(f"{error}{_near(text, RESERVED)}") from error


def check_adapter(name: str | None) -> None:
    """Refuse a name that is neither an adapter's folder, nor an adapter of this package, nor a possible hub name.

    Raises:
        ModelError: If there is no such adapter, or the folder does not hold one. The error suggests similar names.
    """
    if name is None:
        return
    try:
        if folder_of(name) is not None or name.count("/") != 1 or name.startswith((".", "~", "/")):
            adapters.find(name)
    except errors.ModelError as error:
        hint = "" if "Did you mean" in str(error) else _near(name, adapters.bundled())
        raise type(error)(f"{error}{hint}") from error


def _near(name: str, known: Iterable[str]) -> str:
    """Return a hint at similar names: known names, and folders beside the one that was named; "" if that one exists."""
    if folder_of(name) is not None:
        return ""
    try:
        folders = [str(path) for path in Path(name).expanduser().parent.iterdir() if path.is_dir()]
    except (OSError, RuntimeError):
        folders = []
    return errors.near(name.removeprefix("./").rstrip("/"), [*known, *folders])
