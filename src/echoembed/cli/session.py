"""What verbs do with a model: load it without chatter, encode with it, say what was cut."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed.cli.output import warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from echoembed.recipe import Recipe
    from echoembed.texts import Stamp, TextReader

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}


def silence() -> None:
    """Keep the libraries from talking: only our own warnings get through, each on a line."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if category.__module__.startswith("echoembed"):
            warn(str(message))

    warnings.showwarning = show

    import logging

    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def recipe_named(name: str | None, file: Path | None) -> str | Recipe | None:
    """The user's own recipe of that name, else the name, for the library to find."""
    if file is None:
        return name
    from echoembed import errors, load_recipes, recipes

    rows = load_recipes(file)
    if name is None:
        name = next(iter(rows), None) if len(rows) == 1 else None
    if name in rows:
        return rows[name]
    if name is not None and name not in recipes:
        raise errors.recipe_unknown(name, [*rows, *recipes])
    return name


def load(
    model: str | None,
    recipe: str | None = None,
    *,
    recipes_file: Path | None = None,
    on_overflow: str = "warn",
    **options: Any,  # noqa: ANN401
) -> SentenceTransformer:
    """The model that the options name; ``options`` are those of ``echoembed.load``."""
    silence()
    import echoembed

    loaded = echoembed.load(model, recipe=recipe_named(recipe, recipes_file), **options)
    loaded[0].overflow = "error" if on_overflow == "error" else "ignore"
    return loaded


def encoder(
    model: SentenceTransformer, *, kind: str, instruction: str | None, batch_size: int
) -> Callable[[list[str]], NDArray[np.float32]]:
    """Texts to vectors, in one call."""

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return model.encode(texts, task=kind, prompt=instruction, batch_size=batch_size, show_progress_bar=False)

    return encode


def report_cuts(model: SentenceTransformer, on_overflow: str) -> None:
    """Say how much was cut, unless that was to be ignored."""
    first = model[0]
    if first.dropped_texts and on_overflow == "warn":
        warn(
            f"{first.dropped_texts:,} {'text was' if first.dropped_texts == 1 else 'texts were'} over the budget: "
            f"{first.dropped_tokens:,} tokens were not read. Raise --budget, split the texts, or refuse them with "
            "--on-overflow error."
        )


def report_skipped(reader: TextReader, *, rows_shift: bool = False) -> None:
    """Say how many texts were left out, and what was wrong with the first few."""
    if reader.skipped:
        more = " …" if reader.skipped > len(reader.examples) else ""
        warn(f"left out {reader.skipped:,} of {reader.count:,} texts: {' '.join(reader.examples)}{more}")
        if rows_shift:
            warn("rows of the array are therefore not lines of the input: write .jsonl or .parquet to have ids.")


def stamp(model: SentenceTransformer) -> Stamp:
    """What goes with every vector."""
    from echoembed import describe
    from echoembed.texts import Stamp

    facts = describe(model)
    return Stamp(**{name: str(facts[name]) for name in Stamp._fields})
