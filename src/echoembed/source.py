"""Where a model comes from: a name becomes a local folder of safe files with an exact revision.

    None            the bundled model  ─┐
    a folder        hash of its content ├─► settings, tokenizer, safetensors, all there and readable ─► Source
    a name          commit on the hub  ─┘

Only what loading needs is fetched, and it is fetched by name: settings, tokenizer, safetensors. Pickles
run code when they are opened, so they are refused; Python files never arrive. What follows is then free to
trust the folder: nothing is missing, nothing is cut short, and the revision says which bytes they are.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from echoembed import errors

_Json = TypeVar("_Json")
_EXACT = re.compile(r"[0-9a-f]{40}")
_CONFIG = "config.json"
_MODULES = "modules.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER = "adapter_model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What decides the vectors besides the weights: settings of the model, of sentence-transformers and of its
# modules, and the tokenizer. Both the download and the hash of a folder take these and no others.
_SETTINGS = (
    "*config.json",
    "config_sentence_transformers.json",
    _MODULES,
    _INDEX,
    "tokenizer*.json",
    "vocab*.json",
    "vocab*.txt",
    "merges*.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
_UNUSED = "generation_config.json"
_TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"})


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
        return _from_folder("tiny", Path(__file__).parent / "tiny", revision, "bundled")
    text = os.fspath(name) if isinstance(name, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise errors.model_name_invalid(name, "not a name")
    if (folder := _existing_folder(text)) is not None:
        return _from_folder(text, folder, revision, "folder")
    looks_like_path = text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
    if looks_like_path or isinstance(name, os.PathLike):
        raise errors.model_folder_missing(text)
    return _from_hub(text, revision, local_files_only)


def check_weights(folder: Path) -> None:
    """Refuse weights that are pickled, missing or damaged.

    Every safetensors file that loading would read is opened: its header must be whole, the file must be as
    long as the header says, and each shard must hold the tensors that the index promises.

    Args:
        folder: A model folder, as ``save_pretrained`` writes it.

    Raises:
        ModelError: No safetensors, a missing shard, or a damaged file.
    """
    modules = _modules(folder)
    for file, promised in _weights(str(folder), _names(folder, modules), folder, modules).items():
        _check_tensors(folder / file, promised)


def _from_folder(name: str, folder: Path, revision: str | None, origin: Literal["folder", "bundled"]) -> Source:
    """The source for a folder: checked, its revision the hash of what decides the vectors."""
    if revision is not None:
        raise errors.revision_of_folder(name, revision)
    try:
        files = _checked(folder)
        digests = [f"{file}\0{_sha1(folder / file)}\n" for file in files]
    except OSError as error:
        raise errors.model_folder_unreadable(str(folder), _reason(error)) from error
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


# Reading a folder


def _checked(folder: Path) -> list[str]:
    """All files of a folder that decide the vectors, sorted; each of them is there and can be read."""
    modules = _modules(folder)
    names = _names(folder, modules)
    _require(str(folder), names)
    settings = _settings(names, modules)
    for file in settings:
        if file.endswith(".json"):
            _read_json(folder / file, dict if file == _CONFIG else object)
    check_weights(folder)
    return sorted([*settings, *_weights(str(folder), names, folder, modules)])


def _names(folder: Path, modules: Collection[str]) -> set[str]:
    """Names of the files at the folder's root and below its modules; checkpoints beside them are not ours."""
    found = [path for path in folder.iterdir() if path.is_file()]
    for module in modules:
        found += [path for path in (folder / module).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix() for path in found}


def _modules(folder: Path) -> list[str]:
    """Subfolders that sentence-transformers' modules.json names, such as ``1_Pooling``."""
    path = folder / _MODULES
    rows = _read_json(path, list) if path.is_file() else []
    paths = [str(row.get("path", "..")) if isinstance(row, dict) else ".." for row in rows]
    if not all(map(_stays_inside, paths)):
        raise errors.model_json_broken(str(path), "each module needs a path inside the model's folder")
    return [PurePosixPath(inner).as_posix() for inner in paths if inner not in {"", "."}]


def _settings(names: Collection[str], modules: Collection[str]) -> list[str]:
    """Those names that are settings or tokenizer, at the root and below the modules."""
    return sorted(
        name
        for name in names
        if ("/" not in name or _below(name, modules))
        and (last := PurePosixPath(name).name) != _UNUSED
        and any(fnmatchcase(last, pattern) for pattern in _SETTINGS)
    )


