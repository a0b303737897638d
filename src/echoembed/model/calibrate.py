"""Fitting a calibration: on a user's texts, or once per model on the sentences that come with the package.

    ECHOEMBED_CACHE/calibrations/KEY/    a calibration fitted on these sentences, as ``Calibration.save`` writes it

Shapes: N texts, D width of their vectors.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as LibraryPooling
from torch import Tensor, nn

from echoembed import errors, files
from echoembed.model.assemble import assemble
from echoembed.model.calibration import Calibration, Fitted
from echoembed.model.encode import encode_prompts
from echoembed.model.moments import Moments, middle_of_spectrum
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
_CHUNK = 256
_SENTENCES = Path(__file__).with_name("sentences.txt")
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "cls.predictions.decoder.weight")
_ROWS = 16384
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
    every second text is read as a document, as one map serves both.

    Args:
        model: From ``load``.
        texts: Some hundreds of texts of the kind that will be embedded, none of them used to judge the result.
        calibration: ``mean``, ``z-score``, ``components-K``, ``whiten-K`` or ``spectrum-R`` (which reads no texts);
            None for the recipe's own, or ``z-score`` if the recipe has none.
        progress: Called now and then with the number of texts read.

    Returns:
        A model whose recipe names the calibration and whose fingerprint covers it; ``save`` writes both.

    Raises:
        RecipeError: If there is no such calibration.
        TextError: If a text cannot be embedded.
        ModelError: If there are too few texts, a dimension is the same in all of them, or the model is not from
            ``load``.
    """
    transformer = transformer_of(model)
    of_recipe = transformer.recipe.calibration
    kind = calibration or (DEFAULT if of_recipe == "none" else of_recipe)
    if not isinstance(kind, str) or calibration_parts(kind) in (None, ("none", 0)):
        raise errors.recipe_bad_field(transformer.recipe.name, "calibration", kind, CALIBRATIONS)
    if isinstance(texts, (str, bytes)):
        raise errors.text_not_str([texts], "A text")
    fitted = fit(transformer, kind, texts, progress=progress or (lambda _: None))
    return with_calibration(model, replace(transformer.recipe, calibration=kind), fitted)


def with_calibration(model: SentenceTransformer, recipe: Recipe, calibration: Calibration) -> SentenceTransformer:
    """Return the same weights under a recipe with a fitted calibration; the given model does not change."""
    transformer = transformer_of(model).under(recipe)
    later = [module for module in list(model)[2:] if not isinstance(module, Calibration)]
    modules = calibrated_modules(transformer, [calibration, *later])
    return carry_settings(model, assemble(modules, name=transformer.name, device=str(model.device)))


def calibrated_modules(transformer: EchoTransformer, later: Sequence[nn.Module]) -> list[nn.Module]:
    """Return all modules of a model, with the calibration that its recipe names.

    Args:
        transformer: The first module, on its device.
        later: The saved modules after it. Pooling and calibration are made if they are not among these.

    Raises:
        ModelError: If the calibration was fitted on vectors of another width.
    """
    pooling: list[nn.Module] = [module for module in later if isinstance(module, LibraryPooling)]
    fitted = [module for module in later if isinstance(module, Calibration)]
    rest = [module for module in later if not isinstance(module, (LibraryPooling, Calibration))]
    if not fitted and transformer.recipe.calibration != "none":
        fitted = [fitted_on_sentences(transformer)]
    pooling = pooling or [library_pooling(transformer, transformer.recipe.pooling)]
    for calibration in fitted:
        if calibration.width != transformer.get_embedding_dimension():
            raise errors.calibration_other_width(calibration.width, transformer.get_embedding_dimension())
    return [transformer, *pooling, *fitted, *rest]


def carry_settings(model: SentenceTransformer, other: SentenceTransformer) -> SentenceTransformer:
    """Copy the library's settings of a model to another model, and return the other model."""
    other.prompts, other.default_prompt_name = model.prompts, model.default_prompt_name
    other.similarity_fn_name = model.similarity_fn_name
    most = other.get_embedding_dimension()
    other.truncate_dim = model.truncate_dim if most is None or (model.truncate_dim or 0) <= most else most
    return other


