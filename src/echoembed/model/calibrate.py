"""Fitting a calibration: on a user's texts, or once per model on the sentences that come with the package.

    ECHOEMBED_CACHE/calibrations/KEY/    a calibration fitted on these sentences, as ``Calibration.save`` writes it

Shapes: N texts, D width of their vectors.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling
from torch import nn

from echoembed import errors, files
from echoembed.model.assemble import assemble
from echoembed.model.beside import Join, parts_of
from echoembed.model.calibration import Calibration
from echoembed.model.fitting import fit
from echoembed.model.frequencies import Frequencies
from echoembed.model.frequencies import sentences as sentences
from echoembed.model.pooling import library_pooling
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.weights import digest, sketch
from echoembed.progress import Progress
from echoembed.recipe import CALIBRATIONS, Recipe, calibration_parts
from echoembed.sources.gguf import cache as gguf_cache

FITTING = 1
"""The version of the fit. Raise it when the same texts give another calibration; cached ones are then fitted anew."""
DEFAULT = "z-score"
"""The calibration that ``calibrate`` fits if neither the caller nor the recipe names one."""
_SHIPPED = Path(__file__).with_name("fitted")
"""Calibrations that come with the package, a folder for each key of weights, recipe and sentences."""
_BUDGET = 512
"""The budget of the recipes for which these were fitted; no sentence is longer."""


def calibrate(
    model: SentenceTransformer,
    texts: Iterable[str],
    calibration: str | None = None,
    *,
    progress: Callable[[int], object] | None = None,
) -> SentenceTransformer:
    """Return a model with a calibration fitted on texts, which need no labels; the given model does not change.

    The texts are read in one pass and not stored. Where the recipe has different templates for queries and documents,
    every second text is read as a document, as one map serves both. A text that is there twice counts twice.

    Args:
        model: From ``load``.
        texts: Some hundreds of texts of the kind that will be embedded, none of them used to judge the result.
        calibration: ``mean``, ``z-score``, ``components-K``, ``z-components-K``, ``whiten-K`` or ``spectrum-R`` (which
            reads no texts), for all prompts of the recipe; None for each prompt's own, or ``z-score`` if the recipe has
            none.
        progress: Called now and then with the number of texts read.

    Returns:
        A model whose recipe names the calibration and whose fingerprint covers it; ``save`` writes both.

    Raises:
        RecipeError: If there is no such calibration.
        TextError: If a text cannot be embedded.
        ModelError: If there are too few texts, a dimension is the same in all of them, nothing of them would
            be left, or the model is not from ``load``.
    """
    transformer = transformer_of(model)
    recipe = transformer.recipe
    if calibration is None and all(prompt.calibration == "none" for prompt in recipe.prompts):
        calibration = DEFAULT
    if calibration is not None:
        if not isinstance(calibration, str) or calibration_parts(calibration) in (None, ("none", 0)):
            raise errors.recipe_bad_field(recipe.name, "calibration", calibration, CALIBRATIONS.removeprefix("none, "))
        beside = tuple(replace(part, calibration=calibration) for part in recipe.beside)
        recipe = replace(recipe, calibration=calibration, beside=beside)
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise errors.calibration_texts(texts)
    return calibrated_under(model, recipe, texts, progress=progress or (lambda _: None))


def with_calibrations_of(recipe: Recipe, other: Recipe) -> Recipe:
    """Return the recipe, each of its prompts with the calibration that this prompt has in another recipe."""
    pairs = zip(recipe.beside, other.beside, strict=True)
    beside = tuple(replace(part, calibration=same.calibration) for part, same in pairs)
    return replace(recipe, calibration=other.calibration, beside=beside)


def calibrated_under(
    model: SentenceTransformer,
    recipe: Recipe,
    texts: Iterable[str],
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> SentenceTransformer:
    """The same weights under a recipe, the calibration of each of its prompts fitted on texts.

    Args:
        model: From ``load``; stays as it is.
        recipe: Of the same attention and layer.
        texts: As for ``calibrate``.
        progress: As for ``calibrate``.

    Raises:
        TextError: If a text cannot be embedded.
        ModelError: If there are too few texts, or they are all alike in a dimension.
    """
    transformer, counted = transformer_of(model), None
    if recipe.counts_tokens and (texts := list(texts)):
        # Read twice: tokens must be counted before a vector is pooled by their frequencies.
        counted = Frequencies.needed_by(recipe, transformer.pieces, transformer.context, texts)
    transformer = transformer.under(recipe, frequencies=counted)
    calibrations = fit(transformer, texts, progress=progress)
    later = [module for module in list(model)[2:] if not isinstance(module, (Calibration, Join))]
    modules = calibrated_modules(transformer, later, calibrations)
    return carry_settings(model, assemble(modules, name=transformer.name, device=str(model.device)))


def calibrated_modules(
    transformer: EchoTransformer, later: Sequence[nn.Module], calibrations: Sequence[Calibration | None] | None = None
) -> list[nn.Module]:
    """All modules of a model, with the calibrations that its recipe names, and what joins the vectors of its prompts.

    Args:
        transformer: The first module, on its device.
        later: Those after it, as they were saved: pooling, calibration and join among them are taken as they are, else
            made.
        calibrations: Those of each prompt, where they were fitted already.

    Raises:
        ModelError: If a calibration or a join is of vectors of another width.
    """
    width = transformer.get_embedding_dimension()
    pooling: list[nn.Module] = [module for module in later if isinstance(module, LibraryPooling)]
    fitted: list[Calibration | None] = [module for module in later if isinstance(module, Calibration)]
    join: list[Join] = [module for module in later if isinstance(module, Join)]
    rest = [module for module in later if not isinstance(module, (LibraryPooling, Calibration, Join))]
    pooling = pooling or [library_pooling(transformer, transformer.recipe.pooling)]
    main, *others = calibrations or [*(fitted or [_default(transformer)]), *_defaults_beside(transformer, join)]
    after = width if main is None else main.get_embedding_dimension()
    if transformer.recipe.beside and not join:
        join = [Join(transformer.recipe.join, others, width=after, widths=[width] * len(others))]
    for calibration in (main, *(fitted_calibration for module in join for fitted_calibration in module.fitted())):
        if calibration is not None and calibration.width != width:
            raise errors.calibration_other_width(calibration.width, width)
    for module in join:
        if (module.width, *module.widths) != (after, *([width] * len(transformer.recipe.beside))):
            reason = f"join (of vectors with {[module.width, *module.widths]} dimensions, but the first has {after})"
            raise errors.model_saved_unreadable(transformer.name, reason)
    return [transformer, *pooling, *([] if main is None else [main]), *join, *rest]


def _default(transformer: EchoTransformer) -> Calibration | None:
    """Fit the recipe's calibration of the first prompt on the package's sentences; None if the recipe names none."""
    recipe = transformer.recipe.prompts[0]
    return None if recipe.calibration == "none" else fitted_on_sentences(transformer.under(recipe))


def _defaults_beside(transformer: EchoTransformer, join: Sequence[Join]) -> list[Calibration | None]:
    """Fit the calibrations of the further prompts likewise; none if ``join`` has them already."""
    return [] if join else [_default(part) for part in parts_of(transformer)]


def carry_settings(model: SentenceTransformer, other: SentenceTransformer) -> SentenceTransformer:
    """Copy the library's settings of a model to another model, and return the other model."""
    other.prompts, other.default_prompt_name = model.prompts, model.default_prompt_name
    other.similarity_fn_name = model.similarity_fn_name
    most = other.get_embedding_dimension()
    other.truncate_dim = model.truncate_dim if most is None or (model.truncate_dim or 0) <= most else most
    return other


