"""Names of models and adapters, checked before anything heavy is imported to load them.

A wrong name is refused at once, with a hint at names like it. Reading weights and hashing folders is left to loading.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from echoembed import errors
from echoembed.sources import adapters
from echoembed.sources.files import CONFIG, MODULES, checked_files
from echoembed.sources.packaged import DEFAULT, PACKAGED, RESERVED, packaged_file
from echoembed.sources.resolve import resolve


def check_model(name: str | None, *, revision: str | None = None) -> None:
    """Refuse a name that cannot be loaded; a model on the hub is fetched, which loading would do later.

    Args:
        name: As ``echoembed.load`` takes it; None for the default model.
        revision: As ``echoembed.load`` takes it.

    Raises:
        ModelError: If there is no such model, or its folder is not whole. Names near it are shown.
        FileError: If its files cannot be read.
    """
    text = DEFAULT if name is None else name
    if text.lower() in PACKAGED:
        packaged_file(text.lower())
    if text.lower() in RESERVED or adapters.names_one(text):
        return
    path = Path(text).expanduser()
    try:
        if path.is_file() and path.suffix.lower() == ".gguf":
            return
        if any((path / file).is_file() for file in (CONFIG, MODULES)):
            checked_files(path)
        else:
            resolve(text, revision=revision)
    except errors.ModelError as error:
        raise type(error)(f"{error}{_near(text, RESERVED)}") from error


def check_adapter(name: str | None) -> None:
    """Refuse a name that is neither a folder with an adapter, nor one of the package's, nor one the hub could have.

    Raises:
        ModelError: If there is no such adapter, or its folder does not hold one. Names near it are shown.
    """
    if name is None:
        return
    try:
        if Path(name).expanduser().is_dir() or name.count("/") != 1:
            adapters.find(name)
    except errors.ModelError as error:
        hint = "" if "Did you mean" in str(error) else _near(name, adapters.bundled())
        raise type(error)(f"{error}{hint}") from error


def _near(name: str, known: Iterable[str]) -> str:
    """A hint at names like this one: those known, and the folders where it would be."""
    parent = Path(name).expanduser().parent
    try:
        folders = [str(path) for path in parent.iterdir() if path.is_dir()]
    except OSError:
        folders = []
    return errors.near(name.removeprefix("./").rstrip("/"), [*known, *folders])
