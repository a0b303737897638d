"""The folder into which a GGUF file is converted: complete or absent, and the same on every machine.

    ECHOEMBED_CACHE/gguf/files/…json          the hash of a file or of converted weights, noted when it was last made
    ECHOEMBED_CACHE/gguf/REVISION/            settings, tokenizer, safetensors, and the manifest, written last
    ECHOEMBED_CACHE/gguf/.REVISION.….part/    a folder that is being made
    ECHOEMBED_CACHE/gguf/.REVISION.lock       locked by the process that makes the folder

The revision is a hash of the file's bytes and of the conversion's number. It does not depend on the file's place or
name, nor on the versions of the libraries.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.files import reason_of, system_reason, whole_folder, write_text
from echoembed.progress import Progress
from echoembed.sources.gguf.file import read

CONVERSION = 1
"""Increased whenever a change of ours converts the same file into other weights or token ids; all revisions change."""
CACHE = "ECHOEMBED_CACHE"
MANIFEST = "echoembed_gguf.json"
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A GGUF file and the folder into which it was converted.

    Attributes:
        file: The GGUF file.
        sha256: The hash of its bytes.
        revision: 40 hexadecimal digits: the hash of ``sha256`` and the conversion's number.
        folder: The folder with config.json, the tokenizer, model.safetensors and the manifest.
    """

    file: Path
    sha256: str
    revision: str
    folder: Path


def home() -> Path:
    """Return the folder of all converted models."""
    from platformdirs import user_cache_path

    chosen = os.environ.get(CACHE)
    folder = Path(chosen).expanduser() if chosen else user_cache_path("echoembed", appauthor=False)
    return folder.absolute() / "gguf"


def converted(file: Path, *, check: Callable[[str], None] = lambda _: None) -> Converted:
    """Return the converted folder of a file; converts the file now if the folder is missing or incomplete.

    Args:
        file: The GGUF file.
        check: Called with the file's SHA-256 before anything is converted; may raise to refuse the file.

    Raises:
        ModelError: If the file is damaged, or of a kind that cannot be read exactly.
        FileError: If the file cannot be read, or the cache cannot be written.
    """
    try:
        sha256 = digest(file)
        check(sha256)
        revision = revision_of(sha256)
        folder = home() / revision
        if not _whole(folder, sha256):
            _make(file, sha256, folder)
    except OSError as error:
        if isinstance(error, errors.FileError):
            raise
        if error.filename is not None and Path(str(error.filename)) == file:
            raise errors.file_unreadable(str(file), reason_of(error)) from error
        raise errors.gguf_cache_unwritable(str(file), str(home()), reason_of(error)) from error
    except Exception as error:
        reason = system_reason(error)
        if reason is None:
            raise
        raise errors.gguf_cache_unwritable(str(file), str(home()), reason) from error
    return Converted(file=file, sha256=sha256, revision=revision, folder=folder)


def revision_of(sha256: str) -> str:
    """Return the revision of a file with this hash."""
    return hashlib.sha1(f"gguf-{CONVERSION}\n{sha256}".encode(), usedforsecurity=False).hexdigest()


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, from a note if the file has not changed since it was last hashed."""
    note, seen = _note(file)
    noted = _read(note)
    if {key: noted.get(key) for key in seen} == seen and isinstance(noted.get("sha256"), str):
        return str(noted["sha256"])
    sha256 = _hash(file)
    _write_note(note, seen, sha256)
    return sha256


def _note(file: Path) -> tuple[Path, dict[str, Any]]:
    """Return where a file's hash is noted, and what shows that the file is still the one that was hashed."""
    path = file.resolve()
    state = path.stat()
    seen = {"path": str(path), "size": state.st_size, "changed": [state.st_mtime_ns, state.st_ctime_ns, state.st_ino]}
    name = hashlib.sha1(os.fsencode(path), usedforsecurity=False).hexdigest()
    return home() / "files" / f"{name}.json", seen


def _write_note(note: Path, seen: dict[str, Any], sha256: str) -> None:
    with suppress(OSError):  # without the note, the next load hashes the file again
        write_text(note, _json({**seen, "sha256": sha256}))


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def facts(revision: str) -> dict[str, str]:
    """Return facts about a converted model for people to read: file, hash and folder; empty if there is none."""
    manifest = _read(home() / revision / MANIFEST)
    if not manifest:
        return {}
    return {"file": str(manifest["file"]), "sha256": str(manifest["sha256"]), "folder": str(home() / revision)}


def _whole(folder: Path, sha256: str) -> bool:
    """Return whether a folder is as the conversion left it: all files have their hash.

    The weights, which are large, are hashed only if the file has changed since they last were.
    """
    manifest = _read(folder / MANIFEST)
    if manifest.get("sha256") != sha256 or manifest.get("conversion") != CONVERSION:
        return False
    try:
        return bool(manifest["files"]) and all(
            _state(folder / name, digest if name == _WEIGHTS else _hash) == state
            for name, state in manifest["files"].items()
        )
    except (OSError, TypeError, AttributeError, KeyError):
        return False


def _state(path: Path, hash_of: Callable[[Path], str]) -> list[Any]:
    return [path.stat().st_size, hash_of(path)]


def _make(file: Path, sha256: str, folder: Path) -> None:
    """Convert the file, unless another process does so now."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if _whole(folder, sha256):  # another process has made the folder meanwhile
            return
        with whole_folder(folder, overwrite=True) as new:  # a folder that exists is damaged, as _whole said
            _convert(file, new)
            names = sorted(path.name for path in new.iterdir())
            states = {name: _state(new / name, _hash) for name in names}
            manifest = {"conversion": CONVERSION, "file": str(file.resolve()), "sha256": sha256, "files": states}
            (new / MANIFEST).write_text(_json(manifest), encoding="utf-8")
        _write_note(*_note(folder / _WEIGHTS), states[_WEIGHTS][1])


def _convert(file: Path, folder: Path) -> None:
    """Write settings, tokenizer and weights; refuse a file that cannot be read exactly before any weight is written."""
    from echoembed.sources.gguf import settings, tokenizer, weights

    head = read(file)
    shape = settings.shape_of(head)
    rows, present = weights.plan(head, shape)
    ids = tokenizer.write(head, folder)
    config = {**shape.config, **present, **ids}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    total = sum(map(weights.count, rows))
    with Progress(lambda: total, what=f"converting {file.name}, once", unit="weights") as progress:
        weights.write(head, rows, folder / _WEIGHTS, done=progress)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for any other process that makes the same folder, and hold its lock in the block."""
    from filelock import FileLock

    with FileLock(folder.parent / f".{folder.name}.lock"):
        yield


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of ours; empty if the file is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=True) + "\n"
