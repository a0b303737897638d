"""The files of a saved model: its modules, the recipe of the first module, and sentence-transformers' settings.

FOLDER/modules.json                         the pipeline: the type and the folder of each module
FOLDER/config_sentence_transformers.json    the library's own settings
FOLDER/0_EchoTransformer/echoembed_config.json    the recipe, beside the language model
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from echoembed import errors
from echoembed.model.running import DTYPES, Running
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.reader import Overflow
from echoembed.recipe import Recipe
from echoembed.sources.files import SAVED_CONFIG
from echoembed.sources.resolve import Source

OURS = "echoembed.model.EchoTransformer"
"""The type of our first module in ``modules.json``, also in models that earlier versions saved."""
CARRIED = "echo_module.EchoModule"
"""The same in a self-contained folder, which carries its own code; we load it with our code, and never run that one."""
_HASHED_TEXTS = (
    "The committee will publish its report on Monday, after months of delay.",
    "A cat sleeps on the warm windowsill.",
    "How do I change the password of my account?",
    "def add(a, b):\n    return a + b",
    "In 1969, two men walked on the moon while a third waited in orbit; 600 million people watched.",
    "Cheap flights to Lisbon, from 49 euros!",
    "ok",
    "3",
    "!",
)
"""Texts by whose ids a tokenizer is known again. They never change: every saved model holds a hash of their ids."""


@dataclass(frozen=True, kw_only=True)
class SavedTransformer:
    """The content of ``echoembed_config.json`` beside a saved language model.

    Attributes:
        recipe: The recipe that the model was saved with.
        name: The model's name.
        cut: Whether the model was saved without the layers above the recipe's.
        max_seq_length: The most tokens of a prompt, if the user set fewer than the model takes.
        layers_in_all: The number of layers that the model had before it was cut; None in older files.
        overflow: What to do with a text over the budget, if the model was loaded to refuse such texts.
        tokenizer: What ``tokenizer_hash`` gave when the model was saved; None in older files.
    """

    recipe: Recipe
    name: str
    cut: bool
    max_seq_length: int | None = None
    layers_in_all: int | None = None
    overflow: Overflow | None = None
    tokenizer: str | None = None

    def running(self, asked: Running | None) -> Running:
        """Return how to run the model: as asked, and as saved where nothing else was asked for."""
        asked = asked or Running()
        return replace(asked, overflow=asked.overflow or self.overflow)

    def check(self, recipe: Recipe, layers: int, pieces: PieceTokenizer, name: str) -> None:
        """Refuse another tokenizer than was saved, and a recipe that pools another layer than that of the cut.

        Args:
            recipe: The recipe with which the model is loaded now.
            layers: The number of layers that were saved.
            pieces: The tokenizer as it is loaded now.
            name: What errors call the model.

        Raises:
            ModelError: If the tokenizer gives other ids, or the recipe pools another layer.
        """
        if self.tokenizer not in (None, tokenizer_hash(pieces)):
            raise errors.model_saved_unreadable(name, "tokenizer (it gives other ids than when the model was saved)")
        saved = (self.recipe.layer, self.recipe.depth)
        if self.cut and (recipe.layer, recipe.depth) not in (saved, (layers, None)):
            field, value = ("layer", recipe.layer) if recipe.depth is None else ("depth", recipe.depth)
            allowed = (
                f"{'layer ' * (field == 'depth')}{layers}, at which {name} was cut when it was saved (for others, load "
                f"the model that it was made of, {self.name})"
            )
            raise errors.ModelError.bad_value(field, value, allowed)


def read_transformer(source: Source, subfolder: str) -> SavedTransformer:
    """Read the settings of our first module.

    Raises:
        ModelError: If the file cannot be read.
    """
    path = source.folder / subfolder / SAVED_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe(**content["recipe_fields"])
        most = content.get("max_seq_length")
        if most is not None and (type(most) is not int or most < 1):
            raise ValueError(f"max_seq_length = {most!r}")
        count = content.get("layers_in_all")
        if count is not None and (type(count) is not int or count < 0):
            raise ValueError(f"layers_in_all = {count!r}")
        if type(cut := content["cut"]) is not bool:
            raise ValueError(f"cut = {cut!r}")
        if (overflow := content.get("overflow")) not in (None, *get_args(Overflow)):
            raise ValueError(f"overflow = {overflow!r}")
        return SavedTransformer(
            recipe=recipe,
            name=str(content["name"]),
            cut=cut,
            max_seq_length=most,
            layers_in_all=count,
            overflow=overflow,
            tokenizer=content.get("tokenizer"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.model_saved_unreadable(source.name, f"{path.name} ({error})") from error


def tokenizer_hash(pieces: PieceTokenizer) -> str:
    """Hash a tokenizer's BOS and EOS, and the ids that it gives for a few texts.

    A model that lost one of its tokenizer's files, or got another model's, would load and give other vectors.
    """
    ids: list[tuple[int, ...] | None] = []
    for text in _HASHED_TEXTS:
        try:
            ids.append(pieces.encode([text])[0].ids)
        except errors.TextError:  # of a vocabulary that lacks its letters
            ids.append(None)
    return hashlib.sha1(json.dumps([pieces.bos, pieces.eos, ids]).encode(), usedforsecurity=False).hexdigest()


def read_modules(source: Source) -> list[dict[str, Any]]:
    """Read the type and the path of each module from ``modules.json``; empty if there is no such file.

    Raises:
        ModelError: If the file cannot be read.
    """
    path = source.folder / "modules.json"
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        types = [OURS if row["type"] == CARRIED else str(row["type"]) for row in rows]
        return [{"type": type_, "path": str(row["path"])} for type_, row in zip(types, rows, strict=True)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.model_saved_unreadable(source.name, f"modules.json ({error})") from error


def saved_dtype(source: Source) -> torch.dtype:
    """Return the dtype that a model was saved in, saved by us or not; float32 if its settings do not say."""
    inner = next((row["path"] for row in read_modules(source) if row["type"] == OURS), "")
    try:
        config = json.loads((source.folder / inner / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


def read_settings(source: Source) -> dict[str, Any]:
    """Read the settings that sentence-transformers saves beside the modules, such as its prompts (our instructions).

    Raises:
        ModelError: If the file cannot be read.
    """
    path = source.folder / "config_sentence_transformers.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return dict(content.items())
    except (OSError, ValueError, AttributeError) as error:
        raise errors.model_saved_unreadable(source.name, f"{path.name} ({error})") from error
