"""Shared steps of the verbs: load a model without the libraries' chatter, encode texts, report what was cut."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from echoembed.cli import startup, threads
from echoembed.cli.output import cut, warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from echoembed.cli.groups import EncodeOptions, ModelOptions
    from echoembed.corpus.manifest import Manifest
    from echoembed.recipe import Recipe
    from echoembed.texts import Embedder, Item, RemoteEmbedder, TextReader

FEW = 100
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
}


def silence() -> None:
    """Silence the libraries: only our own warnings are shown, each on a line."""
    _silence_imports()
    import logging

    from echoembed import versions

    with versions.base_libraries():
        from huggingface_hub.utils.tqdm import disable_progress_bars
        from transformers.utils import logging as chatter

    disable_progress_bars()
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
    chatter.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def _silence_imports() -> None:
    """Make the settings that the libraries read when they are imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    threads.settle()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if category.__module__.startswith("echoembed"):
            warn(str(message))

    warnings.showwarning = show


def recipe_named(name: str | None, file: Path | None) -> str | Recipe | None:
    """Return the recipe of that name in the user's file, or else the name, which the library looks up.

    Raises:
        RecipeError: If there is no recipe of that name.
        BadParameter: If none is named, and the file has not exactly one.
    """
    if file is None:
        return name
    from echoembed import errors, load_recipes, recipes

    rows = load_recipes(file)
    if name is None and len(rows) == 1:
        return next(iter(rows.values()))
    if name is None:
        raise _none_named(file, rows)
    if name not in rows and name not in recipes:
        raise errors.recipe_unknown(name, [*rows, *recipes])
    return rows.get(name, name)


def names_in(file: Path | None) -> list[str]:
    """Return the names of all recipes in the user's file; none without a file.

    Raises:
        RecipeError: If the file cannot be read.
        BadParameter: If it has no recipe.
    """
    if file is None:
        return []
    from echoembed import load_recipes

    rows = load_recipes(file)
    if not rows:
        raise _none_named(file, rows)
    return list(rows)


def _none_named(file: Path, rows: Iterable[str]) -> typer.BadParameter:
    has = f"the recipes {', '.join(rows)}" if rows else "no recipe"
    return typer.BadParameter(f"{file} has {has}; name one with --recipe", param_hint="--recipes-file")


def check_names(options: ModelOptions, names: Sequence[str | None]) -> None:
    """Refuse recipes, a model or an adapter that do not exist, before anything heavy is imported.

    Args:
        options: The options that name the model, the adapter and the user's file of recipes.
        names: Names of recipes; None for the default.

    Raises:
        RecipeError: If there is no such recipe.
        ModelError: If there is no such model or adapter.
    """
    from echoembed.recipe import find_recipe
    from echoembed.sources.names import check_adapter, check_model

    chosen = [recipe_named(name, options.recipes_file) for name in names]
    rows = [None if recipe is None else find_recipe(recipe) for recipe in chosen]
    check_adapter(options.adapter)
    if options.model is not None or (options.adapter is None and not any(row and row.checkpoint for row in rows)):
        check_model(options.model, revision=options.revision)


def load(
    options: ModelOptions, recipe: str | None = None, *, on_overflow: str = "warn", calibrated: bool = True
) -> SentenceTransformer:
    """Load the model that the options name, with a recipe, or with the recipe without its calibrations."""
    _silence_imports()
    with startup.without_unused():
        return _load(options, recipe, on_overflow, calibrated)


def _load(options: ModelOptions, recipe: str | None, on_overflow: str, calibrated: bool) -> SentenceTransformer:
    silence()
    import echoembed
    from echoembed.recipe import find_recipe

    arguments = {field.name: getattr(options, field.name) for field in fields(options)}
    overflow: Any = "error" if on_overflow == "error" else "ignore"  # cuts are reported once, at the end
    row = recipe_named(recipe, arguments.pop("recipes_file"))
    if row is not None and not calibrated:
        row = replace(find_recipe(row).without_calibrations(), tuned_for="")
    return echoembed.load(recipe=row, overflow=overflow, **arguments)


