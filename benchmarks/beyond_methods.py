"""The methods that ``beyond.py`` compares, and their vectors, made out of a store of all layers.

Shapes: N texts, D width of the vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

import echoembed
from beyond_tasks import Embed
from echoembed import recipes
from echoembed.evaluation.layers import LAYER_POOLINGS, LayerStore
from echoembed.files import whole_file
from echoembed.model.calibrate import sentences
from echoembed.model.calibration import Calibration
from echoembed.model.encode import encode_prompts
from echoembed.model.fitting import fit
from echoembed.model.moments import Moments
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under
from echoembed.recipe import Pooling, Recipe

_WRITE = 256
LINES = replace(
    recipes["echo"],
    query_template="{bos}Rewrite the following paragraph: {text}\nThe rewritten paragraph: {text:pool}",
    document_template="",
    name="echo, lines",
)
"""The paper's prompt with a line break for a blank: the wording of ``echo-deep``."""


TOKEN = replace(
    recipes["prompteol"],
    query_template='{bos}This sentence : "*{text}{answer:pool}',
    document_template="",
    hindsight="slot-2-8",
    name="token prepending",
)
"""PromptEOL's wording with a slot, which is the star, and the layers that the authors chose for the models they had."""
COMPRESS = replace(
    recipes["prompteol"],
    query_template="{bos}Context: {text:pool}{answer:pool}",
    document_template="",
    markers={"answer": "\nCompress the Context in one word:"},
    preparation="none",
    name="compress",
)
"""The prompt of KV-Embedding; its layers are chosen for each model (see ``compressed_layers``)."""


@dataclass(frozen=True)
class Part:
    """Vectors of one prompt at one depth, or at several whose states are averaged."""

    prompt: Recipe
    depth: float | tuple[float, ...]
    """Share of the layers; 0 for the first layer alone."""
    calibration: str = "none"
    pooling: Pooling = "mean"

    def averaged(self, layers: int) -> list[int]:
        """The layers that are averaged."""
        depths = self.depth if isinstance(self.depth, tuple) else (self.depth,)
        return [max(int(depth * layers + 0.5), 1) for depth in depths]

    def layer(self, layers: int) -> int:
        """The last layer that runs."""
        return max(self.averaged(layers))


MEAN_OF_PROMPTS = "metaeol"
CALIBRATIONS = ("none", "mean", "z-score", "components-1", "components-8", "z-components-8", "whiten-128", "spectrum-2")


