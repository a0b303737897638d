"""The statistics that a calibration is fitted on: mean and scatter of vectors, computed in one pass.

A language model's pooled states share a large mean and a few dimensions with far more variance than the rest, so that
their cosines say little. A calibration learns from the vectors of ordinary texts what to subtract and to divide by:

- ``mean``: the mean is subtracted
- ``z-score``: then every dimension is divided by its standard deviation
- ``components-K``: the mean and the K leading principal components are removed (Mu and Viswanath 2018,
  "All-but-the-top")
- ``z-components-K``: z-scores, less their K leading principal components
- ``whiten-K``: the K leading principal components are kept, each divided by its standard deviation, the largest first
  (Su et al. 2021, "Whitening sentence representations for better semantics and faster retrieval")
- ``spectrum-R``: vectors are projected on the middle 1/R of the unembedding's right singular vectors, in the order of
  their singular values; it needs no texts ("Your UnEmbedding matrix is secretly a feature lens for text embeddings",
  arXiv 2606.07502)

This file knows numbers only, neither models nor texts. Shapes: N vectors, D their width, K directions, V words of a
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from echoembed import errors
from echoembed.recipe import calibration_parts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEAST_TEXTS = 16
"""The fewest texts for any calibration."""
_ROUNDING = 1e-6
"""A standard deviation this small, relative to the size of the vectors, may come from rounding in float32."""

_APART = 1e-3
"""A relative difference of two standard deviations that is too large to come from rounding."""


def removes(kind: str) -> bool:
    """Return whether a calibration removes its directions from vectors, in place of projecting vectors on them."""
    return kind.startswith(("components", "z-components"))


def dimension_of(kind: str, width: int) -> int:
    """Return the dimension of calibrated vectors.

    Args:
        kind: The name of a calibration.
        width: The dimension of the vectors before.

    Raises:
        ModelError: If the calibration names so many directions that nothing of the vectors would be left.
    """
    name, number = calibration_parts(kind) or ("", 0)
    if number > (most := width - removes(kind)):
        raise errors.calibration_too_many(kind, width, most)
    return {"whiten": number, "spectrum": width // max(number, 1)}.get(name, width)


def least_different(kind: str) -> int:
    """Return the fewest different texts for a calibration: N of them differ in N - 1 directions."""
    _, number = calibration_parts(kind) or ("", 0)
    return number + 1 + removes(kind)


class Moments:
    """Count, mean and scatter of vectors, accumulated chunk by chunk in float64.

    Chunks are merged around their own means (Chan, Golub and LeVeque 1983), so that no digits are lost to a mean a
    thousand times as large as the standard deviation.

    Args:
        full: Whether to accumulate the whole scatter matrix (``_DD``), or only its diagonal (``_D``).
    """

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.count = 0
        self.mean_D: NDArray[np.float64] = np.zeros(0)
        self.scatter: NDArray[np.float64] = np.zeros(0)
        self._components: dict[tuple[int, bool], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    @classmethod
    def needed_by(cls, kind: str) -> Moments:
        """Return empty moments of the kind that a calibration needs."""
        return cls(full=removes(kind) or kind.startswith("whiten"))

    def add(self, vectors_ND: ArrayLike) -> None:
        """Add N vectors.

        Raises:
            ModelError: If a vector is not finite.
        """
        chunk_ND = np.asarray(vectors_ND, dtype=np.float64)
        added = len(chunk_ND)
        if not added:
            return
        if not np.isfinite(chunk_ND).all():
            raise errors.calibration_not_finite()
        mean_D = chunk_ND.mean(axis=0)
        centred_ND = chunk_ND - mean_D
        scatter = centred_ND.T @ centred_ND if self.full else (centred_ND**2).sum(axis=0)
        if not self.count:
            self.count, self.mean_D, self.scatter = added, mean_D, scatter
            return
        apart_D = mean_D - self.mean_D
        total = self.count + added
        between = np.outer(apart_D, apart_D) if self.full else apart_D**2
        self.scatter = self.scatter + scatter + between * (self.count * added / total)
        self.mean_D = self.mean_D + apart_D * (added / total)
        self.count = total

    @property
    def deviation(self) -> NDArray[np.float64]:
        """The standard deviation of each dimension, ``_D``."""
        summed_D = np.diagonal(self.scatter) if self.full else self.scatter
        return np.asarray(np.sqrt(summed_D / self.count))

    def directions(self, *, scaled: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return standard deviations ``_D``, largest first, and their principal components, the columns of ``_DD``.

        Args:
            scaled: Whether to return those of the z-scores of the vectors.
        """
        # Kept, as several calibrations may use the same moments.
        if (self.count, scaled) not in self._components:
            covariance_DD = self.scatter / self.count
            if scaled:
                covariance_DD = covariance_DD / np.outer(self.deviation, self.deviation)
            variance_D, directions_DD = np.linalg.eigh(covariance_DD)
            deviation_D = np.sqrt(np.maximum(variance_D[::-1], 0))
            self._components[self.count, scaled] = deviation_D, _signed(directions_DD[:, ::-1])
        return self._components[self.count, scaled]

    def apart(self, count: int, *, scaled: bool = False) -> bool:
        """Return whether the ``count`` leading components span the same space on every machine.

        They do if their standard deviations exceed all others by more than rounding.

        Args:
            count: How many components.
            scaled: As for ``directions``.
        """
        along_D, _ = self.directions(scaled=scaled)
        return bool(along_D[count - 1] - along_D[count] > _APART * along_D[count])


