"""Systems to compare with the paper's methods: a strong simple baseline, our best layer, and other libraries' encoders.

The baseline is a bag of words: the mean of the states after the first layer, z-scored. These states know little beyond
their own token, so that a method which beats this baseline has used more of the text than its words.

Means, deviations and whitenings are fitted on texts of the data's ``train`` sets, none of which is scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from echoembed.evaluation import peers
from echoembed.evaluation.cache import Vectors
from echoembed.evaluation.peers import System
from echoembed.model.transformer import transformer_of

if TYPE_CHECKING:
    from echoembed.experiments.experiment import Bench

BAG = "bag of words"
DEPTH = 0.8
"""The depth of our own row, as a share of the layers, as the experiment ``layers`` suggests."""
NO_TEXTS = "texts to calibrate on: train/NAME/ in the data"


def others(bench: Bench, model: str | None) -> tuple[list[System], list[str]]:
    """Return the systems that are no recipes.

    Args:
        bench: The bench with models, data and vectors.
        model: The language model of the bag of words, our best layer and local-llm-embed.

    Returns:
        The systems, and a line for each system that cannot run.
    """
    texts = bench.calibration_texts
    whole = bench.models.get(model, "classical")
    layers = transformer_of(whole).layers
    deep = max(round(DEPTH * layers), 1)
    missing = [] if texts else [f"{BAG} and calibrated echo: not run, need {NO_TEXTS}."]
    systems = (
        [
            calibrated(bench, model, "classical", 1, BAG),
            calibrated(bench, model, "echo", deep, f"echo, layer {deep} of {layers}, z-scored"),
        ]
        if texts
        else []
    )
    if bench.setting.peers:
        encoders, absent = peers.encoders(bench.setting.further)
        whitened, absent_too = peers.whitened(whole, texts)
        systems += [*encoders, *whitened]
        missing += [*absent, *absent_too]
    return systems, missing


def yardsticks(bench: Bench, model: str | None) -> list[System]:
    """A bag of words, and encoders that are installed: what stands even in tables that compare our own recipes."""
    bag = [calibrated(bench, model, "classical", 1, BAG)] if bench.calibration_texts else []
    return bag + installed(bench)


def installed(bench: Bench) -> list[System]:
    """Encoders that are installed or named; none where they are not wanted."""
    return peers.encoders(bench.setting.further)[0] if bench.setting.peers else []


def calibrated(bench: Bench, model: str | None, recipe: str, layer: int, name: str) -> System:
    """Return a system: a recipe at a layer, z-scored."""
    loaded = bench.models.get(model, recipe)
    transformer = transformer_of(loaded)
    texts = bench.calibration_texts
    fitted: list[Callable[[Vectors], Vectors]] = []

    def raw(inputs: Sequence[str]) -> Vectors:
        prompts = transformer.reader.render(list(inputs), task="query")
        vectors_ND: Vectors = bench.layers.vectors(loaded, prompts, [layer], "mean")[:, 0]
        return vectors_ND

    def encode(inputs: Sequence[str]) -> Vectors:
        if not fitted:
            fitted.append(z_scores(raw(texts)))
        return fitted[0](raw(inputs))

    texts_hash = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    identity = f"{transformer.recipe.fingerprint()} {transformer.revision} layer {layer} z {texts_hash}"
    return System(name=name, model=transformer.name, identity=identity, encode=encode)


def z_scores(fitted_on_ND: Vectors) -> Callable[[Vectors], Vectors]:
    """Return a function that z-scores vectors by the means and deviations of the given ones."""
    mean_D = fitted_on_ND.mean(axis=0)
    deviation_D = np.maximum(fitted_on_ND.std(axis=0), 1e-6)

    def apply(vectors_ND: Vectors) -> Vectors:
        scored_ND: Vectors = (vectors_ND - mean_D) / deviation_D
        return scored_ND

    return apply
