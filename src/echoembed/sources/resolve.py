"""Finding a model: a name becomes a local folder of safe files with an exact revision.

    tiny            the bundled model         ─┐
    smollm2-135m    the file of a package      │
    x.gguf          hash of the file           ├─► settings, tokenizer, safetensors, all there and readable ─► Source
    a folder        hash of its files          │
    a name          commit on the hub         ─┘

``None`` means the default model. A GGUF file is converted once into a folder in a cache. Of a model on the hub, only
the files that loading needs are downloaded, by name: settings, tokenizer, safetensors. Pickles can run code when they
are opened, so they are refused; Python files are never downloaded. The rest of the package may then trust the folder:
nothing is missing or cut off, and the revision names its exact bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from echoembed import errors
from echoembed.sources.files import CONFIG, MODULES, checked_files
from echoembed.sources.packaged import BUNDLED, DEFAULT, PACKAGED, check_file, packaged_file
from echoembed.sources.settings import reason

Origin = Literal["hub", "folder", "bundled", "gguf", "package"]
_SUFFIX = ".gguf"
_EXACT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model on this machine, with the exact revision of its files.

    Attributes:
        name: The model as the user named it; ``tiny`` for the bundled one.
        folder: Local folder with config.json, the tokenizer and safetensors.
        revision: 40 hex digits: the commit on the hub, or the hash of a folder's files or of a GGUF file.
        origin: Where the files came from.
        file: The GGUF file from which the folder was converted; None for other models.
        missing: Bytes of weights that are still on the hub; above 0 only if ``resolve`` was told to leave them there.
    """

    name: str
    folder: Path
    revision: str
    origin: Origin
    file: Path | None = None
    missing: int = 0

    def __post_init__(self) -> None:
        if not _EXACT.fullmatch(self.revision):
            raise errors.revision_not_exact(self.revision)
        if not self.folder.is_dir():
            raise errors.model_folder_missing(str(self.folder))


def resolve(
    name: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    weights: bool = True,
    token: bool | str | None = None,
    cache_folder: str | None = None,
) -> Source:
    """Find a model, and make sure that all its files are on this machine, complete and safe.

    Args:
        name: A local folder, a GGUF file, a name on the hub, ``smollm2-135m`` for the model in an installed package,
            or ``tiny`` for the bundled model; None for ``smollm2-135m``. These two names are reserved: write
            ``./tiny`` for a folder of that name. Any other folder that exists is preferred to a model of the same
            name on the hub.
        revision: Branch, tag or commit on the hub; None for its main branch. Other models have no revisions to choose.
        local_files_only: Use only the files in the hub's cache, and no network. ``HF_HUB_OFFLINE=1`` does the same.
        weights: Whether to download weights that are on the hub alone; if not, ``missing`` counts their bytes.
        token: The hub's token; None for the one that is saved on this machine.
        cache_folder: The folder for models from the hub; None for the hub's own.

    Returns:
        The folder with its exact revision.

    Raises:
        ModelError: The model cannot be found, is incomplete, or is neither in safetensors nor in a GGUF file.
        FileError: The disk is full, or files cannot be read or written.
    """
    name = DEFAULT if name is None else name
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise errors.model_name_invalid(name, "not a name")
    if text.lower() == BUNDLED:
        return _from_folder(BUNDLED, Path(__file__).parents[1] / "tiny", revision, "bundled")
    if text.lower() in PACKAGED:
        return _from_gguf(text.lower(), packaged_file(text.lower()), revision, "package")
    if (file := existing_gguf(text)) is not None:
        return _from_gguf(text, file, revision, "gguf")
    if (folder := _existing_folder(text)) is not None:
        _check_not_gguf(folder)
        return _from_folder(text, folder, revision, "folder")
    if text.lower().endswith(_SUFFIX):
        raise errors.gguf_missing(text)
    if not on_hub(text) or isinstance(name, os.PathLike):
        raise errors.model_folder_missing(text)
    return _from_hub(text, revision, local_files_only, weights=weights, token=token, cache_folder=cache_folder)


def on_hub(name: str) -> bool:
    """Return whether a name that is no file or folder here can be the name of a model on the hub, and is no path."""
    return not (name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1)


def resolve_adapter(name: str, *, revision: str | None = None, local_files_only: bool = False) -> Source:
    """Find an adapter, which has neither a model nor a tokenizer of its own.

    Args:
        name: A folder, or a name on the hub.
        revision: Branch, tag or commit on the hub; not for a folder.
        local_files_only: As for ``resolve``.

    Raises:
        ModelError: The adapter cannot be found, is incomplete, or is not in safetensors.
        FileError: The disk is full, or files cannot be read or written.
    """
    if (folder := _existing_folder(name)) is not None:
        return _from_folder(name, folder, None, "folder", adapter=True)
    return _from_hub(name, revision, local_files_only, adapter=True)


def joint_revision(source: Source, adapters: Sequence[Source]) -> str:
    """Return the revision of weights with adapters merged in; without adapters, the model's own."""
    if not adapters:
        return source.revision
    parts = [source.revision, *(adapter.revision for adapter in adapters)]
    return hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _from_hub(name: str, revision: str | None, offline: bool, **how: Any) -> Source:
    from echoembed.sources.hub import fetch

    folder, commit, missing = fetch(name, revision, offline=offline, **how)
    return Source(name=name, folder=folder, revision=commit, origin="hub", missing=missing)


def _from_folder(
    name: str, folder: Path, revision: str | None, origin: Literal["folder", "bundled"], *, adapter: bool = False
) -> Source:
    """Check a folder, and return it with the hash of the files that decide the vectors as its revision."""
    if revision is not None:
        raise errors.revision_unused(name, revision)
    try:
        files = checked_files(folder, adapter=adapter)
        digests = [f"{file}\0{_sha1(folder / file)}\n" for file in files]
    except OSError as error:
        raise errors.file_unreadable(str(folder), reason(error)) from error
    exact = hashlib.sha1("".join(digests).encode(), usedforsecurity=False).hexdigest()
    return Source(name=name, folder=folder, revision=exact, origin=origin)


def _from_gguf(name: str, file: Path, revision: str | None, origin: Literal["gguf", "package"]) -> Source:
    """Convert a GGUF file, unless that is done, and return the folder with the hash of file and conversion."""
    from echoembed.sources.gguf.cache import converted

    if revision is not None:
        raise errors.revision_unused(name, revision)
    copy = converted(file, check=lambda sha256: check_file(name, file, sha256) if origin == "package" else None)
    return Source(name=name, folder=copy.folder, revision=copy.revision, origin=origin, file=copy.file)


def existing_gguf(text: str) -> Path | None:
    """Return the GGUF file of this name, or None."""
    try:
        path = Path(text).expanduser()
        return path.absolute() if path.suffix.lower() == _SUFFIX and path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _check_not_gguf(folder: Path) -> None:
    """Refuse a folder that holds a GGUF file instead of a model's files."""
    files: list[Path] = []
    with suppress(OSError):  # a folder that cannot be listed is refused when its files are read
        files = [path for path in folder.iterdir() if path.suffix.lower() == _SUFFIX]
    if len(files) == 1 and not (folder / CONFIG).is_file() and not (folder / MODULES).is_file():
        raise errors.gguf_in_folder(str(folder), str(files[0]))


def _existing_folder(text: str) -> Path | None:
    """Return the folder of this name, or None; refuse a file."""
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.exists():  # also a device or a pipe
            raise errors.model_folder_is_file(text)
        return None
    except (OSError, RuntimeError):  # the name is too long for a file, or ~user does not exist
        return None


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
