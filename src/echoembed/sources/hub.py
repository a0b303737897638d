"""Downloads from the Hugging Face hub: only the files that loading needs, by name, and all from one commit."""

from __future__ import annotations

import errno
import glob
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.sources.files import (
    CONFIG,
    MODULES,
    checked_files,
    module_folders,
    require,
    setting_files,
    weight_files,
)
from echoembed.sources.settings import check_bytes, reason


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    """One commit of a model in the hub's cache, where some of its files may still be missing."""

    name: str
    shown: str  # the name with the revision that was asked for, for messages
    sha: str
    folder: Path
    sizes: dict[str, int]  # bytes of each file, as the hub lists them
    offline: bool
    token: bool | str | None
    cache: str | None

    def take(self, files: Collection[str]) -> None:
        """Download these files into the folder, and check that each is as long as the hub says."""
        for file in files:
            check_bytes(f"{self.shown}/{file}", self.sizes[file])
        if not self.offline:
            self._download(files)
            # The hub's client keeps any file of the right name, so a damaged file would stay for ever.
            self._download(self.short(files), force=True)
        if short := self.short(files):
            raise errors.hub_cache_incomplete(self.shown, self.sha, ", ".join(short))

    def short(self, files: Collection[str]) -> list[str]:
        """Return the files that are missing, or not as long as the hub says."""
        paths = {file: self.folder / file for file in files}
        return sorted(f for f, p in paths.items() if not p.is_file() or p.stat().st_size != self.sizes[f])

    def _download(self, files: Collection[str], *, force: bool = False) -> None:
        from huggingface_hub import snapshot_download

        if not files:
            return
        with _explained(self.shown, errors.hub_download_interrupted, self.cache):
            snapshot_download(
                self.name,
                revision=self.sha,
                cache_dir=self.cache,
                token=self.token,
                allow_patterns=[glob.escape(file) for file in files],
                force_download=force,
            )


def fetch(
    name: str,
    revision: str | None,
    *,
    offline: bool,
    adapter: bool = False,
    weights: bool = True,
    token: bool | str | None = None,
    cache_folder: str | None = None,
) -> tuple[Path, str, int]:
    """Download a model or an adapter into the hub's cache. The revision becomes a commit once, for all files.

    Args:
        name: The model's name on the hub.
        revision: Branch, tag or commit; None for the main branch.
        offline: Use only the cache.
        adapter: Whether an adapter is asked for, not a model.
        weights: Whether to download the weights; if not, they are only looked up. Offline, they must be in the cache.
        token: The hub's token; None for the one that is saved on this machine.
        cache_folder: The cache; None for the hub's own.

    Returns:
        The folder; the commit as 40 hexadecimal digits; and how many bytes of weights are still to be downloaded.

    Raises:
        ModelError: The hub refuses the model or does not have it, or the model is incomplete or unsafe.
        FileError: The cache cannot be written.
    """
    from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    if revision is not None and not revision.strip():
        raise errors.hub_revision_unknown(name, revision)
    shown = name if revision is None else f"{name}@{revision}"
    offline = offline or constants.HF_HUB_OFFLINE
    sizes: dict[str, int] | None = None
    with _explained(shown, errors.hub_not_cached if offline else errors.hub_unreachable, cache_folder):
        where: dict[str, Any] = {"cache_dir": cache_folder, "token": token, "local_files_only": offline}
        sha = HfApi().resolve_revision(name, revision=revision, **where).resolved
        folder = Path(snapshot_download(name, revision=sha, allow_patterns=[] if offline else [CONFIG], **where))
        with suppress(CachedRepoTreeNotFoundError):
            tree = get_cached_repo_tree(name, revision=sha, cache_dir=cache_folder)
            sizes = {file.path: file.size for file in tree}
    if sizes is None:
        _check_unlisted(folder, shown, sha, adapter=adapter)
    else:
        snapshot = _Snapshot(
            name=name,
            shown=shown,
            sha=sha,
            folder=folder,
            sizes=sizes,
            offline=offline,
            token=token,
            cache=cache_folder,
        )
        if not adapter and MODULES not in sizes:  # with modules, the model may be in the first module's folder
            require(shown, sizes, [])
        snapshot.take(setting_files(sizes, []))
        modules = module_folders(folder)
        if not adapter:
            require(shown, sizes, modules)
        snapshot.take(setting_files(sizes, modules))
        files = weight_files(shown, sizes, folder, modules, adapter=adapter)
        if not weights and not offline:
            return folder, sha, sum(sizes[file] for file in snapshot.short(files))
        snapshot.take(files)
        checked_files(folder, adapter=adapter)
    return folder, sha, 0


def _check_unlisted(folder: Path, shown: str, sha: str, *, adapter: bool) -> None:
    """Check a snapshot that another tool put into the cache without a list of its files."""
    try:
        checked_files(folder, adapter=adapter)
    except errors.ModelError as error:
        raise errors.hub_cache_incomplete(shown, sha, re.split(r"\. (?=[A-Z])", str(error))[0]) from error


@contextmanager
def _explained(
    shown: str, otherwise: Callable[[str, str], errors.ModelError], cache: str | None = None
) -> Iterator[None]:
    """Turn any error of the hub's client into an error of ours, which says what to do.

    Args:
        shown: The model, for messages.
        otherwise: Builds the error if neither the hub refused nor the disk failed.
        cache: The cache; None for the hub's own.
    """
    try:
        yield
    except Exception as error:
        raise _explanation(error, shown, otherwise, cache) from error


def _explanation(
    error: BaseException, shown: str, otherwise: Callable[[str, str], errors.ModelError], cache: str | None
) -> errors.EchoembedError:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    link: BaseException | None = error
    while link is not None:
        error, link = link, link.__cause__  # the client wraps errors: look at every cause
        if isinstance(error, hub.HFValidationError):
            return errors.model_name_invalid(shown, "the hub allows no such name")
        if isinstance(error, hub.GatedRepoError):
            return errors.hub_model_gated(shown, constants.ENDPOINT)
        if isinstance(error, hub.RevisionNotFoundError):
            return errors.hub_revision_unknown(*shown.partition("@")[::2])
        if isinstance(error, hub.RepositoryNotFoundError):
            return errors.hub_model_unknown(shown, constants.ENDPOINT)
        if isinstance(error, hub.HfHubHTTPError) and error.response.status_code < 500:
            return errors.hub_refused(shown, error.response.status_code, reason(error))
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return errors.hub_cache_full(shown, cache or constants.HF_HUB_CACHE)
        if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            return errors.hub_cache_not_writable(shown, cache or constants.HF_HUB_CACHE)
    return otherwise(shown, reason(error))
