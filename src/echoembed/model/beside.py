"""Recipes with several prompts: one set of weights reads all of them, and ``Join`` joins their vectors.

The first module reads all prompts of a text. It pools the further prompts itself, each at its own layer, and passes on
their vectors. ``Join`` comes after the pooling and the calibration of the first prompt, and contains the calibrations
of the further prompts.

Shapes: B texts, D width of a vector.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from echoembed import errors
from echoembed.model import hindsight
from echoembed.model.backbone import cut_at_layer
from echoembed.model.calibration import Calibration
from echoembed.model.groups import FEATURE, PADDED_TEXTS
from echoembed.model.moments import dimension_of
from echoembed.model.weights import sketch
from echoembed.prompts.template import Rendered
from echoembed.recipe import Join as How
from echoembed.recipe import Recipe

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer


def beside(whole: EchoTransformer) -> nn.ModuleList:
    """Make the transformers that read a recipe's further prompts: the same weights, up to the layer of each prompt.

    Args:
        whole: The transformer with the recipe.

    Returns:
        A transformer for each further prompt. Transformers that end at the same layer share one model.
    """
    check_prompts(whole)
    at = {part.layers: part for part in (*parts_of(whole), whole)}
    parts = []
    for recipe in whole.recipe.beside:
        layer = _layer(whole, recipe)
        part = (
            at[layer].under(recipe, frequencies=whole.frequencies) if layer in at else _cut(whole.under(recipe), layer)
        )
        at.setdefault(layer, part)
        parts.append(part)
    return nn.ModuleList(parts)


def check_prompts(whole: EchoTransformer) -> None:
    """Refuse prompts from which no vectors can be made, or none that can be joined, before a calibration is fitted.

    Args:
        whole: The transformer with the recipe.

    Raises:
        ModelError: If a prompt pools a layer above the last layer of ``whole``, or what is the same for all texts, or a
            calibration would leave nothing, or dimensions differ that are to be averaged.
    """
    prompts, width = whole.recipe.prompts, whole.get_embedding_dimension()
    for recipe, layer in zip(prompts, [whole.layers, *(_layer(whole, part) for part in prompts[1:])], strict=True):
        if layer > whole.layers:
            allowed = f"up to {whole.layers}, where the recipe ends: the prompt that reads deepest comes first"
            raise errors.ModelError.bad_value(f"layer of {recipe.name!r}", layer, allowed)
        if not recipe.sees_text(layer):
            raise errors.model_states_same(recipe.name, layer)
    _check_join(whole.recipe.join, [dimension_of(recipe.calibration, width) for recipe in prompts])


def _check_join(how: How, dimensions: Sequence[int]) -> None:
    if how == "mean" and len(set(dimensions)) > 1:
        raise errors.ModelError.bad_value("join", "mean", f"concatenate for vectors of {list(dimensions)} dimensions")


def _layer(whole: EchoTransformer, recipe: Recipe) -> int:
    count = whole.layers_in_all
    layer = recipe.layer_of(count)
    if not -count - 1 <= layer <= count:
        raise errors.model_layer(whole.name, layer, count)
    return layer if layer >= 0 else layer + count + 1


def _cut(part: EchoTransformer, layer: int) -> EchoTransformer:
    """Cut a transformer at a layer: its modules are copies, which share the weights of the whole model."""
    tensors = [*part.model.parameters(), *part.model.buffers()]
    part.model = copy.deepcopy(part.model, {id(tensor): tensor for tensor in tensors})
    part.layers = cut_at_layer(part.model, part.name, layer)
    part.sketch = sketch(part.model)
    if not part.int8:  # int8 has no exact proof: the whole model's proof covers its layers
        part.selector = part.running.selector(part.name, part.recipe.attention, part.context)
    hindsight.check(part)  # which was checked in the whole model, before the cut
    return part


def models_of(whole: EchoTransformer) -> list[EchoTransformer]:
    """Return the further prompts' transformers whose model is not that of ``whole``, one for each model."""
    parts = {id(part.model): part for part in parts_of(whole) if part.model is not whole.model}
    return list(parts.values())


def parts_of(whole: EchoTransformer) -> list[EchoTransformer]:
    """Return the transformers of the further prompts."""
    return [cast("EchoTransformer", part) for part in getattr(whole, "beside", ())]


