"""Fits the calibrations that a recipe names: one pass over texts, which are not kept, for all of its prompts.

Shapes: N texts, V rows of an unembedding, D width of the vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor

from echoembed import errors
from echoembed.model.assemble import assemble
from echoembed.model.beside import parts_of
from echoembed.model.calibration import Calibration, Fitted
from echoembed.model.encode import encode_prompts
from echoembed.model.moments import Moments, least_different, middle_of_spectrum
from echoembed.model.pooling import library_pooling
from echoembed.model.transformer import EchoTransformer
from echoembed.recipe import calibration_parts

_CHUNK = 256
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "cls.predictions.decoder.weight")
_ROWS = 16384


def fit(
    transformer: EchoTransformer, texts: Iterable[str], *, progress: Callable[[int], object] = lambda _: None
) -> list[Calibration | None]:
    """The calibrations that a transformer's recipe names, of the vectors that the model pools of texts.

    Args:
        transformer: The model's first module.
        texts: N texts, read once.
        progress: Called with the number of texts read so far.

    Returns:
        One for each prompt of the recipe; None for one without.

    Raises:
        TextError: If a text cannot be embedded.
        ModelError: If there are too few texts, or they are all alike in a dimension.
    """
    dtype = "int8" if transformer.int8 else str(transformer.model.dtype).removeprefix("torch.")
    parts = [_Fit(part, dtype) for part in (transformer.under(transformer.recipe.prompts[0]), *parts_of(transformer))]
    if any(part.reads for part in parts):
        count, total = 0, hashlib.sha256()
        different: set[bytes] = set()  # hashes of the first different texts, as many as are needed
        needed = max(part.least for part in parts)
        for chunk in _chunks(texts):
            for part in parts:
                part.add(chunk)
            for text in chunk:
                total.update(f"{len(text.encode())} {text}\n".encode())
                if len(different) < needed:
                    different.add(hashlib.blake2b(text.encode(), digest_size=16).digest())
            count += len(chunk)
            progress(count)
        fitted = Fitted(texts=count, texts_sha256=total.hexdigest(), dtype=dtype)
        return [part.calibration(fitted, len(different)) for part in parts]
    return [part.calibration(Fitted(dtype=dtype), 0) for part in parts]


class _Fit:
    """Fits the calibration of one prompt.

    Args:
        transformer: What reads it.
        dtype: Of its weights.

    Attributes:
        reads: Whether the calibration is fitted on texts.
        least: The fewest different texts for it.
    """

    def __init__(self, transformer: EchoTransformer, dtype: str) -> None:
        self.kind, self._transformer, self._dtype = transformer.recipe.calibration, transformer, dtype
        name, self._number = calibration_parts(self.kind) or ("", 0)
        self.reads = name not in ("none", "spectrum")
        self.least = least_different(self.kind) if self.reads else 0
        self._moments = Moments.needed_by(self.kind) if self.reads else None
        self._asymmetric = transformer.recipe.query_template != transformer.recipe.document_template
        pooling = library_pooling(transformer, transformer.recipe.pooling)
        device = str(next(transformer.model.parameters()).device)
        self._pooled = assemble([transformer, pooling], name=transformer.name, device=device)

    def add(self, texts: Sequence[str]) -> None:
        """Read texts; where queries and documents are written differently, every second one as a document."""
        if self._moments is None:
            return
        reader, prompts = self._transformer.reader, []
        for place, text in enumerate(texts, start=self._moments.count):
            task = "document" if self._asymmetric and place % 2 else "query"
            prompts += reader.render([text], task=task)
        reader.warn_of_cuts(prompts)
        self._moments.add(encode_prompts(self._pooled, prompts))

    def calibration(self, fitted: Fitted, different: int) -> Calibration | None:
        """The calibration of what was read, if there were enough different texts."""
        if self._moments is not None:
            if 1 < different < self.least <= self._moments.count:
                raise errors.calibration_too_few(self.kind, different, self.least, what="different texts")
            return Calibration.of(self.kind, self._moments, fitted=fitted)
        if self.kind == "none":
            return None
        matrix_DK = middle_of_spectrum(_unembedding(self._transformer), self._number)
        fitted = Fitted(dtype=self._dtype)
        return Calibration(self.kind, shift_D=[0.0] * len(matrix_DK), matrix_DK=matrix_DK, fitted=fitted)


def _chunks(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _unembedding(transformer: EchoTransformer) -> Iterator[Tensor]:
    """The rows of a model's unembedding, in chunks: of its token embeddings where both are one.

    Raises:
        ModelError: If the folder of the weights has none.
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