def fit(
    transformer: EchoTransformer, kind: str, texts: Iterable[str], *, progress: Callable[[int], object] = lambda _: None
) -> Calibration:
    """Fit a calibration on the pooled vectors of texts.

    Args:
        transformer: The model's first module.
        kind: The calibration.
        texts: N texts, read once.
        progress: Called with the number of texts read so far.

    Raises:
        TextError: If a text cannot be embedded.
        ModelError: If there are too few texts, or a dimension is the same in all of them.
    """
    name, number = calibration_parts(kind) or ("", 0)
    dtype = "int8" if transformer.int8 else str(transformer.model.dtype).removeprefix("torch.")
    if name == "spectrum":
        matrix_DK = middle_of_spectrum(_unembedding(transformer), number)
        return Calibration(kind, shift_D=[0.0] * len(matrix_DK), matrix_DK=matrix_DK, fitted=Fitted(dtype=dtype))
    pooling = library_pooling(transformer, transformer.recipe.pooling)
    device = str(next(transformer.model.parameters()).device)
    pooled = assemble([transformer, pooling], name=transformer.name, device=device)
    moments, texts_hash, asymmetric = Moments.needed_by(kind), hashlib.sha256(), _asymmetric(transformer.recipe)
    for chunk in _chunks(texts):
        prompts = []
        for place, text in enumerate(chunk, start=moments.count):
            task = "document" if asymmetric and place % 2 else "query"
            prompts += transformer.reader.render([text], task=task)
            texts_hash.update(f"{len(text.encode())} {text}\n".encode())
        transformer.reader.warn_of_cuts(prompts)
        moments.add(encode_prompts(pooled, prompts))
        progress(moments.count)
    fitted = Fitted(texts=moments.count, texts_sha256=texts_hash.hexdigest(), dtype=dtype)
    return Calibration.of(kind, moments, fitted=fitted)


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
    texts = sentences()
    with Progress(lambda: len(texts), what=f"calibrating {transformer.name}") as progress:
        quiet = transformer.under(transformer.recipe, overflow="ignore")
        calibration = fit(quiet, kind, texts, progress=progress)
    fate = "not kept, as its folder cannot be written"
    with suppress(OSError), files.whole_folder(folder, overwrite=True) as unfinished:
        calibration.save(str(unfinished))
        fate = f"kept in {folder}"
    took = f"{time.monotonic() - begun:.1f} s"
    sys.stderr.write(f"calibrated {transformer.name} ({kind}) on {len(texts)} sentences in {took}; {fate}\n")
    return calibration


@cache
def sentences() -> tuple[str, ...]:
    """Return the generic English texts that come with the package: short and long, on many subjects."""
    lines = _SENTENCES.read_text(encoding="utf-8").splitlines()
    return tuple(line.partition("\t")[2] for line in lines if not line.startswith("#"))


def _key(transformer: EchoTransformer, *, shipped: bool = False) -> str:
    """Hash all that decides a calibration fitted on the package's sentences; those in the package suit every dtype."""
    unchanged = transformer.int8 or sketch(transformer.model) == transformer.sketch
    weights = transformer.revision if unchanged else digest(transformer.model)
    dtype = "int8" if transformer.int8 else transformer.model.dtype
    parts = [FITTING, weights, transformer.recipe.fingerprint(), *sentences()]
    parts += [] if shipped else [transformer.context, dtype]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:40]


def _asymmetric(recipe: Recipe) -> bool:
    return recipe.query_template != recipe.document_template


def _chunks(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _unembedding(transformer: EchoTransformer) -> Iterator[Tensor]:
    """Yield the rows of a model's unembedding in chunks: those of its token embeddings, where both are tied.

    Raises:
        ModelError: If the folder of the weights has no unembedding.
    """
    from safetensors import safe_open

    if getattr(transformer.model.config, "tie_word_embeddings", False):
        embeddings: Any = transformer.model.get_input_embeddings()
        for rows_VD in embeddings.weight.detach().split(_ROWS):
            yield rows_VD.double().cpu()
        return
    for file in sorted(transformer.weights_folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            key = next((head for head in _HEADS if head in tensors.keys()), None)  # noqa: SIM118 (no mapping)
            if key is not None:
                rows = tensors.get_slice(key)
                for start in range(0, rows.get_shape()[0], _ROWS):
                    yield rows[start : start + _ROWS].double()
                return
    raise errors.calibration_without_head(transformer.name)