def methods(budget: int, keys: str) -> dict[str, tuple[Part, ...]]:
    """Return every method: the parts whose unit vectors stand side by side, or for ``MEAN_OF_PROMPTS`` are averaged.

    Args:
        budget: The most tokens of text in each copy.
        keys: The hindsight of KV-Embedding for the model.
    """
    compress = replace(COMPRESS, hindsight=keys)
    prompts = (recipes["echo"], LINES, recipes["classical"], recipes["prompteol"], TOKEN, compress)
    echo, lines, classical, word, token, compress = (prompt.overridden(budget=budget) for prompt in prompts)
    bag, end = Part(classical, 0, "z-score"), Part(word, 1, "z-score", "last")
    rows: dict[str, tuple[Part, ...]] = {
        "`classical`": (Part(classical, 1),),
        "`echo`": (Part(echo, 1),),
        "`prompteol`": (Part(word, 1, pooling="last"),),
        "bag of words, uncalibrated": (replace(bag, calibration="none"),),
        "`bag-of-words` (z-components-16)": (replace(bag, calibration="z-components-16"),),
        "bag of words, z-score": (bag,),
        "bag of words, components-8": (replace(bag, calibration="components-8"),),
        "bag of words, weighted by frequency, components-1 (SIF)": (
            Part(classical, 0, "components-1", "frequency-mean"),
        ),
        "`echo-deep`": (Part(lines, 0.8, "components-8"),),
        "`echo-tuned`": (end, replace(bag, calibration="components-8")),
        "prompteol beside bag of words, z-score": (end, bag),
        "`prompteol-bag`": (
            replace(end, calibration="z-components-8"),
            replace(bag, calibration="z-components-16"),
        ),
    }
    rows |= {f"echo, depth 0.8, {kind}": (Part(echo, 0.8, kind),) for kind in CALIBRATIONS}
    rows |= {f"echo, last layer, {kind}": (Part(echo, 1, kind),) for kind in CALIBRATIONS[1:]}
    rows |= {f"echo with a line break, depth 0.8, {kind}": (Part(lines, 0.8, kind),) for kind in ("none", "z-score")}
    rows["echo with a line break, depth 0.72, components-8"] = (Part(lines, 0.72, "components-8"),)
    rows |= {
        f"echo, layers from {low} on averaged, z-score": (Part(echo, _from(low), "z-score"),) for low in (0.5, 0.7)
    }
    for depth, kind in (
        (0.8, "none"),
        (0.8, "z-score"),
        (1, "mean"),
        (1, "z-score"),
        (1, "components-8"),
        (1, "z-components-8"),
    ):
        rows[f"prompteol, depth {depth}, {kind}"] = (Part(word, depth, kind, "last"),)
    rows["prompteol, depth 0.8, z-score, beside bag of words, components-8"] = (
        replace(end, depth=0.8),
        replace(bag, calibration="components-8"),
    )
    rows |= {
        "echo beside bag of words, z-score": (Part(echo, 1, "z-score"), bag),
        "echo, depth 0.8, beside its first layer, z-score": (Part(echo, 0.8, "z-score"), Part(echo, 0, "z-score")),
        "echo, depth 0.8, beside prompteol, z-score": (Part(echo, 0.8, "z-score"), end),
    }
    for name in ("prompteol-cot", "prompteol-knowledge", "echo-one-word", "echo-3"):
        prompt = recipes[name].overridden(budget=budget)
        rows |= {f"{name}, {kind}": (Part(prompt, 1, kind, prompt.pooling),) for kind in ("none", "z-score")}
    answers = [prompt.overridden(budget=budget) for prompt in recipes["metaeol"].prompts]
    for kind in ("none", "z-score"):
        rows[f"{MEAN_OF_PROMPTS}, {kind}"] = tuple(Part(prompt, 1, kind, "last") for prompt in answers)
        rows[f"token prepending, depth 0.8, {kind}"] = (Part(token, 0.8, kind, "last"),)
        rows[f"token prepending, last layer, {kind}"] = (Part(token, 1, kind, "last"),)
        rows[f"KV-Embedding, {kind}"] = (Part(compress, 1, kind), Part(compress, 1, kind, "last"))
        rows[f"ReBA, {kind}"] = (Part(echo, 1, kind, "attention-mean"),)
    return rows


def _from(low: float) -> tuple[float, ...]:
    """Return depths from ``low`` to 0.95, 0.05 apart."""
    return tuple(place / 20 for place in range(round(low * 20), 20))


