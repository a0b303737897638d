"""What stands beside the paper's methods: a strong simple baseline, our best layer, and other libraries' encoders.

A bag of words: the states after the first layer of one reading, averaged, each dimension less its mean and divided by
its deviation. Those states know little but their own token, so whatever beats a bag of words has read the text.

Means, deviations and whitenings are fitted on texts of the data's ``train`` sets, of which none is judged.
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
"""Share of the layers at which our own row pools, as the experiment ``layers`` suggests."""
NO_TEXTS = "texts to calibrate on: train/NAME/ in the data"


def others(bench: Bench, model: str | None) -> tuple[list[System], list[str]]:
    """The systems beside recipes.

    Args:
        bench: Where models, data and vectors are.
        model: The language model that the bag of words, our best layer and local-llm-embed read with.

    Returns:
        The systems, and a line for each that is absent.
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
        if bench.setting.quick and whitened:
            whitened, absent_too = [], ["local-llm-embed: not run on samples, for it takes longest; --full runs it."]
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
    """A recipe at a layer, z-scored."""
    loaded = bench.models.get(model, recipe)
    transformer = transformer_of(loaded)
    texts = bench.calibration_texts
    kept: list[Callable[[Vectors], Vectors]] = []

    def raw(given: Sequence[str]) -> Vectors:
        prompts = transformer.reader.render(list(given), task="query")
        vectors_ND: Vectors = bench.layers.vectors(loaded, prompts, [layer], "mean")[:, 0]
        return vectors_ND

    def encode(given: Sequence[str]) -> Vectors:
        if not kept:
            kept.append(z_scores(raw(texts)))
        return kept[0](raw(given))

    fitted = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    identity = f"{transformer.recipe.fingerprint()} {transformer.revision} layer {layer} z {fitted}"
    return System(name=name, model=transformer.name, identity=identity, encode=encode)


def z_scores(fitted_on_ND: Vectors) -> Callable[[Vectors], Vectors]:
    """What takes the mean of each dimension away and divides by its deviation, both of these vectors."""
    mean_D = fitted_on_ND.mean(axis=0)
    deviation_D = np.maximum(fitted_on_ND.std(axis=0), 1e-6)

    def apply(vectors_ND: Vectors) -> Vectors:
        scored_ND: Vectors = (vectors_ND - mean_D) / deviation_D
        return scored_ND

    return apply