def _require(where: str, names: Collection[str]) -> None:
    """Refuse a list of files without settings or tokenizer, before any of them is fetched."""
    if _CONFIG not in names:
        alone = _ADAPTER_CONFIG in names
        raise errors.model_adapter_alone(where) if alone else errors.model_config_missing(where)
    sentencepiece = any("/" not in name and name.endswith(".model") for name in names)
    if not sentencepiece and not any(files <= set(names) for files in _TOKENIZERS):
        raise errors.model_tokenizer_missing(where)


def _weights(where: str, names: Collection[str], folder: Path, modules: Collection[str]) -> dict[str, set[str]]:
    """The safetensors files to load, each with the tensors that an index promises to be in it.

    Args:
        where: The folder or the model, for messages.
        names: Files that are there, or that the hub has.
        folder: Holds the index, if there is one.
        modules: Subfolders of modules; their safetensors belong to the model.
    """
    files: dict[str, set[str]] = {}
    if _WEIGHTS in names:  # transformers, too, prefers the one file to shards beside it
        files[_WEIGHTS] = set()
    elif _INDEX in names:
        files |= _shards(folder / _INDEX)
        if missing := sorted(set(files) - set(names)):
            raise errors.weights_shard_missing(where, missing)
    else:
        raise _without_safetensors(where, [name for name in names if "/" not in name])
    if _ADAPTER_CONFIG in names:
        files[_ADAPTER] = set()
        if _ADAPTER not in names:
            raise _without_safetensors(where, [name for name in names if name.startswith("adapter_model")])
    for module in modules:
        inside = [name for name in names if _below(name, [module])]
        tensors = [name for name in inside if name.endswith(".safetensors")]
        if not tensors and any(name.endswith(_PICKLED) for name in inside):
            raise _without_safetensors(where, inside)
        files |= {name: set() for name in tensors}
    return files


