"""Where a model comes from: a name becomes a local folder of safe files with an exact revision.

    None            the bundled model  ─┐
    a folder        hash of its content ├─► settings, tokenizer, safetensors, all there and readable ─► Source
    a name          commit on the hub  ─┘

Only what loading needs is fetched, and it is fetched by name: settings, tokenizer, safetensors. Pickles
run code when they are opened, so they are refused; Python files never arrive. What follows is then free to
trust the folder: nothing is missing, nothing is cut short, and the revision says which bytes they are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echoembed import errors
from echoembed.sources.files import checked_files
from echoembed.sources.settings import reason

_EXACT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model on this machine, with the exact revision of its files.

    Attributes:
        name: The model as the user named it; ``tiny`` for the bundled one.
        folder: Local folder with config.json, the tokenizer and safetensors.
        revision: 40 hex digits: the commit on the hub, or the hash of a folder's content.
        origin: Where the files came from.
    """

    name: str
    folder: Path
    revision: str
    origin: Literal["hub", "folder", "bundled"]

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
) -> Source:
    """Find a model and make sure that all its files are on this machine, whole and safe.

    Args:
        name: A local folder, a name on the hub, or None for the bundled model. An existing folder wins over
            a model of the same name on the hub.
        revision: Branch, tag or commit on the hub; None for its main branch. A folder has none.
        local_files_only: Use what the hub's cache holds, and no network. ``HF_HUB_OFFLINE=1`` does the same.

    Returns:
        The folder with its exact revision.

    Raises:
        ModelError: The model cannot be found, is incomplete, or is not in safetensors.
        FileError: The disk is full, or files cannot be read or written.
    """
    if name is None:
        return _from_folder("tiny", Path(__file__).parents[1] / "tiny", revision, "bundled")
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise errors.model_name_invalid(name, "not a name")
    if (folder := _existing_folder(text)) is not None:
        return _from_folder(text, folder, revision, "folder")
    looks_like_path = text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
    if looks_like_path or isinstance(name, os.PathLike):
        raise errors.model_folder_missing(text)
    return _from_hub(text, revision, local_files_only)


def resolve_adapter(name: str, *, revision: str | None = None, local_files_only: bool = False) -> Source:
    """Find an adapter, which has neither a model nor a tokenizer of its own.

    Args:
        name: A folder, or a name on the hub.
        revision: Branch, tag or commit on the hub; of no account for a folder.
        local_files_only: As for ``resolve``.

    Raises:
        ModelError: The adapter cannot be found, is incomplete, or is not in safetensors.
        FileError: The disk is full, or files cannot be read or written.
    """
    if (folder := _existing_folder(name)) is not None:
        return _from_folder(name, folder, None, "folder", adapter=True)
    return _from_hub(name, revision, local_files_only, adapter=True)


def joint_revision(source: Source, adapters: Sequence[Source]) -> str:
    """The revision of weights with adapters merged in: of the model alone where there are none."""
    if not adapters:
        return source.revision
    parts = [source.revision, *(adapter.revision for adapter in adapters)]
    return hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _from_hub(name: str, revision: str | None, offline: bool, *, adapter: bool = False) -> Source:
    from echoembed.sources.hub import fetch

    folder, commit = fetch(name, revision, offline=offline, adapter=adapter)
    return Source(name=name, folder=folder, revision=commit, origin="hub")


def _from_folder(
    name: str, folder: Path, revision: str | None, origin: Literal["folder", "bundled"], *, adapter: bool = False
) -> Source:
    """The source for a folder: checked, its revision the hash of what decides the vectors."""
    if revision is not None:
        raise errors.revision_of_folder(name, revision)
    try:
        files = checked_files(folder, adapter=adapter)
        digests = [f"{file}\0{_sha1(folder / file)}\n" for file in files]
    except OSError as error:
        raise errors.model_folder_unreadable(str(folder), reason(error)) from error
    exact = hashlib.sha1("".join(digests).encode(), usedforsecurity=False).hexdigest()
    return Source(name=name, folder=folder, revision=exact, origin=origin)


def _existing_folder(text: str) -> Path | None:
    """The folder that a text names, or None; a file is refused."""
    try:
        path = Path(text).expanduser()
        if path.is_file():
            raise errors.model_folder_is_file(text)
        return path.resolve() if path.is_dir() else None
    except (OSError, RuntimeError):  # longer than a file name may be; a home that does not exist
        return None


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