def fitted_on_sentences(transformer: EchoTransformer) -> Calibration:
    """Return the recipe's calibration, fitted on the package's sentences, from the package, the cache, or fitted now.

    Fitting costs about as much as embedding 512 texts; a line on standard error says so.
    """
    kind, name = transformer.recipe.calibration, transformer.recipe.tuned_for
    shipped = _SHIPPED / _key(transformer.under(transformer.recipe.overridden(budget=_BUDGET)), shipped=True)
    if shipped.is_dir():
        return Calibration.load(str(shipped))
    if name:
        raise errors.recipe_tuned_for_another(transformer.recipe.name, name, transformer.name)
    folder = gguf_cache.home().parent / "calibrations" / _key(transformer)
    with suppress(errors.ModelError):  # a damaged calibration is fitted anew
        if folder.is_dir():
            return Calibration.load(str(folder))
    begun = time.monotonic()
    texts = () if kind.startswith("spectrum") else sentences()
    with Progress(lambda: len(texts), what=f"calibrating {transformer.name}") as progress:
        quiet = transformer.under(transformer.recipe, overflow="ignore")
        [calibration] = fit(quiet, texts, progress=progress)
    assert calibration is not None  # the recipe names one
    fate = "not kept, as its folder cannot be written"
    with suppress(OSError), files.whole_folder(folder, overwrite=True) as unfinished:
        calibration.save(str(unfinished))
        fate = f"kept in {folder}"
    took = f"{time.monotonic() - begun:.1f} s"
    on = f"on {len(texts)} sentences " if texts else ""
    sys.stderr.write(f"calibrated {transformer.name} ({kind}) {on}in {took}; {fate}\n")
    return calibration


def _key(transformer: EchoTransformer, *, shipped: bool = False) -> str:
    """Hash all that decides a calibration fitted on the package's sentences; those in the package suit every dtype."""
    unchanged = transformer.int8 or sketch(transformer.model) == transformer.sketch
    weights = transformer.revision if unchanged else digest(transformer.model)
    dtype = "int8" if transformer.int8 else transformer.model.dtype
    parts = [FITTING, weights, transformer.recipe.fingerprint(), *sentences()]
    parts += [] if shipped else [transformer.context, dtype]
    counted = transformer.frequencies if transformer.recipe.counts_tokens else None
    parts += [] if counted is None else [counted.identity()]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:40]
