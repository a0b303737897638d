"""Trained adapters: small weights beside the model they were trained on, with the recipe they were trained with.

    FOLDER/adapter_config.json              peft's: what kind of adapter, which layers
    FOLDER/adapter_model.safetensors        its weights
    FOLDER/echoembed_adapter_config.json    ours: the recipe, and the exact weights below it

An adapter means nothing on other weights than those it was trained on. Its file names these with their revision, and
loading compares them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from echoembed import errors
from echoembed.recipe import Recipe
from echoembed.sources.packaged import BUNDLED as BUNDLED_MODEL
from echoembed.sources.resolve import Origin, Source, resolve_adapter

FILE = "echoembed_adapter_config.json"
FORMAT = 1
BUNDLED = Path(__file__).parents[1] / "tiny" / "adapters"
"""Adapters that come with the package, each a folder; the model below each is named in it."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Exact weights: a model, and adapters merged into it in order.

    Attributes:
        model: A name on the hub, the name of a package's model, a folder or a GGUF file; None for the bundled model.
        origin: Which of these the model is.
        revision: 40 hexadecimal digits: the model's commit, or the hash of its files.
        adapters: Name and revision of each adapter.
    """

    model: str | None
    origin: Origin
    revision: str
    adapters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, source: Source, adapters: list[Source]) -> Base:
        """What was loaded. Folders and files go by their whole path, for the adapter may be read from elsewhere."""
        path = str(source.file or source.folder)
        name = {"bundled": None, "folder": path, "gguf": path}.get(source.origin, source.name)
        below = tuple(
            (adapter.name if adapter.origin == "hub" else str(adapter.folder), adapter.revision) for adapter in adapters
        )
        return cls(model=name, origin=source.origin, revision=source.revision, adapters=below)

    @property
    def name(self) -> str:
        """The name by which ``resolve`` finds the model."""
        return self.model or BUNDLED_MODEL

    def __str__(self) -> str:
        return " + ".join([self.model or "the bundled model", *(name for name, _ in self.adapters)])


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A trained adapter on this machine.

    Attributes:
        source: Its files.
        recipe: The recipe that it was trained with.
        normalize: Whether vectors are scaled to length 1.
        base: The weights it was trained on.
    """

    source: Source
    recipe: Recipe
    normalize: bool
    base: Base


def is_adapter(name: object) -> bool:
    """Whether this is a folder with an adapter of ours."""
    return isinstance(name, (str, os.PathLike)) and (Path(name).expanduser() / FILE).is_file()


def names_one(name: object) -> bool:
    """Whether this names an adapter where a model is asked for: its folder, or one that comes with the package."""
    return is_adapter(name) or (isinstance(name, str) and name in bundled() and not Path(name).is_dir())


def bundled() -> list[str]:
    """Names of the adapters that come with the package."""
    return sorted(path.name for path in BUNDLED.glob("*") if is_adapter(path))


def find(name: str | os.PathLike[str], *, local_files_only: bool = False) -> Adapter:
    """A trained adapter: a folder, one that comes with the package, or one on the hub.

    Raises:
        ModelError: If it cannot be found or read, or was not written by a training run of ours.
    """
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text.strip():
        raise errors.adapter_unknown(name, bundled())
    if Path(text).expanduser().is_dir():
        return read(resolve_adapter(text))
    if text in bundled():
        return read(resolve_adapter(str(BUNDLED / text)), name=text)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise errors.adapter_unknown(text, bundled())
    return read(resolve_adapter(text, local_files_only=local_files_only))


def read(source: Source, *, name: str | None = None) -> Adapter:
    """What an adapter's files say.

    Args:
        source: The files.
        name: The adapter's name; the source's unless given.

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
    named = source if name is None else Source(**{**vars(source), "name": name})
    return Adapter(source=named, recipe=recipe, normalize=normalize, base=base)


def write_file(folder: Path, *, recipe: Recipe, normalize: bool, base: Base) -> None:
    """Write our file into an adapter's folder, beside peft's."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe.as_dict(),
        "normalize": normalize,
        "base": asdict(base),
    }
    (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
