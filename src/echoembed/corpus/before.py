"""The content of a corpus's folder before a build, and whether its vectors can be compared with new vectors."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from echoembed import errors
from echoembed.corpus import folder as corpus_folder
from echoembed.corpus import manifest as manifests
from echoembed.corpus import shard
from echoembed.corpus.encoder import Identity, shown
from echoembed.corpus.manifest import MANIFEST, SHARDS, Manifest
from echoembed.corpus.shard import Entry, Precision

REMEDY = "Load the model as it was, or build into another folder"
Name = tuple[int, str]


@dataclass
class Before:
    """The content of the folder before a build.

    Args:
        folder: The corpus's folder.
        identity: The identity of the vectors to be made.
        precision: The precision in which they will be stored.

    Attributes:
        manifest: The old manifest; None for a first build, or if the manifest and its backup are lost.
        remarks: A line for each damage that was found.

    Raises:
        CorpusError: If the folder's vectors have another identity or precision.
    """

    folder: Path
    identity: Identity
    precision: Precision
    manifest: Manifest | None = field(init=False)
    remarks: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._there = corpus_folder.shards_in(self.folder)
        try:
            self.manifest = manifests.read(self.folder)
        except errors.CorpusVersionError:
            raise
        except errors.CorpusError as error:
            self.manifest = None
            self._without_manifest(error)
        if self.manifest is not None:
            self._refuse_others(self.manifest.identity, self.manifest.precision)
            if damage := manifests.damage(self.folder):
                self.remarks.append(f"{damage}: it has been restored from {manifests.BACKUP}")
            for name, (was, now) in self.manifest.identity.other_numerics(self.identity).items():
                self.remarks.append(f"{name} was {was} and is {now} now: new vectors differ in their last digits")
        entries = self.manifest.shards if self.manifest else ()
        self._named = {(entry.number, entry.key): entry.name for entry in entries}
        self._known = set(self._there) | set(self._named)
        self._numbers = {number for number, _ in self._known}

    def _without_manifest(self, error: errors.CorpusError) -> None:
        paths = self._paths()
        if (self.folder / MANIFEST).exists() or paths:
            self.remarks.append(f"{str(error).split('. ')[0]}: it has been rebuilt from {len(paths):,} shards")
        for path in paths:
            if shard.whole(path):
                about = shard.meta_of(path)
                if about.get("format") != manifests.FORMAT:
                    raise errors.corpus_foreign_version(self.folder, about.get("format"), manifests.FORMAT)
                self._refuse_others(Identity(**about["identity"]), about["precision"])

    def _refuse_others(self, identity: Identity, precision: str) -> None:
        differences = identity.differences(self.identity)
        if identity.instruction != self.identity.instruction:
            differences["instruction"] = (identity.instruction, self.identity.instruction)
        if precision != self.precision:
            differences["precision"] = (precision, self.precision)
        if differences:
            raise errors.corpus_differs(self.folder, shown(differences), REMEDY)

    def present(self, number: int, key: str) -> Entry | None:
        """Return the shard of these rows if it exists and is undamaged; remove a damaged shard, with a remark."""
        paths = self._there.get((number, key), [])
        for path in paths:
            entry = shard.entry_of(path)
            if entry is not None:
                return entry
            self.remarks.append(f"{SHARDS}/{path.name} was damaged: it has been made again")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not paths and (number, key) in self._named:
            self.remarks.append(f"{SHARDS}/{self._named[number, key]} was missing: it has been made again")
        return None

    def has_changed(self, number: int, key: str) -> bool:
        """Return whether a shard of this number was made for other rows, so that the inputs have changed since."""
        return number in self._numbers and (number, key) not in self._known

    def usable(self) -> list[Path]:
        """List the shards whose vectors can be copied: first those of the manifest, then those of a killed build."""
        named = set(self._named.values())
        usable = []
        for path in sorted(self._paths(), key=lambda path: path.name not in named):
            if not path.exists():
                continue
            if shard.whole(path):
                usable.append(path)
            else:
                self.remarks.append(f"{SHARDS}/{path.name} was damaged: its texts have been embedded again")
        return [path for path in usable if self._alike(path)]

    def _alike(self, path: Path) -> bool:
        about = shard.meta_of(path)
        same = about["identity"]["decides"] == self.identity.as_dict()["decides"]
        return bool(same and about["precision"] == self.precision)

    def _paths(self) -> list[Path]:
        return [path for paths in self._there.values() for path in paths]
