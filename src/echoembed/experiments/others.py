"""Systems that stand beside the paper's methods in its tables: rows of ours, and other libraries' encoders.

The simple baseline is the recipe ``bag-of-words``: the states of the first layer, calibrated. They know little beyond
their own token, so that a method which beats this baseline has used more of the text than its words. ``echo-deep`` and
``prompteol-bag`` are what this package recommends for any model. All three are calibrated on sentences that come with
the package, none of which is scored; the whitening of local-llm-embed is fitted on texts of the data's ``train`` sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed.evaluation import peers
from echoembed.evaluation.peers import System
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from echoembed.experiments.experiment import Bench

BAG = "bag-of-words"
BEYOND = [recipes[name] for name in (BAG, "echo-deep", "prompteol-bag")]
"""The baseline, and our own rows beyond the paper."""


def others(bench: Bench, model: str | None) -> tuple[list[System], list[str]]:
    """Return the systems that are no recipes: other encoders, and local-llm-embed.

    Args:
        bench: The bench with models, data and vectors.
        model: The language model of local-llm-embed.

    Returns:
        The systems, and a line for each system that cannot run.
    """
    if not bench.setting.peers:
        return [], []
    encoders, absent = peers.encoders(bench.setting.further, _taken(bench))
    whitened, absent_too = peers.whitened(bench.models.get(model, "classical"), bench.calibration_texts)
    return [*encoders, *whitened], [*absent, *absent_too]


def installed(bench: Bench) -> list[System]:
    """Encoders that are installed or named; none where they are not wanted."""
    return peers.encoders(bench.setting.further, _taken(bench))[0] if bench.setting.peers else []


def _taken(bench: Bench) -> list[str]:
    """Return the names of our own rows, beside which another encoder's folder may be named alike."""
    return [*recipes, *bench.llm2vec_names.values()]
