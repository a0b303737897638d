"""The manifest: what a corpus holds and where its vectors come from. It is written last, and whole."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    """What a corpus holds.

    Attributes:
        state: ``complete``, or ``building`` until the first build has ended.
        identity: Where the vectors come from.
        precision: ``float32``, ``float16`` or ``int8``.
        dimension: The vectors' dimension.
        keep: Further columns that are stored.
        kind: The template that the texts were read with.
        load: Arguments of ``echoembed.load`` that give the model again, where they are known.
        inputs: Files and folders as they were given.
        rejected: Rows and texts that were set aside.
        shards: In order.
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
        """Texts with a vector."""
        return sum(entry.rows for entry in self.shards)

    def encoded(self) -> bytes:
        """The manifest as JSON."""
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
        """The manifest that a file holds.

        Raises:
            CorpusError: If another version wrote it, or it is no manifest.
        """
        try:
            plain = json.loads(data)
            version = plain["format"]
        except (ValueError, TypeError, KeyError) as error:
            raise errors.corpus_damaged(path, "it is empty" if not data.strip() else "it is no manifest") from error
        if version != FORMAT:
            raise errors.corpus_foreign_version(path.parent, version, FORMAT)
        try:
            if plain["state"] not in ("building", "complete") or plain["precision"] not in PRECISIONS:
                raise ValueError("a value that no version writes")
            return cls(
                **{
                    name: plain[name]
                    for name in ("state", "precision", "dimension", "kind", "load", "inputs", "rejected")
                },
                identity=Identity(**plain["identity"]),
                keep=tuple(Keep(*kept) for kept in plain["keep"]),
                shards=tuple(Entry(**entry) for entry in plain["shards"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise errors.corpus_damaged(path, f"it is no manifest ({error})") from error


def read(folder: Path) -> Manifest:
    """The manifest of a corpus, from its backup where it is damaged.

    Raises:
        CorpusError: If there is none, both are damaged, or another version wrote it.
    """
    first: errors.CorpusError | None = None
    for name in (MANIFEST, BACKUP):
        path = folder / name
        try:
            return Manifest.parse(path.read_bytes(), path)
        except FileNotFoundError:
            first = first or (errors.corpus_damaged(path, "it is missing") if (folder / SHARDS).is_dir() else None)
        except OSError as error:
            raise errors.file_unreadable(str(path), reason_of(error)) from error
        except errors.CorpusVersionError:
            raise
        except errors.CorpusError as error:
            first = first or error
    raise first or errors.corpus_missing(folder)


def write(folder: Path, manifest: Manifest) -> None:
    """Write backup and manifest, each synced and renamed: at any moment one of them is whole.

    Raises:
        FileError: If the disk is full, or cannot be written.
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
    """What is wrong with the manifest itself, where its backup has stood in for it."""
    path = folder / MANIFEST
    try:
        Manifest.parse(path.read_bytes(), path)
    except FileNotFoundError:
        return f"{MANIFEST} was missing"
    except errors.CorpusError:
        return f"{MANIFEST} was damaged"
    return None


def plain_load(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``echoembed.load`` as the manifest holds them, without those that are None."""
    plain = {name: value.as_dict() if isinstance(value, Recipe) else value for name, value in given.items()}
    return {name: value for name, value in plain.items() if value is not None}


def load_model(manifest: Manifest) -> SentenceTransformer:
    """The model that a corpus was built with.

    Raises:
        CorpusError: If the manifest names none.
        ModelError: If it cannot be loaded.
    """
    import echoembed

    if manifest.load is None:
        raise errors.CorpusError.bad_value("model", None, "a model from echoembed.load, for the manifest names none")
    given: dict[str, Any] = dict(manifest.load)
    if isinstance(given.get("recipe"), dict):
        given["recipe"] = Recipe(**given["recipe"])
    return echoembed.load(**given)
