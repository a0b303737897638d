"""Table 1: zero-shot embeddings, echo against classical and its rivals, by category (section 4.2 and 4.3).

The rows whose checkpoints are other models are run when they are named: see ``_OTHERS``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from echoembed.experiments import scoretable
from echoembed.experiments.experiment import Experiment, Summary
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = [recipes[name] for name in ("echo", "echo-compute-matched", "classical", "prompteol")]
_PAPER = {
    "echo": {"system": "Echo (Ours)"},
    "echo-compute-matched": {"system": "Echo (compute matched)"},
    "classical": {"system": "Classical"},
    "prompteol": {"system": "PromptEOL"},
    "bert-large": {"system": "BERT"},
    "roberta-large": {"system": "RoBERTa"},
    "llm2vec-unsupervised": {"system": "LLM2Vec (requires fine tuning)"},
}
_OTHERS = ("bert-large", "roberta-large", "llm2vec-unsupervised")


def not_run() -> list[str]:
    """A line per row whose checkpoint is another model."""
    return [
        f"{name}: not run, needs {' with '.join([recipes[name].checkpoint, *recipes[name].adapters])} "
        f"(echoembed eval --recipe {name})."
        for name in _OTHERS
    ]


def summary(rows: list[Row]) -> Summary:
    """Ours and the paper's, by category."""
    return scoretable.category_summary(rows, paper_table("table1"), _PAPER, missing=not_run())


def plot(rows: list[Row]) -> Figure:
    """Bars by category."""
    title = "Zero-shot: does reading twice beat reading once?"
    return scoretable.category_plot(rows, title, paper_table("table1"), _PAPER)


EXPERIMENT = Experiment(
    name="table1",
    title="Zero-shot: does reading twice beat reading once, and asking for one word?",
    source="Table 1, Section 4.3",
    plan=scoretable.plan_of(RECIPES),
    run=scoretable.run_scores,
    summary=summary,
    plot=plot,
)