def load_again(manifest: Manifest, options: ModelOptions, recipe: str | None) -> SentenceTransformer:
    """Load the model of a corpus, changed only by the options that are given; a text that is cut is warned of at once.

    Raises:
        RecipeError: If there is no such recipe.
        ModelError: If there is no such model or adapter, or it cannot be loaded.
    """
    from echoembed.corpus.manifest import load_model
    from echoembed.recipe import find_recipe
    from echoembed.sources.names import check_adapter, check_model

    given = {entry.name: getattr(options, entry.name) for entry in fields(options)}
    given = {entry.name: given[entry.name] for entry in fields(options) if given[entry.name] != entry.default}
    row = recipe_named(recipe, given.pop("recipes_file", None))
    if row is not None:
        given["recipe"] = find_recipe(row)
    check_adapter(options.adapter)
    before = dict(manifest.load or {})
    if options.model is not None:
        check_model(options.model, revision=options.revision)
        before.pop("revision", None)  # of the other model
    arguments = {**before, **given}
    _silence_imports()
    with startup.without_unused():
        silence()
        return load_model(replace(manifest, load=arguments))


def embedder(model: SentenceTransformer, options: EncodeOptions) -> Embedder:
    """Wrap the model so that it reads texts as the options say."""
    from echoembed.texts import Embedder

    return Embedder(model=model, kind=options.kind, instruction=options.instruction, batch_size=options.batch_size)


def remote(
    url: str, model: ModelOptions, recipe: str | None, options: EncodeOptions, *, on_overflow: str
) -> RemoteEmbedder:
    """Connect to a running server, which embeds texts as the options say.

    Raises:
        BadParameter: If an option chooses a model or a recipe, which the server has chosen already.
    """
    from echoembed.texts.remote import RemoteEmbedder

    options_set = [entry.name for entry in fields(model) if getattr(model, entry.name) != entry.default]
    options_set += ["recipe"] * (recipe is not None) + ["batch_size"] * (options.batch_size is not None)
    if options_set:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options_set)
        raise typer.BadParameter(f"the server has a model of its own; leave out {names}", param_hint="--server")
    truncate = on_overflow != "error"
    return RemoteEmbedder(url=url, kind=options.kind, instruction=options.instruction, truncate=truncate)


def check_standard_output(reader: TextReader) -> None:
    """Refuse a standard output that is closed, or that is one of the inputs.

    Raises:
        FileError: If the output is either.
    """
    from echoembed import errors

    if sys.stdout is None:
        raise errors.stream_unwritable("it is closed")
    with contextlib.suppress(OSError, ValueError):  # tests replace standard output by an object without a file number
        reader.refuse_as_output(sys.stdout.fileno())


