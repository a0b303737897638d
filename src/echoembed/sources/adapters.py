"""Trained adapters: small weights that are added to a model's, with the recipe of their training.

    FOLDER/adapter_config.json              peft's file: the kind of adapter, and its layers
    FOLDER/adapter_model.safetensors        the adapter's weights
    FOLDER/echoembed_adapter_config.json    our file: the recipe, and the exact weights that were trained

An adapter is useless on other weights than those it was trained on. Our file names these weights with their revision,
and loading compares them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from echoembed import errors
from echoembed.files import folder_of
from echoembed.recipe import Recipe
from echoembed.sources.packaged import BUNDLED as BUNDLED_MODEL
from echoembed.sources.resolve import Origin, Source, resolve_adapter

FILE = "echoembed_adapter_config.json"
FORMAT = 1
BUNDLED = Path(__file__).parents[1] / "tiny" / "adapters"
"""Folder of the adapters that come with the package; the file in each one's folder names its model."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The exact weights that an adapter was trained on: a model, and adapters merged into it in order.

    Attributes:
        model: A name on the hub, the name of a package's model, a folder or a GGUF file; None for the bundled model.
        origin: Which of these kinds the model is.
        revision: 40 hexadecimal digits: the model's commit, or the hash of its files.
        adapters: Name and revision of each adapter.
    """

    model: str | None
    origin: Origin
    revision: str
    adapters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, source: Source, adapters: list[Source]) -> Base:
        """Describe loaded weights; folders and files by their absolute path, as the adapter may be loaded elsewhere."""
        path = str(source.file or source.folder)
        name = {"bundled": None, "folder": path, "gguf": path}.get(source.origin, source.name)
        below = tuple(
            (adapter.name if adapter.origin == "hub" else str(adapter.folder), adapter.revision) for adapter in adapters
        )
        return cls(model=name, origin=source.origin, revision=source.revision, adapters=below)

    @property
    def name(self) -> str:
        """Return the name by which ``resolve`` finds the model."""
        return self.model or BUNDLED_MODEL

    def __str__(self) -> str:
        return " + ".join([self.model or "the bundled model", *(name for name, _ in self.adapters)])


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A trained adapter on this machine.

    Attributes:
        source: The adapter's files.
        recipe: The recipe of its training.
        normalize: Whether vectors are scaled to length 1.
        base: The weights that it was trained on.
    """

    source: Source
    recipe: Recipe
    normalize: bool
    base: Base


def is_adapter(name: object) -> bool:
    """Return whether this is a folder with an adapter of ours."""
    return (
        isinstance(name, (str, os.PathLike)) and (folder := folder_of(name)) is not None and (folder / FILE).is_file()
    )


def names_one(name: object) -> bool:
    """Return whether a model's name is an adapter's: an adapter's folder, or an adapter that comes with the package."""
    return is_adapter(name) or (isinstance(name, str) and name in bundled())


def bundled() -> list[str]:
    """Return the names of the adapters that come with the package; a folder of such a name is written ``./NAME``."""
    return sorted(path.name for path in BUNDLED.glob("*") if is_adapter(path))


def find(name: str | os.PathLike[str], *, local_files_only: bool = False) -> Adapter:
    """Find a trained adapter: in a folder, in this package, or on the hub.

    Raises:
        ModelError: If the adapter cannot be found or read, or was not written by a training run of ours.
    """
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text.strip():
        raise errors.adapter_unknown(name, bundled())
    if isinstance(name, str) and text in bundled():
        return read(resolve_adapter(str(BUNDLED / text)), name=text)
    if folder_of(text) is not None:
        return read(resolve_adapter(text))
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise errors.adapter_unknown(text, bundled())
    return read(resolve_adapter(text, local_files_only=local_files_only))


def read(source: Source, *, name: str | None = None) -> Adapter:
    """Read an adapter's settings.

    Args:
        source: The adapter's files.
        name: The adapter's name; None for the source's name.

    Raises:
        ModelError: If our file is missing or broken.
    """
    path = source.folder / FILE
    if not path.is_file():
        raise errors.adapter_foreign(source.name, FILE)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["format"] != FORMAT:
            raise errors.adapter_file_broken(source.name, FILE, f"format {saved['format']}, not {FORMAT}")
        base = Base(
            **{**saved["base"], "adapters": tuple((adapter, exact) for adapter, exact in saved["base"]["adapters"])}
        )
        if base.origin not in get_args(Origin) or (base.model is None) != (base.origin == "bundled"):
            raise errors.adapter_file_broken(source.name, FILE, f"the base {base.model!r} of origin {base.origin!r}")
        recipe, normalize = Recipe(**saved["recipe"]), bool(saved["normalize"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, errors.ModelError):
            raise
        raise errors.adapter_file_broken(source.name, FILE, f"{type(error).__name__}: {error}") from error
    named_source = source if name is None else Source(**{**vars(source), "name": name})
    return Adapter(source=named_source, recipe=recipe, normalize=normalize, base=base)


def write_file(folder: Path, *, recipe: Recipe, normalize: bool, base: Base) -> None:
    """Write our file into an adapter's folder, beside peft's."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe.as_dict(),
        "normalize": normalize,
        "base": asdict(base),
    }
    (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
