"""Export of models to places without this package: a folder that contains the code to load it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import echoembed
from echoembed import errors
from echoembed.model.save import save, whole_folder
from echoembed.model.saved import CARRIED

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CODE = "code"
MODULE, _ = CARRIED.split(".")
# The code that loading a saved model needs: the model's room and the rooms it imports, without the bundled weights.
PARTS = ("errors", "prompts", "sources", "engine", "model")
MODULE_CODE = '''"""Loads the first module of this model: with echoembed if it is installed, else its copy in code/."""

import importlib
import importlib.util
import sys
from pathlib import Path


class EchoModule:
    """Read by sentence-transformers from modules.json, with trust_remote_code=True."""

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """The module, which is echoembed's own."""
        if importlib.util.find_spec("echoembed") is None:
            folder = Path(model_name_or_path)
            if not folder.is_dir():
                hub = importlib.import_module("huggingface_hub")
                revision = kwargs.get("revision")
                folder = Path(hub.snapshot_download(model_name_or_path, revision=revision, allow_patterns=["code/*"]))
            sys.path.append(str(folder / "code"))
        return importlib.import_module("echoembed.model").EchoTransformer.load(
            model_name_or_path, subfolder=subfolder, **kwargs
        )
'''
USE = """
## Use it without echoembed

This folder carries the code that reads it, under `code/` (Apache-2.0):

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder", trust_remote_code=True)
```

Without that flag, and in loaders that ignore `modules.json`, it does not load: the same weights without the two
readings would give other vectors.
"""


def export_self_contained(
    model: SentenceTransformer, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Save a model that sentence-transformers can load without this package, with ``trust_remote_code=True``.

    Args:
        model: The model, from ``load``.
        folder: The folder to write; must not exist unless ``overwrite``.
        overwrite: Whether a folder that exists is replaced: an empty one, or one with a saved model.

    Returns:
        The folder. The saved model's vectors equal those of ``model``, bit for bit if the engine is the same.

    Raises:
        FileError: If the folder exists, or cannot be written.
        ModelError: If the model is not from ``load``, or its weights are in int8.
    """
    with whole_folder(folder, overwrite=overwrite) as unfinished:
        save(model, unfinished, overwrite=True)
        try:
            _add_code(unfinished)
        except OSError as error:
            raise errors.output_unwritable(folder, str(error)) from error
    return Path(folder).expanduser()


def _add_code(folder: Path) -> None:
    package = Path(echoembed.__file__).parent
    target = folder / CODE / package.name
    target.mkdir(parents=True)
    for path in [*package.glob("*.py"), *package.glob("*.toml")]:
        shutil.copy(path, target)
    for part in PARTS:
        shutil.copytree(package / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / f"{MODULE}.py").write_text(MODULE_CODE, encoding="utf-8")
    pipeline = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    pipeline[0]["type"] = CARRIED
    (folder / "modules.json").write_text(json.dumps(pipeline, indent=2), encoding="utf-8")
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(USE)