def vectors_beside(whole: EchoTransformer, prompts: Sequence[Rendered] | None) -> dict[str, list[Tensor]]:
    """Compute the vectors of the further prompts, as a feature; empty if the recipe has only one prompt.

    Args:
        whole: The transformer.
        prompts: B prompts from its reader.

    Raises:
        ModelError: If ``prompts`` is None: padded tensors contain only the first prompt.
    """
    if not whole.recipe.beside:
        return {}
    if prompts is None:
        raise errors.ModelError.bad_value("features", None, "what preprocess gives: with 'prompts' among them")
    vectors = []
    for place, part in enumerate(parts_of(whole)):
        features = part({"prompts": [prompt.beside[place] for prompt in prompts]}, texts_a_forward=PADDED_TEXTS)
        vectors.append(features["token_embeddings"][:, 0])
    return {FEATURE: vectors}


class Join(Module):
    """Joins the vectors of several prompts into one, as a module after the first prompt's calibration.

    Args:
        how: ``concatenate`` or ``mean``.
        calibrations: The calibrations of the further prompts, in order; None for a prompt without one.
        width: The dimension of the first prompt's vectors, after their calibration.
        widths: The dimensions of the further prompts' vectors, before their calibration.

    Raises:
        ModelError: If vectors with different dimensions are to be averaged.
    """

    __module__ = "echoembed.model"  # saved models name the class by this path

    def __init__(
        self, how: How, calibrations: Sequence[Calibration | None], *, width: int, widths: Sequence[int]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.how, self.width, self.widths = how, width, tuple(widths)
        self.calibrations = nn.ModuleList(
            [nn.Identity() if calibration is None else calibration for calibration in calibrations]
        )
        _check_join(how, self._joined())

    def fitted(self) -> list[Calibration | None]:
        """Return the calibrations of the further prompts, None for a prompt without one."""
        return [module if isinstance(module, Calibration) else None for module in self.calibrations]

    def _joined(self) -> list[int]:
        """Return the dimensions of the vectors that are joined."""
        pairs = zip(self.fitted(), self.widths, strict=True)
        return [
            self.width,
            *(width if calibration is None else calibration.get_embedding_dimension() for calibration, width in pairs),
        ]

    def get_embedding_dimension(self) -> int:
        """Return the dimension of the joined vectors."""
        return self.width if self.how == "mean" else sum(self._joined())

    def forward(self, features: dict[str, Any], **_: object) -> dict[str, Any]:
        """Join the vectors in ``sentence_embedding``, float32; each prompt's vector is scaled to length 1 before."""
        features = dict(features)
        further = [
            vectors_BD.float() if calibration is None else calibration.calibrated(vectors_BD)
            for calibration, vectors_BD in zip(self.fitted(), features.pop(FEATURE), strict=True)
        ]
        unit = [
            nn.functional.normalize(vectors_BD) for vectors_BD in [features["sentence_embedding"].float(), *further]
        ]
        joined_BD: Tensor = torch.cat(unit, dim=1) if self.how == "concatenate" else torch.stack(unit).mean(dim=0)
        return {**features, "sentence_embedding": joined_BD}

    def identity(self) -> str:
        """Return the identities of the further prompts' calibrations; the recipe says how the vectors are joined."""
        return " beside ".join("" if calibration is None else calibration.identity() for calibration in self.fitted())

    # Saving and loading; the library calls these methods.

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Write how vectors are joined, and each calibration into a folder named by the number of its prompt.

        Such folders that an earlier save left there are removed first.
        """
        for left in Path(output_path).iterdir():
            if left.name.isdigit() and left.is_dir():
                shutil.rmtree(left)
        calibrated = [calibration is not None for calibration in self.fitted()]
        facts = {"how": self.how, "width": self.width, "widths": list(self.widths), "calibrated": calibrated}
        for place, calibration in enumerate(self.fitted()):
            if calibration is not None:
                (Path(output_path) / str(place)).mkdir()
                calibration.save(str(Path(output_path) / str(place)))
        (Path(output_path) / self.config_file_name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **where: Any) -> Join:  # type: ignore[override]
        """Load the module of a saved model; the library and ``echoembed.load`` call this method.

        Raises:
            ModelError: If the module's files cannot be read.
        """
        where = {key: where.get(key) for key in ("token", "cache_folder", "revision", "local_files_only")}
        where["local_files_only"] = bool(where["local_files_only"])
        try:
            facts = cls.load_config(model_name_or_path, subfolder=subfolder, **where)
            calibrations = [
                Calibration.load(model_name_or_path, subfolder=f"{subfolder}/{place}", **where) if exists else None
                for place, exists in enumerate(facts["calibrated"])
            ]
            if facts["how"] not in get_args(How):
                raise ValueError(f"how = {facts['how']!r}")
            return cls(facts["how"], calibrations, width=int(facts["width"]), widths=[*map(int, facts["widths"])])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise errors.model_saved_unreadable(model_name_or_path, f"join in {subfolder} ({error})") from error
