"""Recipes with several prompts: one set of weights reads each of them, and ``Join`` joins their vectors.

The first module reads all prompts of a text. Those beside the first are pooled by it, up to their own layer, and handed
on as vectors. ``Join`` stands after the pooling and the calibration of the first prompt, and holds the calibrations of
the others.

Shapes: B texts, D width of a vector.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from echoembed import errors
from echoembed.model.backbone import cut_at_layer
from echoembed.model.calibration import Calibration
from echoembed.model.groups import FEATURE, PADDED_TEXTS
from echoembed.model.weights import sketch
from echoembed.prompts.template import Rendered
from echoembed.recipe import Join as How
from echoembed.recipe import Recipe

if TYPE_CHECKING:
    from echoembed.model.transformer import EchoTransformer


def beside(whole: EchoTransformer) -> nn.ModuleList:
    """What reads the further prompts of a transformer's recipe: the same weights, up to the layer of each.

    Args:
        whole: The transformer, under its recipe.

    Returns:
        A transformer for each further prompt. Those of one layer share one model.

    Raises:
        ModelError: If one of them pools a layer above that at which the transformer ends.
    """
    at = {part.layers: part for part in (*parts_of(whole), whole)}
    parts = []
    for recipe in whole.recipe.beside:
        layer = _layer(whole, recipe)
        if layer > whole.layers:
            allowed = f"up to {whole.layers}, where the recipe ends: the prompt that reads deepest comes first"
            raise errors.ModelError.bad_value(f"layer of {recipe.name!r}", layer, allowed)
        part = at[layer].under(recipe) if layer in at else _cut(whole.under(recipe), layer)
        at.setdefault(layer, part)
        parts.append(part)
    return nn.ModuleList(parts)


def _layer(whole: EchoTransformer, recipe: Recipe) -> int:
    count = whole.layers_in_all
    layer = recipe.layer_of(count)
    if not -count - 1 <= layer <= count:
        raise errors.model_layer(whole.name, layer, count)
    return layer if layer >= 0 else layer + count + 1


def _cut(part: EchoTransformer, layer: int) -> EchoTransformer:
    """The transformer with a model that ends at a layer: its modules are new, its weights those of the whole one."""
    tensors = [*part.model.parameters(), *part.model.buffers()]
    part.model = copy.deepcopy(part.model, {id(tensor): tensor for tensor in tensors})
    part.layers = cut_at_layer(part.model, part.name, layer)
    part.sketch = sketch(part.model)
    if not part.int8:  # in eight bits no proof is exact: what the whole model passed stands for its layers
        part.selector = part.running.selector(part.name, part.recipe.attention, part.context)
    return part


def models_of(whole: EchoTransformer) -> list[EchoTransformer]:
    """Of the further prompts' transformers those with a model of their own, each model once."""
    own = {id(part.model): part for part in parts_of(whole) if part.model is not whole.model}
    return list(own.values())


def parts_of(whole: EchoTransformer) -> list[EchoTransformer]:
    """The transformers of the further prompts."""
    return [cast("EchoTransformer", part) for part in getattr(whole, "beside", ())]


def vectors_beside(whole: EchoTransformer, prompts: Sequence[Rendered] | None) -> dict[str, list[Tensor]]:
    """The vectors of the further prompts, as a feature; nothing where the recipe has one prompt.

    Args:
        whole: The transformer.
        prompts: B prompts from its reader.

    Raises:
        ModelError: If there are none: padded tensors hold the first prompt only.
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
    """Vectors of several prompts become one, as a module after the first prompt's calibration.

    Args:
        how: ``concatenate`` or ``mean``.
        calibrations: Those of the further prompts, in order; None for one without.
        width: Dimensions of the first prompt's vectors, as they come in.
        widths: Dimensions of the others', before their calibration.

    Raises:
        ModelError: If vectors of other widths are to be averaged.
    """

    __module__ = "echoembed.model"  # saved models name the class by this path

    def __init__(
        self, how: How, calibrations: Sequence[Calibration | None], *, width: int, widths: Sequence[int]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.how, self.width, self.widths = how, width, tuple(widths)
        self.calibrations = nn.ModuleList([nn.Identity() if one is None else one for one in calibrations])
        if how == "mean" and len(set(self._joined())) > 1:
            raise errors.ModelError.bad_value("join", "mean", f"concatenate for vectors of {self._joined()} dimensions")

    def fitted(self) -> list[Calibration | None]:
        """The calibrations of the further prompts."""
        return [one if isinstance(one, Calibration) else None for one in self.calibrations]

    def _joined(self) -> list[int]:
        """Dimensions of what is joined."""
        pairs = zip(self.fitted(), self.widths, strict=True)
        return [self.width, *(width if one is None else one.get_embedding_dimension() for one, width in pairs)]

    def get_embedding_dimension(self) -> int:
        """Dimensions of what comes out."""
        return self.width if self.how == "mean" else sum(self._joined())

    def forward(self, features: dict[str, Any], **_: object) -> dict[str, Any]:
        """The features with ``sentence_embedding`` joined, float32; each prompt's vector counts with length 1."""
        features = dict(features)
        others = [
            vectors_BD.float() if one is None else one.calibrated(vectors_BD)
            for one, vectors_BD in zip(self.fitted(), features.pop(FEATURE), strict=True)
        ]
        unit = [nn.functional.normalize(vectors_BD) for vectors_BD in [features["sentence_embedding"].float(), *others]]
        joined_BD: Tensor = torch.cat(unit, dim=1) if self.how == "concatenate" else torch.stack(unit).mean(dim=0)
        return {**features, "sentence_embedding": joined_BD}

    def identity(self) -> str:
        """What vectors must have in common to be compared; the recipe says how they are joined."""
        return " beside ".join("" if one is None else one.identity() for one in self.fitted())

    # Saving and loading, which the library asks for.

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Write how vectors are joined, and each calibration into a folder of its number."""
        calibrated = [one is not None for one in self.fitted()]
        facts = {"how": self.how, "width": self.width, "widths": list(self.widths), "calibrated": calibrated}
        for place, one in enumerate(self.fitted()):
            if one is not None:
                (Path(output_path) / str(place)).mkdir()
                one.save(str(Path(output_path) / str(place)))
        (Path(output_path) / self.config_file_name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **where: Any) -> Join:  # type: ignore[override]
        """The module of a saved model; called by the library, and by ``echoembed.load``.

        Raises:
            ModelError: If its files cannot be read.
        """
        where = {key: where.get(key) for key in ("token", "cache_folder", "revision", "local_files_only")}
        where["local_files_only"] = bool(where["local_files_only"])
        try:
            facts = cls.load_config(model_name_or_path, subfolder=subfolder, **where)
            calibrations = [
                Calibration.load(model_name_or_path, subfolder=f"{subfolder}/{place}", **where) if there else None
                for place, there in enumerate(facts["calibrated"])
            ]
            if facts["how"] not in get_args(How):
                raise ValueError(f"how = {facts['how']!r}")
            return cls(facts["how"], calibrations, width=int(facts["width"]), widths=[*map(int, facts["widths"])])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise errors.model_saved_unreadable(model_name_or_path, f"join in {subfolder} ({error})") from error
