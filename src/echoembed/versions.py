"""Whether the installed libraries work together, asked before they are used, so that an error can name them.

Two places say what works: the ranges in this package's own metadata, which are what the tests have run with, and what
libraries ask of each other. A library older than its range is refused; one that is newer is warned of, for it may work.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from echoembed import errors

# transformers imports these where they are installed, and each release of them works with one release of PyTorch.
_GUESTS = ("torchaudio", "torchvision")


class UntestedVersionWarning(UserWarning):
    """A library is newer than any that echoembed was tested with."""


def check(*libraries: str, extra: str, purpose: str) -> None:
    """Refuse an optional feature whose libraries are missing or do not work together.

    Args:
        libraries: Names of the distributions that the feature uses.
        extra: The extra of this package that installs them.
        purpose: What they are used for: the beginning of the sentence "… needs an extra library".

    Raises:
        LibraryError: If one of them is not installed, is too old, or does not work with another one.
    """
    for library in libraries:
        if _installed(library) is None and find_spec(library.replace("-", "_")) is None:
            raise errors.library_missing(library, extra, purpose)
    _check_ranges(libraries)
    if "peft" in libraries:
        _check_peft()


@contextmanager
def needed(*libraries: str, extra: str, purpose: str) -> Iterator[None]:
    """Wrap the imports of optional libraries: ``check`` them, and raise an error of ours if an import still fails.

    Raises:
        LibraryError: As ``check``, or if an import inside the ``with`` fails.
    """
    check(*libraries, extra=extra, purpose=purpose)
    try:
        yield
    except ImportError as error:
        _name_misfit(libraries, error)
        raise errors.library_broken(" ".join(libraries), purpose, str(error)) from error


@contextmanager
def base_libraries() -> Iterator[None]:
    """Wrap the first import of the libraries that every installation has, and check their versions.

    Raises:
        LibraryError: If one is too old, or the import fails because two of them do not fit each other.
    """
    base = [
        requirement.name
        for requirement in _requirements("echoembed")
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    _check_ranges(base)
    try:
        yield
    except errors.EchoembedError:
        raise
    except Exception as error:
        _name_misfit([*base, *_GUESTS], error)
        raise


def _check_ranges(libraries: Iterable[str]) -> None:
    for library in libraries:
        installed, tested = _installed(library), _tested(library)
        if installed is None or _fits(installed, tested):
            continue
        if all(_is_upper(part) for part in map(str, tested) if not _fits(installed, SpecifierSet(part))):
            _warn_once(
                f"{library} {installed} is installed; echoembed was tested with {library}{_ascending(tested)}. "
                f"If something fails, install one of those: {_command(library, tested)}."
            )
        else:
            raise errors.library_misfit(
                library, installed, "echoembed", f"{library}{_ascending(tested)}", _command(library, tested)
            )


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, UntestedVersionWarning, stacklevel=2)


def _check_peft() -> None:
    """Check peft's version, which transformers requires only in its code, and checks late, with a ``ValueError``."""
    place, installed = find_spec("transformers"), _installed("peft")
    code = Path(place.origin).parent / "integrations" / "peft.py" if place and place.origin else None
    if installed is None or code is None or not code.is_file():
        return
    match = re.search(r'^MIN_PEFT_VERSION = "([\d.]+)"', code.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None or _fits(installed, asked := SpecifierSet(f">={match[1]}")):
        return
    if _fits(match[1], _tested("peft")):
        mend = _command("peft", SpecifierSet(",".join([str(asked), *filter(_is_upper, map(str, _tested("peft")))])))
    else:  # no peft that we tested is new enough: install an older transformers, which needs no newer peft
        mend = _command("transformers", _tested("transformers"))
    raise errors.library_misfit("peft", installed, f"transformers {_installed('transformers')}", f"peft{asked}", mend)


def _name_misfit(libraries: Iterable[str], error: Exception) -> None:
    """Raise an error that names two of these libraries, or of those they need, that do not fit, if ``error`` names one.

    Environments often hold two libraries that do not fit by their metadata, but work together.
    """
    message = str(error).replace("-", "_")
    waiting, seen = list(libraries), set()
    while waiting:
        library = canonicalize_name(waiting.pop(0))
        if library in seen or _installed(library) is None:
            continue
        seen.add(library)
        for requirement in _requirements(library):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            installed = _installed(requirement.name)
            fits = installed is not None and _fits(installed, requirement.specifier)
            if not fits and requirement.name.replace("-", "_") in message:
                raise errors.library_misfit(
                    requirement.name,
                    installed or "(none)",
                    f"{library} {_installed(library)}",
                    f"{requirement.name}{_ascending(requirement.specifier)}",
                    _command(requirement.name, requirement.specifier),
                ) from error
            waiting.append(requirement.name)


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _requirements(library: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(library) or []]
    except PackageNotFoundError:  # a copy of the code that was never installed
        return []


def _tested(library: str) -> SpecifierSet:
    """Return the range that our metadata allows; all extras with this library give the same range."""
    tested = SpecifierSet()
    for requirement in _requirements("echoembed"):
        if canonicalize_name(requirement.name) == canonicalize_name(library):
            tested &= requirement.specifier
    return tested


def _fits(installed: str, allowed: SpecifierSet) -> bool:
    # A vendor's build 2.9.0a0+git counts as 2.9.0.
    return allowed.contains(Version(installed).base_version)


def _is_upper(part: str) -> bool:
    return part.startswith("<")


def _ascending(allowed: SpecifierSet) -> str:
    return ",".join(sorted(set(map(str, allowed)), key=lambda part: (_is_upper(part), part)))


def _command(library: str, allowed: SpecifierSet) -> str:
    return f"pip install '{library}{_ascending(allowed)}'"