def map_of(kind: str, moments: Moments) -> dict[str, NDArray[np.float64]]:
    """Compute the affine map of a calibration that is fitted on texts.

    Args:
        kind: ``mean``, ``z-score``, ``components-K``, ``z-components-K`` or ``whiten-K``.
        moments: The moments of the vectors of ordinary texts.

    Returns:
        ``shift_D``, and ``scale_D`` and ``matrix_DK`` if the kind has them (see ``Calibration``).

    Raises:
        ModelError: If the vectors are too few, all the same, or constant in a dimension to divide by its deviation.
    """
    name, number = calibration_parts(kind) or ("", 0)
    # 1. Refuse too few vectors: their deviations, or K directions of K vectors, tell nothing about other vectors.
    if moments.count:
        dimension_of(kind, len(moments.mean_D))
    if moments.count < (least := max(LEAST_TEXTS, least_different(kind))):
        raise errors.calibration_too_few(kind, moments.count, least)
    width, shift_D, deviation_D = len(moments.mean_D), moments.mean_D, moments.deviation
    # 2. Refuse constant dimensions: they differ by rounding alone, which a division would magnify.
    size_D = np.maximum(np.abs(shift_D), np.sqrt(np.mean(shift_D**2 + deviation_D**2)))
    constant = int((deviation_D <= _ROUNDING * size_D).sum())
    if constant == width or (constant and name in ("z-score", "z-components")):
        raise errors.calibration_constant(kind, constant, width)
    # 3. Make the map.
    if name == "mean":
        return {"shift_D": shift_D}
    if name == "z-score":
        return {"shift_D": shift_D, "scale_D": 1 / deviation_D}
    if name == "z-components":
        along_D, directions_DD = moments.directions(scaled=True)
        if along_D[number] <= _ROUNDING * along_D[0]:
            raise errors.calibration_leaves_nothing(kind)
        return {"shift_D": shift_D, "scale_D": 1 / deviation_D, "matrix_DK": directions_DD[:, :number]}
    along_D, directions_DD = moments.directions()
    if name == "components" and along_D[number] <= _ROUNDING * size_D.min():
        raise errors.calibration_leaves_nothing(kind)
    if name == "whiten":
        varying = int((along_D[:number] > _ROUNDING * size_D.min()).sum())
        if varying < number:
            raise errors.calibration_constant(kind, number - varying, number)
        return {"shift_D": shift_D, "matrix_DK": directions_DD[:, :number] / along_D[:number]}
    return {"shift_D": shift_D, "matrix_DK": directions_DD[:, :number]}


def middle_of_spectrum(unembedding: Iterable[ArrayLike], part: int) -> NDArray[np.float64]:
    """Compute the middle 1/``part`` of an unembedding's right singular vectors, by falling singular value.

    Args:
        unembedding: The rows of the unembedding, in chunks ``_VD``.
        part: All singular vectors divided by those that are kept.

    Returns:
        ``matrix_DK``, with K = D / ``part`` rounded down.
    """
    product_DD: NDArray[np.float64] | None = None
    for chunk in unembedding:
        rows_VD = np.asarray(chunk, dtype=np.float64)
        product_DD = rows_VD.T @ rows_VD + (0 if product_DD is None else product_DD)
    assert product_DD is not None
    _, vectors_DD = np.linalg.eigh(product_DD)
    kept = len(vectors_DD) // part
    start = (len(vectors_DD) - kept) // 2
    return _signed(vectors_DD[:, ::-1])[:, start : start + kept]


def _signed(directions_DK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose the sign of each direction so that its largest number is positive."""
    largest_K = np.abs(directions_DK).argmax(axis=0)
    sign_K = np.sign(directions_DK[largest_K, np.arange(directions_DK.shape[1])])
    return np.asarray(directions_DK * sign_K)
