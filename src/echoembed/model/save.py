"""Saving a model with its recipe, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from echoembed import errors, files
from echoembed.model.transformer import transformer_of

CARD = "README.md"


def save(model: SentenceTransformer, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a model with its recipe, whole or not at all.

    ``load(folder)`` loads it again, and so does ``SentenceTransformer(folder, trust_remote_code=True)`` where echoembed
    is installed. Loaders that do not know our module fail, as they should: the same weights without the recipe would
    give other vectors.

    Args:
        model: From ``load``, trained further or not.
        folder: The folder to write; it must not exist unless ``overwrite``.
        overwrite: Whether a folder that exists is replaced: an empty one, or one with a saved model or adapter.

    Returns:
        The folder.

    Raises:
        FileError: If the folder exists, or cannot be written.
        ModelError: If the model is not from ``load``.
    """
    if transformer_of(model).int8:
        raise errors.ModelError.bad_value("model", "a model in int8", "float32, bfloat16 or float16 to save it")
    with whole_folder(folder, overwrite=overwrite) as unfinished:
        model.save_pretrained(str(unfinished), create_model_card=False)
        (unfinished / CARD).write_text(_card(model), encoding="utf-8")
    return Path(folder).expanduser()


@contextmanager
def whole_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Do as ``files.whole_folder``, and turn errors of safetensors and tokenizers, which write in Rust, into our own.

    Args:
        folder: The finished folder; it must not exist unless ``overwrite``.
        overwrite: Whether a folder that exists is replaced: an empty one, or one with a saved model or adapter.

    Yields:
        The folder to fill.

    Raises:
        FileError: If the folder exists and must not be replaced, or cannot be written.
    """
    try:
        files.check_replaceable(folder, overwrite=overwrite)
        with files.whole_folder(folder, overwrite=overwrite) as unfinished:
            yield unfinished
    except errors.EchoembedError:
        raise
    except Exception as error:
        reason = files.system_reason(error) or (str(error) if isinstance(error, (OSError, SafetensorError)) else None)
        if reason is None:
            raise
        raise errors.output_unwritable(folder, reason) from error


def _card(model: SentenceTransformer) -> str:
    transformer = transformer_of(model)
    return (
        f"# {Path(transformer.name).name}, read with the recipe {transformer.recipe.name!r}\n\n"
        "A text embedder made with echoembed. Load it with the library that knows how to read it:\n\n"
        "```python\nimport echoembed\n\nmodel = echoembed.load('path/to/this/folder')\n```\n\n"
        f"- model: {transformer.name}\n- revision it was loaded from: {transformer.revision}\n"
        f"- query template: `{transformer.recipe.query_template!r}`\n"
        f"- document template: `{transformer.recipe.document_template!r}`\n"
        f"- pooling: {transformer.recipe.pooling}, attention: {transformer.recipe.attention}, "
        f"layers: {transformer.layers}\n"
    )
