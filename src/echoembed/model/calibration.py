"""Calibration: an affine map of pooled vectors, as a module between pooling and normalising.

``model/moments.py`` fits the maps.

Shapes: B vectors of a batch, D their width, K directions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Module
from torch import Tensor

from echoembed import errors
from echoembed.model.moments import Moments, dimension_of, map_of, removes
from echoembed.recipe import CALIBRATIONS, calibration_parts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The texts and the model that a calibration was fitted on.

    Attributes:
        texts: The number of texts.
        texts_sha256: A hash of all texts, in order; empty if there were none.
        dtype: The dtype of the model that computed their vectors.
        stable: Whether the same texts give the same map, to rounding, on every machine.
    """

    texts: int = 0
    texts_sha256: str = ""
    dtype: str = "float32"
    stable: bool = False


class Calibration(Module):
    """The affine map, as a module between pooling and normalising.

    Vectors become ``(v - shift) * scale``. With a matrix, they are then projected on its columns (``whiten-K``,
    ``spectrum-R``: K dimensions), or the projection on its columns is subtracted from them (``components-K``,
    ``z-components-K``). All arithmetic is in float32 and row by row, so that a vector has the same bits in any batch.

    Args:
        kind: One of ``recipe.CALIBRATIONS`` other than ``none``.
        shift_D: The vector that is subtracted.
        scale_D: The factor of each dimension; None for no scaling.
        matrix_DK: The matrix, of orthogonal columns; None for no projection.
        fitted: What the calibration was fitted on.

    Raises:
        ModelError: If the parts do not make such a map, or a number in them is not finite.
    """

    __module__ = "echoembed.model"  # saved models name the class by this path, as they do EchoTransformer
    shift_D: Tensor
    scale_D: Tensor | None
    matrix_DK: Tensor | None

    def __init__(
        self,
        kind: str,
        *,
        shift_D: ArrayLike | Tensor,
        scale_D: ArrayLike | Tensor | None = None,
        matrix_DK: ArrayLike | Tensor | None = None,
        fitted: Fitted | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        parts = calibration_parts(kind)
        if parts is None or kind == "none":
            raise errors.ModelError.bad_value("calibration", kind, CALIBRATIONS.removeprefix("none, "))
        self.kind = kind
        self.fitted = fitted or Fitted()
        buffers = {"shift_D": shift_D, "scale_D": scale_D, "matrix_DK": matrix_DK}
        for name, value in buffers.items():
            # Copied into torch's own memory: products of memory that begins elsewhere may differ in their last bits.
            tensor = None if value is None else torch.tensor(np.asarray(value), dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)
        self._removes = removes(kind)
        self._check(*parts)
        self._original_digest = self.digest()

    def _check(self, kind: str, count: int) -> None:
        width = len(self.shift_D)
        dimension_of(self.kind, width)
        expected: dict[str, tuple[int, ...]] = {"shift_D": (width,)}
        expected |= {"scale_D": (width,)} if kind.startswith("z-") else {}
        if kind not in ("mean", "z-score"):
            expected["matrix_DK"] = (width, width // count if kind == "spectrum" else count)
        shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}
        if self.shift_D.ndim != 1 or shapes != expected:
            raise errors.ModelError.bad_value("calibration", f"{self.kind} with {shapes}", f"{expected}")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self._tensors().values()):
            raise errors.calibration_not_finite()

    def _tensors(self) -> dict[str, Tensor]:
        buffers = {"shift_D": self.shift_D, "scale_D": self.scale_D, "matrix_DK": self.matrix_DK}
        return {name: tensor for name, tensor in buffers.items() if tensor is not None}

    def get_embedding_dimension(self) -> int:
        """Return the dimension of calibrated vectors."""
        return len(self.shift_D) if self._removes or self.matrix_DK is None else self.matrix_DK.shape[1]

    @property
    def width(self) -> int:
        """The dimension of pooled vectors."""
        return len(self.shift_D)

    def forward(self, features: dict[str, Any], **_: object) -> dict[str, Any]:
        """Return the features with a calibrated ``sentence_embedding``, in float32."""
        return {**features, "sentence_embedding": self.calibrated(features["sentence_embedding"])}

    def calibrated(self, vectors_BD: Tensor) -> Tensor:
        """Calibrate vectors: ``_BD``, or ``_BK`` if they are projected; float32.

        Raises:
            ModelError: If the vectors have another width.
        """
        if vectors_BD.shape[-1] != self.width:
            raise errors.calibration_other_width(self.width, int(vectors_BD.shape[-1]))
        moved_BD = vectors_BD.float() - self.shift_D
        if self.scale_D is not None:
            moved_BD = moved_BD * self.scale_D
        if self.matrix_DK is None or not len(moved_BD):
            return moved_BD[:, : self.get_embedding_dimension()]
        return torch.stack([self._projected(row_D.clone(), self.matrix_DK) for row_D in moved_BD])

    def _projected(self, row_D: Tensor, matrix_DK: Tensor) -> Tensor:
        along_K = row_D @ matrix_DK
        return row_D - matrix_DK @ along_K if self._removes else along_K

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Calibration:
        """Move to another device, but stay in float32 whatever the language model's dtype."""

        def moved(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    @classmethod
    def of(cls, kind: str, moments: Moments, *, fitted: Fitted | None = None) -> Calibration:
        """Fit a calibration to the moments of vectors.

        Raises:
            ModelError: If there are too few vectors, or a dimension to divide by its standard deviation is constant.
        """
        parts = map_of(kind, moments)
        name, number = calibration_parts(kind) or ("", 0)
        stable = not moments.full or (removes(kind) and moments.apart(number, scaled=name == "z-components"))
        return cls(kind, **parts, fitted=replace(fitted or Fitted(), stable=stable))

    # Identity, saving and loading.

    def identity(self) -> str:
        """Name the calibration; vectors may be compared only if their calibrations have the same name.

        A map that is the same on every machine, to rounding, is named by the texts it was fitted on. Two machines may
        find different directions where two eigenvalues are almost equal; such a map is named by its numbers.
        """
        as_fitted = self.fitted.stable and self.fitted.texts_sha256 and self.digest() == self._original_digest
        on = f"fitted on {self.fitted.texts} texts {self.fitted.texts_sha256}"
        return f"{self.kind} {on if as_fitted else self.digest()}"

    def digest(self) -> str:
        """Return the SHA-256 of the calibration's kind and numbers."""
        total = hashlib.sha256(self.kind.encode())
        for name, tensor in self._tensors().items():
            total.update(f"\n{name} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().numpy().astype("<f4").tobytes())
        return total.hexdigest()

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Write the numbers and what they were fitted on; the library calls this method to save the module."""
        save_file(self._tensors(), Path(output_path) / _WEIGHTS)
        facts = {"kind": self.kind, **asdict(self.fitted), "sha256": self.digest()}
        (Path(output_path) / self.config_file_name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **_: object,
    ) -> Calibration:
        """Load the module of a saved model; the library and ``echoembed.load`` call this method.

        Raises:
            ModelError: If its files cannot be read, or were not written together.
        """
        where: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        try:
            facts = cls.load_config(model_name_or_path, **where)
            path = cls.load_file_path(model_name_or_path, filename=_WEIGHTS, **where)
            if path is None:
                raise FileNotFoundError(f"no {_WEIGHTS}")
            fitted = Fitted(**{entry.name: facts[entry.name] for entry in fields(Fitted)})
            if wrong := [
                name for name, value in asdict(fitted).items() if type(value) is not type(getattr(Fitted, name))
            ]:
                raise ValueError(f"{wrong[0]} = {facts[wrong[0]]!r}")
            tensors: dict[str, Any] = {**load_file(path)}
            module = cls(str(facts["kind"]), **tensors, fitted=fitted)
            if module.digest() != facts["sha256"]:
                raise ValueError(f"{_WEIGHTS} holds other numbers than {cls.config_file_name} names")
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = f"calibration in {subfolder} ({error})"
            raise errors.model_saved_unreadable(model_name_or_path, reason) from error
        return module
