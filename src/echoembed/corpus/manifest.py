"""The manifest: the content of a corpus and the origin of its vectors. It is written last, and never in part."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from echoembed import errors
from echoembed.corpus.encoder import Identity
from echoembed.corpus.records import Keep
from echoembed.corpus.shard import PRECISIONS, Entry, Precision
from echoembed.files import WholeFile, reason_of, sync_folder
from echoembed.recipe import Recipe

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FORMAT = 1
MANIFEST = "manifest.json"
BACKUP = "manifest.backup.json"
SHARDS = "shards"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a corpus.

    Attributes:
        state: ``complete``, or ``building`` until the first build has ended.
        identity: The identity of the vectors.
        precision: ``float32``, ``float16`` or ``int8``.
        dimension: The vectors' dimension.
        keep: Further columns that are stored.
        kind: The template that read the texts.
        load: Arguments of ``echoembed.load`` that load the model again, if they are known.
        inputs: Files and folders as they were given.
        rejected: How many rows and texts were rejected.
        shards: The shards, in order.
    """

    state: Literal["building", "complete"]
    identity: Identity
    precision: Precision
    dimension: int
    keep: tuple[Keep, ...] = ()
    kind: str = "document"
    load: Mapping[str, object] | None = None
    inputs: Sequence[str] = ()
    rejected: int = 0
    shards: Sequence[Entry] = field(default=(), repr=False)

    @property
    def rows(self) -> int:
        """Return the number of texts with a vector."""
        return sum(entry.rows for entry in self.shards)

    def encoded(self) -> bytes:
        """Return the manifest as JSON."""
        plain = {
            "format": FORMAT,
            **{name: value for name, value in asdict(self).items() if name not in ("identity", "keep", "shards")},
            "identity": self.identity.as_dict(),
            "keep": [list(kept) for kept in self.keep],
            "rows": self.rows,
            "shards": [entry._asdict() for entry in self.shards],
        }
        return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Self:
        """Read the manifest in a file's bytes.

        Raises:
            CorpusError: If another version wrote the file, or it is not a manifest.
        """
        try:
            plain = json.loads(data)
            version = plain["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise errors.corpus_damaged(path, "it is empty" if not data.strip() else "it is no manifest") from error
        if version != FORMAT:
            raise errors.corpus_foreign_version(path.parent, version, FORMAT)
        try:
            _check_values(plain)
            return cls(
                **{
                    name: plain[name]
                    for name in ("state", "precision", "dimension", "kind", "load", "inputs", "rejected")
                },
                identity=Identity(**plain["identity"]),
                keep=tuple(Keep(*kept).checked() for kept in plain["keep"]),
                shards=tuple(Entry(**entry).checked() for entry in plain["shards"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, errors.CorpusError) as error:
            raise errors.corpus_damaged(path, f"it is no manifest ({error})") from error


def _check_values(plain: Mapping[str, Any]) -> None:
    """Check the values of a manifest.

    Raises:
        ValueError: If one of them is none that a version writes.
        KeyError: If one of them is missing.
    """
    names = [entry["name"] for entry in plain["shards"]]
    right = {
        "state": plain["state"] in ("building", "complete"),
        "precision": plain["precision"] in PRECISIONS,
        "dimension": type(plain["dimension"]) is int
        and plain["dimension"] == plain["identity"]["decides"].get("dimension", plain["dimension"]) >= 1,
        "kind": isinstance(plain["kind"], str),
        "load": plain["load"] is None or isinstance(plain["load"], dict),
        "inputs": isinstance(plain["inputs"], list) and all(isinstance(name, str) for name in plain["inputs"]),
        "rejected": type(plain["rejected"]) is int and plain["rejected"] >= 0,
        "identity": all(isinstance(plain["identity"][name], dict) for name in ("decides", "names", "numerics")),
        "keep": len({kept[0] for kept in plain["keep"]}) == len(plain["keep"]),
        "shards": len(set(names)) == len(names) and (bool(names) or plain["state"] == "building"),
    }
    wrong = next((name for name, holds in right.items() if not holds), None)
    if wrong is not None:
        raise ValueError(f"its {wrong!r} is {errors.quoted(plain[wrong], 100)}")


def stamp(folder: Path) -> tuple[int, ...] | None:
    """Return what changes whenever a manifest is written, without reading it; None if there is none."""
    try:
        status = (folder / MANIFEST).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def read(folder: Path) -> Manifest:
    """Read the manifest of a corpus, or its backup if the manifest is damaged.

    Raises:
        CorpusError: If there is no manifest, both are damaged, or another version wrote the manifest.
    """
    first_error: errors.CorpusError | None = None
    for name in (MANIFEST, BACKUP):
        path = folder / name
        try:
            return Manifest.parse(path.read_bytes(), path)
        except FileNotFoundError:
            first_error = first_error or (
                errors.corpus_damaged(path, "it is missing") if (folder / SHARDS).is_dir() else None
            )
        except OSError as error:
            raise errors.file_unreadable(str(path), reason_of(error)) from error
        except errors.CorpusVersionError:
            raise
        except errors.CorpusError as error:
            first_error = first_error or error
    raise first_error or errors.corpus_missing(folder)


def write(folder: Path, manifest: Manifest) -> None:
    """Write the backup, then the manifest, each synced and renamed, so that at any moment one of them is complete.

    Raises:
        FileError: If the disk is full or cannot be written to.
    """
    data = manifest.encoded()
    for name in (BACKUP, MANIFEST):
        with WholeFile(folder / name, overwrite=True) as file:
            file.handle.write(data)
            file.seal()
            file.commit()
        with contextlib.suppress(OSError):
            sync_folder(folder)


def damage(folder: Path) -> str | None:
    """Return what is wrong with the manifest if the backup was read in its place; else None."""
    path = folder / MANIFEST
    try:
        Manifest.parse(path.read_bytes(), path)
    except FileNotFoundError:
        return f"{MANIFEST} was missing"
    except errors.CorpusError:
        return f"{MANIFEST} was damaged"
    return None


def plain_load(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of ``echoembed.load`` as the manifest stores them, without those that are None.

    Folders and files of models are stored with their whole path, for whoever loads the model in another folder.
    """
    plain = {name: value for name, value in arguments.items() if value is not None}
    for name in ("model", "adapter"):
        if name in plain:
            plain[name] = _located(plain[name])
    if isinstance(recipe := plain.get("recipe"), Recipe):
        local = replace(
            recipe,
            checkpoint=_located(recipe.checkpoint) if recipe.checkpoint else "",
            adapters=tuple(map(_located, recipe.adapters)),
        )
        plain["recipe"] = local.as_dict()
    return plain


def _located(name: str | os.PathLike[str]) -> str:
    """Return the name of a model or an adapter: of a folder or a file, its whole path."""
    from echoembed.files import folder_of
    from echoembed.sources.adapters import bundled
    from echoembed.sources.packaged import RESERVED
    from echoembed.sources.resolve import existing_gguf

    text = os.fspath(name)
    if text.lower() in RESERVED or text in bundled():
        return text
    path = existing_gguf(text) or folder_of(text)
    return text if path is None else str(path.absolute())


def load_model(manifest: Manifest) -> SentenceTransformer:
    """Load the model with which a corpus was built.

    Raises:
        CorpusError: If the manifest names no model.
        ModelError: If the model cannot be loaded.
    """
    import echoembed

    if manifest.load is None:
        raise errors.CorpusError.bad_value("model", None, "a model from echoembed.load, for the manifest names none")
    arguments: dict[str, Any] = dict(manifest.load)
    if isinstance(arguments.get("recipe"), dict):
        arguments["recipe"] = Recipe(**arguments["recipe"])
    return echoembed.load(**arguments)