class Vectors:
    """Makes the vectors of methods out of what is stored."""

    def __init__(self, name: str, store: LayerStore, fit_on: int) -> None:
        self.model = echoembed.load(name, recipe="echo", overflow="ignore")
        self.layers = transformer_of(self.model).layers
        self.store, self.sentences = store, sentences()[:fit_on]
        self._files: dict[Path, dict[str, NDArray[np.float32]]] = {}
        self._name = name
        self._fitted: dict[Part, Calibration | None] = {}
        self._cut: dict[int, SentenceTransformer] = {self.layers: self.model}

    def missing(self, part: Part, texts: Sequence[str]) -> int:
        """Return how many texts have not been read under the part's prompt."""
        if part.pooling not in LAYER_POOLINGS:
            return 0 if part.layer(self.layers) == 1 else len(texts)
        whole = under(self.model, part.prompt)
        return self.store.missing(whole, transformer_of(whole).reader.render(texts))

    def embed(self, parts: Sequence[Part], *, mean: bool = False) -> Embed:
        """Return the method: each part's unit vectors side by side, or their mean."""

        def made(texts: Sequence[str]) -> NDArray[np.float32]:
            vectors = [self._part(part, texts) for part in parts]
            return np.mean(vectors, axis=0) if mean else np.concatenate(vectors, axis=1)

        return made

    def _part(self, part: Part, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        if part not in self._fitted:
            self._fitted[part] = self._fit(part)
        vectors_ND = self.raw(part, texts)
        calibration = self._fitted[part]
        if calibration is not None:
            vectors_ND = calibration.calibrated(torch.from_numpy(vectors_ND)).numpy()
        return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)

    def raw(self, part: Part, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors before calibration: from the store, or where a pooling is of one layer alone, encoded."""
        if part.pooling in LAYER_POOLINGS:
            whole = under(self.model, part.prompt)
            prompts = transformer_of(whole).reader.render(texts)
            layers = part.averaged(self.layers)
            return self.store.vectors(whole, prompts, layers, part.pooling).mean(axis=1)
        layer = part.layer(self.layers)
        if layer not in self._cut:
            self._cut[layer] = echoembed.load(self._name, recipe="echo", layer=layer, overflow="ignore")
        recipe = replace(part.prompt, pooling=part.pooling, layer=-1 if layer == self.layers else layer)
        whole = under(self._cut[layer], recipe)
        return self._kept(whole, texts)

    def _kept(self, model: SentenceTransformer, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts, and keep their vectors in a file for each recipe, which is written every ``_WRITE`` texts."""
        recipe = replace(transformer_of(model).recipe, layer=transformer_of(model).layers)
        file = self.store.folder / f"{transformer_of(model).revision[:16]}-{recipe.fingerprint()}.npz"
        if file not in self._files:
            self._files[file] = dict(np.load(file)) if file.is_file() else {}
        kept = self._files[file]
        names = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
        absent = {name: text for name, text in zip(names, texts, strict=True) if name not in kept}
        order = sorted(absent, key=lambda name: len(absent[name]))
        for start in range(0, len(order), _WRITE):
            group = order[start : start + _WRITE]
            prompts = transformer_of(model).reader.render([absent[name] for name in group])
            kept |= dict(zip(group, encode_prompts(model, prompts), strict=True))
            with whole_file(file, overwrite=True) as handle:
                np.savez(handle, **kept)
        return np.stack([kept[name] for name in names])

    def _fit(self, part: Part) -> Calibration | None:
        if part.calibration == "none":
            return None
        if part.calibration.startswith("spectrum"):
            recipe = replace(part.prompt, calibration=part.calibration)
            return fit(transformer_of(self.model).under(recipe), [])[0]
        moments = Moments.needed_by(part.calibration)
        moments.add(self.raw(part, self.sentences))
        return Calibration.of(part.calibration, moments)


def compressed_layers(vectors: Vectors, budget: int) -> str:
    """Choose KV-Embedding's layers as its authors do: from where the last token's states have the fewest dimensions.

    The dimension is estimated by the ratio of the distances to the second and to the first neighbour (TwoNN, Facco et
    al. 2017), on the package's sentences; the first fifth of the layers is left out, and a tenth of them follow.
    """
    prompt, layers = COMPRESS.overridden(budget=budget), vectors.layers
    dimensions = {}
    for layer in range(layers // 5 + 1, layers):
        states_ND = vectors.raw(Part(prompt, layer / layers, pooling="last"), vectors.sentences).astype(np.float64)
        square_NN = (states_ND**2).sum(1)[:, None] + (states_ND**2).sum(1)[None] - 2 * states_ND @ states_ND.T
        np.fill_diagonal(square_NN, np.inf)
        near_N2 = np.sqrt(np.maximum(np.sort(square_NN, axis=1)[:, :2], 1e-12))
        ratio_N = np.sort(np.log(near_N2[:, 1] / near_N2[:, 0]))
        rank_N = -np.log1p(-np.arange(1, len(ratio_N) + 1) / (len(ratio_N) + 1))
        dimensions[layer] = float(ratio_N @ rank_N / (ratio_N @ ratio_N))
    first = min(dimensions, key=lambda layer: dimensions[layer])
    return f"keys-{first}-{min(first + max(layers // 10, 1), layers - 1)}"