def _shards(index: Path) -> dict[str, set[str]]:
    """Shards that an index names, each with its tensors."""
    weight_map = _read_json(index, dict).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise errors.model_json_broken(str(index), "it has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or "/" in file or not _stays_inside(file) or not file.endswith(".safetensors"):
            raise errors.model_json_broken(str(index), f"it names the file {errors.quoted(file)}")
        shards.setdefault(file, set()).add(tensor)
    return shards


def _check_tensors(path: Path, promised: Collection[str]) -> None:
    """Open a safetensors file: header and length agree, and the promised tensors are in it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            missing = sorted(set(promised) - set(file.keys()))
    except SafetensorError as error:
        raise errors.weights_damaged(str(path), _reason(error)) from error
    # A tensor that is not there would be drawn at random: vectors, but not this model's.
    if missing:
        raise errors.weights_damaged(str(path), f"tensor {errors.quoted(missing[0])} of the index is not in it")


def _without_safetensors(where: str, names: Collection[str]) -> errors.ModelError:
    pickled = sorted(name for name in names if name.endswith(_PICKLED))
    return errors.weights_pickled(where, pickled) if pickled else errors.weights_missing(where)


def _read_json(path: Path, kind: type[_Json]) -> _Json:
    """The content of a JSON file, of the kind that is asked for."""
    try:
        content: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise errors.model_json_broken(str(path), _reason(error)) from error
    if not isinstance(content, kind):
        raise errors.model_json_broken(str(path), f"it holds a {type(content).__name__}, not a {kind.__name__}")
    return content


def _below(name: str, modules: Collection[str]) -> bool:
    return any(name.startswith(f"{module}/") for module in modules)


def _stays_inside(inner: str) -> bool:
    """Whether a relative name stays inside the folder it is joined to."""
    return not inner.startswith("/") and "\\" not in inner and ".." not in PurePosixPath(inner).parts


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


# Fetching from the hub


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """One commit of a model in the hub's cache, of which only some files may have arrived."""

    name: str
    shown: str  # the name with the revision that was asked for, for messages
    sha: str
    folder: Path
    sizes: dict[str, int]  # bytes of each file, as the hub lists them
    offline: bool

    def take(self, files: Collection[str]) -> None:
        """Have these files in the folder, each as long as the hub says, or raise."""
        if not self.offline:
            self._download(files)
            # The hub's client trusts any file of the right name, so a damaged one would stay for ever.
            self._download(self._short(files), force=True)
        if short := self._short(files):
            raise errors.hub_cache_incomplete(self.shown, self.sha, ", ".join(short))

    def _short(self, files: Collection[str]) -> list[str]:
        paths = {file: self.folder / file for file in files}
        return sorted(f for f, p in paths.items() if not p.is_file() or p.stat().st_size != self.sizes[f])

    def _download(self, files: Collection[str], *, force: bool = False) -> None:
        from huggingface_hub import snapshot_download

        if not files:
            return
        with _explained(self.shown, errors.hub_download_interrupted):
            snapshot_download(
                self.name,
                revision=self.sha,
                allow_patterns=[glob.escape(file) for file in files],
                force_download=force,
            )


def _from_hub(name: str, revision: str | None, offline: bool) -> Source:
    """The source for a model on the hub: every call after the first names the commit, so none can mix two."""
    from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    if revision is not None and not revision.strip():
        raise errors.hub_revision_unknown(name, revision)
    shown = name if revision is None else f"{name}@{revision}"
    offline = offline or constants.HF_HUB_OFFLINE
    sizes: dict[str, int] | None = None
    with _explained(shown, errors.hub_not_cached if offline else errors.hub_unreachable):
        sha = HfApi().resolve_revision(name, revision=revision, local_files_only=offline).resolved
        first = [] if offline else [_CONFIG]
        folder = Path(snapshot_download(name, revision=sha, local_files_only=offline, allow_patterns=first))
        with suppress(CachedRepoTreeNotFoundError):
            sizes = {file.path: file.size for file in get_cached_repo_tree(name, revision=sha)}
    if sizes is None:
        _check_unlisted(folder, shown, sha)
    else:
        snapshot = _Snapshot(name=name, shown=shown, sha=sha, folder=folder, sizes=sizes, offline=offline)
        _require(shown, sizes)
        snapshot.take(_settings(sizes, []))
        modules = _modules(folder)
        snapshot.take([*_settings(sizes, modules), *_weights(shown, sizes, folder, modules)])
        _checked(folder)
    return Source(name=name, folder=folder, revision=sha, origin="hub")


def _check_unlisted(folder: Path, shown: str, sha: str) -> None:
    """Check a snapshot that another tool left in the cache without the list of its files."""
    try:
        _checked(folder)
    except errors.ModelError as error:
        raise errors.hub_cache_incomplete(shown, sha, re.split(r"\. (?=[A-Z])", str(error))[0]) from error


@contextmanager
def _explained(shown: str, otherwise: Callable[[str, str], errors.ModelError]) -> Iterator[None]:
    """Turn whatever the hub's client raises into one line that says what to do.

    Args:
        shown: The model, for messages.
        otherwise: Builds the error for what is neither a refusal by the hub nor a fault of this disk.
    """
    try:
        yield
    except Exception as error:
        raise _explanation(error, shown, otherwise) from error


def _explanation(
    error: BaseException, shown: str, otherwise: Callable[[str, str], errors.ModelError]
) -> errors.EchoembedError:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    link: BaseException | None = error
    while link is not None:
        error, link = link, link.__cause__  # the client wraps: the cause at the end says what happened
        if isinstance(error, hub.HFValidationError):
            return errors.model_name_invalid(shown, "the hub allows no such name")
        if isinstance(error, hub.GatedRepoError):
            return errors.hub_model_gated(shown, constants.ENDPOINT)
        if isinstance(error, hub.RevisionNotFoundError):
            return errors.hub_revision_unknown(*shown.partition("@")[::2])
        if isinstance(error, hub.RepositoryNotFoundError):
            return errors.hub_model_unknown(shown, constants.ENDPOINT)
        if isinstance(error, hub.HfHubHTTPError) and error.response.status_code < 500:
            return errors.hub_refused(shown, error.response.status_code, _reason(error))
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return errors.hub_cache_full(shown, constants.HF_HUB_CACHE)
        if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            return errors.hub_cache_not_writable(shown, constants.HF_HUB_CACHE)
    return otherwise(shown, _reason(error))


def _reason(error: BaseException) -> str:
    """An error as a part of a message: its kind and text on one line, not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
