"""The results of a search as rows of a table, as a JSON record, and as a picture of score against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echoembed import plots
from echoembed.tune.scores import Scored
from echoembed.tune.search import Tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("", "prompt", "layer", "pooling", "calibration", "cost", "score", "95 %")
VALIDITY = 0.71
"""The least rank correlation of the label-free merit with true scores, of two models and two kinds of texts, none of
which it was chosen on; ``benchmarks/label_free.py`` computes it, and docs/beyond.md has all of them."""


def rows(tuned: Tuned) -> list[tuple[str, ...]]:
    """Return the frontier by cost, with the winner marked, then the references."""
    marked = [("winner" if scored == tuned.winner else "", scored) for scored in tuned.frontier]
    if tuned.winner not in tuned.frontier:
        marked.append(("winner", tuned.winner))
    return [_row(name, scored) for name, scored in [*marked, *tuned.references.items()]]


def _row(name: str, scored: Scored) -> tuple[str, ...]:
    parts = scored.candidate.parts
    return (
        name,
        " + ".join(part.prompt.name for part in parts),
        f"{' + '.join(str(part.layer) for part in parts)} of {parts[0].layers}",
        " + ".join(part.pooling for part in parts),
        " + ".join(part.calibration for part in parts),
        f"{scored.cost:.2f}",
        f"{scored.judged:.1f}",
        f"{scored.low:.1f} to {scored.high:.1f}",
    )


def record(tuned: Tuned) -> dict[str, Any]:
    """Return all results in plain values, for JSON."""
    return {
        "evidence": tuned.evidence,
        "labelled": tuned.labelled,
        "candidates": tuned.candidates,
        "winner": _plain(tuned.winner),
        "frontier": [_plain(scored) for scored in tuned.frontier],
        "references": {name: _plain(scored) for name, scored in tuned.references.items()},
    }


def _plain(scored: Scored) -> dict[str, Any]:
    candidate = scored.candidate
    return {
        "recipe": candidate.recipe.as_dict(),
        "prompt": candidate.prompt.name,
        "layer": candidate.layer,
        "layers": candidate.layers,
        "pooling": candidate.pooling,
        "calibration": candidate.calibration,
        "beside": None if candidate.beside is None else str(candidate.beside),
        "cost": scored.cost,
        "score": scored.judged,
        "interval": [scored.low, scored.high],
        "score_on_the_choosing_half": scored.chosen,
    }


def notes(tuned: Tuned) -> list[str]:
    """Return notes that a reader of the table needs."""
    lines = [
        f"Score: {tuned.evidence}; on the half that no choice was made by. "
        f"{tuned.candidates:,} candidates were compared on the other half.",
        "Cost: 1 is a stock classical embedding on this machine (bare texts, padded, all layers).",
    ]
    if not tuned.labelled:
        lines.append(
            "No labels were given. The winner is the best by this score and by how evenly vectors lie. Over recipes, "
            f"the rank correlation of that with true scores was {VALIDITY} or more; still, the recipe 'prompteol-bag' "
            "was better than what was picked. For a choice to rely on, give some 50 labelled pairs with --pairs."
        )
    return lines


def picture(tuned: Tuned, title: str) -> Figure:
    """Draw the frontier of score against cost, with the winner and the references."""
    figure, (axis,) = plots.figure(title, width=7.0, height=4.0)
    cost, score = [scored.cost for scored in tuned.frontier], [scored.judged for scored in tuned.frontier]
    low, high = [scored.low for scored in tuned.frontier], [scored.high for scored in tuned.frontier]
    axis.fill_between(cost, low, high, alpha=0.15, step=None)
    axis.plot(cost, score, marker="o", markersize=4, label="frontier", color=plots.COLOURS["echo"])
    for name, scored in tuned.references.items():
        axis.scatter([scored.cost], [scored.judged], marker="s", color=plots.colour(name))
        axis.annotate(name, (scored.cost, scored.judged), xytext=(6, -4), textcoords="offset points")
    axis.scatter([tuned.winner.cost], [tuned.winner.judged], marker="*", s=140, zorder=5, color="black", label="winner")
    axis.set(xlabel="cost (1: a stock classical embedding)", ylabel=tuned.evidence, xlim=(0, None))
    axis.legend(loc="lower right")
    return figure
