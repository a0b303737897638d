"""Build the documentation as a site, offline: python docs/build_site.py [FOLDER].

1. Copy the repository's pages and the files that they link to, with the same folders, so that links still work.
2. Write a page of the API reference for each room of the package; mkdocstrings fills it from the docstrings.
3. Build the site with mkdocs. A broken link or anchor stops the build, and so does a docstring that describes a
   parameter which its function does not have.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import echoembed

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "echoembed"
PAGES = ["README.md", "docs/*.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/*/README.md", "src/echoembed/*/*.md"]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def pages() -> list[Path]:
    """The repository's pages, in the order of the site's menu."""
    return [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]


def lay_out(folder: Path) -> None:
    """Copy the pages and all files that they link to; mkdocs names missing files later."""
    for page in pages():
        linked = [(page.parent / target).resolve() for target in LINK.findall(page.read_text(encoding="utf-8"))]
        for file in [page, *linked]:
            if file.is_file() and file.is_relative_to(ROOT):
                copy = folder / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def write_reference(folder: Path) -> list[str]:
    """Write a page of the public names, then a page for each room; returns the pages."""
    rooms = sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"cli"})  # --help is its reference
    tools = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))
    written = {"index": ("Public names", [f"echoembed.{name}" for name in echoembed.__all__])}
    written |= {name: (f"echoembed.{name}", [f"echoembed.{name}"]) for name in [*rooms, *tools]}
    (folder / "reference").mkdir()
    for name, (title, entries) in written.items():
        text = f"# {title}\n\n" + "\n\n".join(f"::: {entry}" for entry in entries) + "\n"
        (folder / "reference" / f"{name}.md").write_text(text, encoding="utf-8")
    return [f"reference/{name}.md" for name in written]


def main(site: Path) -> None:
    """Build the site in a folder, or say which link leads nowhere."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        lay_out(folder)
        reference = write_reference(folder)
        config = load_config(
            str(ROOT / "docs" / "mkdocs.yml"),
            docs_dir=str(folder),
            site_dir=str(site),
            nav=[{"Guide": [page.relative_to(ROOT).as_posix() for page in pages()]}, {"API reference": reference}],
        )
        try:
            build(config)
        except Abort as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "site")
