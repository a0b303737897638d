"""Loading a model under a recipe, saving it, and loading what was saved."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling

from echoembed import errors
from echoembed.engine import Engine
from echoembed.model import EchoTransformer
from echoembed.pooling import LIBRARY_MODE
from echoembed.recipe import Recipe, find_recipe, recipe_of_checkpoint
from echoembed.report import transformer_of
from echoembed.source import Source, resolve, resolve_adapter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_RECIPE = "echo"
_OURS = f"{EchoTransformer.__module__}.{EchoTransformer.__qualname__}"
_TRUSTED = ("echoembed.", "sentence_transformers.")


class RecipeWarning(UserWarning):
    """A recipe is used on a model it was not made for."""


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    recipe: str | Recipe | None = None,
    layer: int | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    budget: int | None = None,
    normalize: bool | None = None,
    engine: Engine | None = None,
    deterministic: bool = False,
    local_files_only: bool = False,
) -> SentenceTransformer:
    """Load a language model as a text embedder.

    Args:
        model: A name on the Hugging Face hub, a folder, or a folder that ``save`` wrote. None means the
            recipe's published checkpoint or, where it has none, the bundled model.
        recipe: A row of ``echoembed.recipes`` by name, or a ``Recipe``. None means what was saved with the
            model, the row of a known checkpoint, or ``echo``.
        layer: Overrides the recipe's layer: k for the k-th, -1 for the last.
        revision: Branch, tag or commit on the hub.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None means float32 on a CPU and the dtype the model
            was saved in elsewhere. ``int8``, on a CPU: the linear layers' weights and activations in eight bits.
        device: Where it runs, as sentence-transformers takes it; None for the best there is.
        budget: Overrides the recipe's budget: most tokens of text that each reading takes.
        normalize: Whether vectors are scaled to length 1; None for yes, and for what was saved with the model.
        engine: ``packed`` computes no padding and no state that is not pooled; ``padded`` is the plain forward.
            They agree to rounding (checked here). None for ``packed`` where the model passes, else ``padded``;
            ``describe`` says which and why. Training always runs ``padded``.
        deterministic: Whether a text's vector has the same bits alone, in any batch and in any order.
        local_files_only: Never ask the hub; use what is in its cache.

    Returns:
        A ``SentenceTransformer``: ``encode`` gives float32 arrays of shape (N, D), in input order.

    Raises:
        RecipeError: If there is no such recipe.
        ModelError: If the model cannot be found, read, or used as the recipe asks.
        TemplateError: If the recipe's templates do not fit the model's tokenizer.
    """
    chosen = None if recipe is None else find_recipe(recipe)
    if chosen is None and isinstance(model, str):
        chosen = recipe_of_checkpoint(model)
    name: str | os.PathLike[str] | None = model
    if chosen and (model is None or str(model).lower() in map(str.lower, chosen.adapters)):
        if model is not None and revision is not None:
            raise errors.model_bad_option("revision", revision, f"None for the adapter {model}, which has a base")
        name = chosen.checkpoint or None
    target = _best_device() if device is None else _device(device)
    source = resolve(name, revision=revision, local_files_only=local_files_only)
    dtype_ = _dtype(dtype, target, source)

    pipeline = _read_modules(source)
    if pipeline and pipeline[0]["type"] == _OURS:
        modules = _saved_modules(source, pipeline, chosen, layer=layer, budget=budget, dtype=dtype_)
        first = modules[0]
        assert isinstance(first, EchoTransformer)
        if normalize is not None:
            modules = [module for module in modules if not isinstance(module, Normalize)]
    else:
        if chosen is None and pipeline:
            raise errors.model_is_sentence_transformer(source.name)
        row = chosen or find_recipe(DEFAULT_RECIPE)
        adapters = [resolve_adapter(adapter, local_files_only=local_files_only) for adapter in row.adapters]
        _warn_if_not_made_for(row, source)
        first = EchoTransformer(
            source.folder,
            recipe=_overridden(row, layer=layer, budget=budget),
            name=source.name,
            revision=_joint_revision(source, adapters),
            dtype=dtype_,
            adapters=[adapter.folder for adapter in adapters],
        )
        width = first.get_embedding_dimension()
        pooling = LibraryPooling(width, pooling_mode=LIBRARY_MODE[first.recipe.pooling])
        modules = [first, pooling]
        normalize = normalize is not False
    if normalize:
        modules.append(Normalize())
    kept = _saved_settings(source) if pipeline and pipeline[0]["type"] == _OURS else {}
    embedder = SentenceTransformer(modules=modules, device=str(target), **{"similarity_fn_name": "cosine", **kept})
    first.select_engine(engine, deterministic=deterministic)
    first.selector.choice(first.model)
    if dtype == "int8":  # after the check, which is exact in float32
        first.to_int8()
    return embedder


def save(model: SentenceTransformer, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a model with its recipe, whole or not at all.

    ``load(folder)`` gives it back; ``SentenceTransformer(folder, trust_remote_code=True)`` too, where
    echoembed is installed. Loaders that know neither fail, as they should: the same weights without the
    recipe would give other vectors.

    Args:
        model: From ``load``, trained further or not.
        folder: Where to; must not exist unless ``overwrite``.
        overwrite: Whether an existing folder is replaced.

    Returns:
        The folder.

    Raises:
        FileError: If the folder exists, or cannot be written.
        ModelError: If the model is not from ``load``.
    """
    transformer_of(model)
    target = Path(folder).expanduser()
    first = model[0]
    if isinstance(first, EchoTransformer) and first.int8:
        raise errors.model_bad_option("model", "a model in int8", "float32, bfloat16 or float16 to save it")
    if target.exists() and not overwrite:
        raise errors.model_exists(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise errors.model_not_saved(target, str(error)) from error
    try:
        model.save_pretrained(str(unfinished), create_model_card=False)
        (unfinished / "README.md").write_text(_card(model), encoding="utf-8")
        for path in unfinished.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        unfinished.chmod(0o755)
        _put_in_place(unfinished, target)
    except (OSError, SafetensorError) as error:
        raise errors.model_not_saved(target, str(error)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename a folder; one that it replaces is removed only when that is done."""
    if not target.exists():
        folder.rename(target)
        return
    replaced = folder.with_name(f"{folder.name}-replaced")
    target.rename(replaced)
    try:
        folder.rename(target)
    except OSError:
        replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def load_module(source: Source, subfolder: str, *, dtype: torch.dtype, **overrides: Any) -> EchoTransformer:  # noqa: ANN401
    """The first module of a saved model.

    Args:
        source: The saved model.
        subfolder: Where in it the module is.
        dtype: Type of the weights in memory.
        overrides: ``recipe`` for another one than was saved, ``layer`` and ``budget`` as ``load`` takes them.

    Raises:
        ModelError: If what was saved cannot be read.
    """
    path = source.folder / subfolder / EchoTransformer.config_file_name
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        recipe, name, cut = Recipe(**saved["recipe_fields"]), str(saved["name"]), bool(saved["cut"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.model_saved_unreadable(source.name, f"{path.name} ({error})") from error
    chosen = overrides.get("recipe") or recipe
    if chosen.fingerprint() != recipe.fingerprint() and recipe.trained:
        warnings.warn(
            f"{source.name} was saved with the recipe {recipe.name!r} and is read with {chosen.name!r}: its "
            "vectors mean something else now.",
            RecipeWarning,
            stacklevel=4,
        )
    module = EchoTransformer(
        source.folder / subfolder,
        recipe=_overridden(chosen, layer=overrides.get("layer"), budget=overrides.get("budget")),
        name=name,
        revision=source.revision,
        dtype=dtype,
        cut=cut,
    )
    if cut and module.recipe.layer not in (recipe.layer, module.layers):
        allowed = f"{module.layers}, at which {source.name} was cut when it was saved"
        raise errors.model_bad_option("layer", module.recipe.layer, allowed)
    return module


def _saved_modules(
    source: Source,
    pipeline: list[dict[str, Any]],
    recipe: Recipe | None,
    *,
    layer: int | None,
    budget: int | None,
    dtype: torch.dtype,
) -> list[torch.nn.Module]:
    first = load_module(source, pipeline[0]["path"], dtype=dtype, recipe=recipe, layer=layer, budget=budget)
    modules: list[torch.nn.Module] = [first]
    for row in pipeline[1:]:
        module_class = _trusted_class(source.name, row["type"])
        if issubclass(module_class, LibraryPooling):
            width = first.get_embedding_dimension()
            modules.append(LibraryPooling(width, pooling_mode=LIBRARY_MODE[first.recipe.pooling]))
        else:
            modules.append(module_class.load(str(source.folder), subfolder=row["path"], local_files_only=True))
    return modules


def _trusted_class(name: str, type_: str) -> type[Module]:
    """A module class of ours or the library's, by its dotted name; any other is refused."""
    path, _, attribute = type_.rpartition(".")
    found = None
    if type_.startswith(_TRUSTED):
        try:
            found = getattr(importlib.import_module(path), attribute, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, Module)):
        raise errors.model_module_refused(name, type_)
    return found


def _read_modules(source: Source) -> list[dict[str, Any]]:
    path = source.folder / "modules.json"
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [{"type": str(row["type"]), "path": str(row["path"])} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.model_saved_unreadable(source.name, f"modules.json ({error})") from error


def _saved_settings(source: Source) -> dict[str, Any]:
    """What sentence-transformers saves of a model beside its modules: prompts among others, which are instructions."""
    path = source.folder / "config_sentence_transformers.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        names = ("prompts", "default_prompt_name", "similarity_fn_name")
        return {name: saved[name] for name in names if saved.get(name) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise errors.model_saved_unreadable(source.name, f"{path.name} ({error})") from error


def _overridden(recipe: Recipe, *, layer: int | None, budget: int | None) -> Recipe:
    changes = {key: value for key, value in (("layer", layer), ("budget", budget)) if value is not None}
    return Recipe(**{**recipe.as_dict(), **changes}) if changes else recipe


def _joint_revision(source: Source, adapters: list[Source]) -> str:
    """The revision of weights with adapters merged in: of the model alone where there are none."""
    if not adapters:
        return source.revision
    parts = [source.revision, *(adapter.revision for adapter in adapters)]
    return hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _warn_if_not_made_for(recipe: Recipe, source: Source) -> None:
    """A trained row needs the weights that were trained for it; their name, or a folder so called, will do."""
    base = Path(source.name).name.lower() if source.origin == "folder" else source.name.lower()
    made_for = recipe.checkpoint.lower()
    if not recipe.trained or base in (made_for, made_for.rpartition("/")[2]):
        return
    weights = f"{recipe.checkpoint}" if recipe.checkpoint else "weights fine-tuned with it (none are published)"
    warnings.warn(
        f"The recipe {recipe.name!r} was made for {weights} and is used on {source.name!r}, which was not trained "
        "with it: expect vectors worse than those of a zero-shot recipe.",
        RecipeWarning,
        stacklevel=3,
    )


def _best_device() -> torch.device:
    from sentence_transformers.util import get_device_name

    return torch.device(get_device_name())


def _device(device: str | torch.device) -> torch.device:
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        allowed = "a device that torch has on this machine, such as cpu; None for the best there is"
        raise errors.model_bad_option("device", device, allowed) from error


def _dtype(dtype: str | torch.dtype | None, device: torch.device, source: Source) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if dtype == "int8":
        return torch.float32
    if dtype is not None:
        raise errors.model_bad_option("dtype", dtype, f"{', '.join(DTYPES)}, int8, or None")
    if device.type == "cpu":
        return torch.float32
    inner = next((row["path"] for row in _read_modules(source) if row["type"] == _OURS), "")
    try:
        saved = json.loads((source.folder / inner / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        saved = {}
    return DTYPES.get(str(saved.get("dtype") or saved.get("torch_dtype")), torch.float32)


def _card(model: SentenceTransformer) -> str:
    first = model[0]
    assert isinstance(first, EchoTransformer)
    return (
        f"# {Path(first.name).name}, read with the recipe {first.recipe.name!r}\n\n"
        "A text embedder made with echoembed. Load it with the library that knows how to read it:\n\n"
        "```python\nimport echoembed\n\nmodel = echoembed.load('path/to/this/folder')\n```\n\n"
        f"- model: {first.name}\n- revision it was loaded from: {first.revision}\n"
        f"- query template: `{first.recipe.query_template!r}`\n"
        f"- document template: `{first.recipe.document_template!r}`\n"
        f"- pooling: {first.recipe.pooling}, attention: {first.recipe.attention}, layers: {first.layers}\n"
    )