def check_target(
    folder: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Refuse a folder that cannot be written, or must not be replaced, before long work begins.

    Args:
        folder: The folder to write a model to.
        overwrite: Whether a folder that exists is replaced: an empty one, or one that this package wrote.
        inputs: What the work reads or keeps; None is passed over.

    Raises:
        FileError: If the folder must not be replaced, cannot be written, or has an input in it.
    """
    from echoembed import errors
    from echoembed.files import check_replaceable, reason_of

    target = Path(folder).expanduser().absolute()
    try:
        check_replaceable(folder, overwrite=overwrite)
        above = next(parent for parent in target.parents if parent.exists())
        Path(tempfile.mkdtemp(prefix=".echoembed-", dir=above)).rmdir()
    except errors.FileError:
        raise
    except (OSError, ValueError) as error:
        raise errors.output_unwritable(folder, reason_of(error)) from error
    refuse_inputs(target, inputs)


def refuse_inputs(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuse an output that is an input, or has one in it, by whatever name or link, as the input would be lost.

    Args:
        output: The file or folder to write; a ``~`` in it is a letter.
        inputs: What the work reads or keeps: paths, or names that may be paths; None is passed over.

    Raises:
        FileError: If it is or has one.
    """
    from echoembed import errors

    for source in inputs:
        if source is not None and _is_in(source, Path(output)):
            raise errors.output_is_input(output, str(source))


def _is_in(source: str | os.PathLike[str], target: Path) -> bool:
    try:
        path = Path(source).expanduser()
        if not isinstance(source, Path) and not path.exists():  # a name of something else
            return False
        return path.resolve().is_relative_to(target.resolve())
    except (OSError, RuntimeError, ValueError):  # a text, which is no path
        return False


def inputs_of(options: ModelOptions, recipe: str | None = None) -> list[str | Path | None]:
    """Return all that may lie on this machine of what a model is loaded from, for ``check_target``.

    That is the model, the adapter, the file of recipes, the adapters of the recipe, and what an adapter was trained on.

    Raises:
        RecipeError: If there is no such recipe.
        ModelError: If an adapter cannot be read.
    """
    from echoembed.recipe import find_recipe
    from echoembed.sources import adapters
    from echoembed.sources.packaged import RESERVED

    row = recipe_named(recipe, options.recipes_file)
    named = [options.model, options.adapter]
    named += [] if row is None else [part for part in (find_recipe(row).checkpoint, *find_recipe(row).adapters) if part]
    folders = [name for name in named if name and name.lower() not in RESERVED and name not in adapters.bundled()]
    for base in [adapters.find(name).base for name in folders if adapters.is_adapter(name)]:
        folders += [] if base.model is None else [base.model]
        folders += [name for name, _ in base.adapters]
    return [*folders, options.recipes_file]


def check_texts(reader: TextReader, *, quiet: bool) -> None:
    """Read all files once before any text is embedded: an error near their end would lose all the work.

    Raises:
        FileError: If a file is broken.
        TextError: If a text cannot be embedded.
    """
    from echoembed.progress import Progress

    with Progress(what="reading", shown=not quiet) as progress:
        reader.check(progress)


def few_texts(reader: TextReader, *, least: int = 1) -> list[Item]:
    """Read all texts, of which there may be as many as a table of all pairs can show.

    Raises:
        TextError: If there are more than that, or fewer than ``least``.
    """
    from echoembed import errors

    items = list(islice(reader, FEW + 1))
    if len(items) > FEW:
        raise errors.too_many_texts(FEW)
    if len(items) < least:
        raise errors.too_few_texts(len(items))
    return items


def report_cuts(embedder: Embedder | RemoteEmbedder, on_overflow: str) -> None:
    """Warn of texts that were cut, unless the user chose to ignore cuts."""
    cuts = embedder.cuts
    if cuts.texts and on_overflow == "warn":
        budget = "Raise --budget" if not hasattr(embedder, "url") else "Start the server with a larger --budget"
        warn(f"{cut(cuts.texts, cuts.tokens)} {budget}, split the texts, or refuse them with --on-overflow error.")


def report_skipped(reader: TextReader, *, array: str | None = None) -> None:
    """Warn of texts that were left out: how many, and what was wrong with the first few."""
    if reader.skipped:
        more = " …" if reader.skipped > len(reader.examples) else ""
        warn(f"left out {reader.skipped:,} of {reader.count:,} texts: {' '.join(reader.examples)}{more}")
        if array is not None:
            warn(f"rows of the array are therefore not lines of the input: {array}.jsonl has the id and text of each.")


def embed_few(
    embedder: Embedder, items: list[Item], reader: TextReader, *, least: int = 1
) -> tuple[list[Item], NDArray[np.float32]]:
    """Return the texts that the model can embed, and their vectors; the others are left out if the reader allows it.

    Raises:
        TextError: If a text cannot be embedded, or fewer than ``least`` can.
    """
    from echoembed import errors, texts

    good, vectors_ND = texts.encode_items(items, embedder.encode, faults=embedder.faults, leave_out=reader.leave_out)
    if not good:
        raise errors.no_texts((), skipped=len(items))
    if len(good) < least:
        raise errors.too_few_texts(len(good))
    return good, vectors_ND


def cosines(vectors_ND: NDArray[np.float32]) -> list[list[float]]:
    """Return the cosine of every two vectors, rounded to six digits."""
    return [[round(float(value), 6) for value in row] for row in vectors_ND @ vectors_ND.T]


def shown_recipe(name: str, file: Path | None, model: str | None, text: str) -> dict[str, object]:
    """Return a recipe's fields, and its prompts and pooled spans for a text.

    Unless a model is named, the bundled tokenizer is used: nobody wants to download gigabytes of weights to look at a
    prompt.
    """
    from dataclasses import replace

    from echoembed.recipe import find_recipe
    from echoembed.sources.names import check_model
    from echoembed.sources.packaged import BUNDLED

    row = find_recipe(recipe_named(name, file) or name)
    check_model(model or BUNDLED)
    silence()
    import echoembed
    from echoembed.model.transformer import transformer_of

    facts: dict[str, object] = {**row.as_dict(), "fingerprint": row.fingerprint()}
    loaded = echoembed.load(
        model or BUNDLED, recipe=replace(row.without_calibrations(), checkpoint="", adapters=(), trained=False)
    )
    tokenizer: Any = transformer_of(loaded).tokenizer
    kinds: tuple[Literal["query", "document"], ...] = ("query", "document")
    for kind in kinds:
        prompt = echoembed.render(loaded, text, kind=kind)
        facts[f"{kind}_prompt"] = prompt.text
        facts[f"{kind}_pooled"] = tokenizer.decode(list(prompt.ids[slice(*prompt.span)]))
    return facts
