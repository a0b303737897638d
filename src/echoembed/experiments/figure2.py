"""Figure 2: do the states of early tokens know what comes later? Toy sentences that differ early or late.

Section 3.1 and appendix C. The accuracy is the share of triples in which the query is nearer to its paraphrase. The
histograms pool only the first part A of sentences that differ in the second part. If positive and negative then have
different cosines, later tokens have changed the states of early tokens. They use the structure whose first parts are
equal, so that both cosines are 1 if the text is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from echoembed import plots
from echoembed.evaluation import rows as files
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary
from echoembed.experiments.results import Row, distinct, values
from echoembed.experiments.toy import STRUCTURES, Triple, make_triples, read_triples
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sentence_transformers import SentenceTransformer

_SOURCE = "Section 3.1, Appendix C"
RECIPES = (
    Recipe(name="classical", query_template="{bos}Write a sentence: {text:pool}", source=_SOURCE),
    Recipe(
        name="echo",
        query_template="{bos}Rewrite the following sentence: {text}\nThe rewritten sentence: {text:pool}",
        source=_SOURCE,
    ),
)
FIRST_PARTS = ("positive_first", "negative_first")
"""The columns of cosines of first parts: of query and positive, of query and negative."""
METHODS = ("classical mean", "classical last", "echo mean")
_PER_STRUCTURE = {True: 40, False: 300}
"""The number of triples per structure, quick and full."""
_AT_ONCE = 50
"""The number of triples between two reports of progress."""
_SHORT = {
    STRUCTURES[0]: "early",
    STRUCTURES[1]: "late",
    STRUCTURES[2]: "late, shared\nprefix",
}
Vectors = NDArray[np.float32]


def plan(bench: Bench) -> Plan:
    """Plan two recipes on our own triples, and on those of a file if one is given."""
    toy = bench.setting.toy
    settings = {
        "per_structure": _PER_STRUCTURE[bench.setting.quick],
        "toy": files.digest([toy])[0] if toy else None,
        "grammar": 2,
    }
    return Plan(recipes=RECIPES, settings=settings, models=(bench.model_name,))


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each triple and method."""
    triples = {"own": make_triples(plan.settings["per_structure"], bench.setting.seed)}
    if bench.setting.toy:
        triples["file"] = read_triples(bench.setting.toy)
    rows: list[Row] = []
    bench.progress.expect(sum(_work(recipe, group) for recipe in plan.recipes for group in triples.values()))
    for recipe in plan.recipes:
        model = bench.models.get(bench.model_name, recipe)
        shown = bench.shown(transformer_of(model).name)
        for source, group in triples.items():
            for start in range(0, len(group), _AT_ONCE):
                chunk = group[start : start + _AT_ONCE]
                measured = _measure(model, recipe.name, source, chunk, start, bench.setting.batch_size)
                rows += [{"model": shown, **row} for row in measured]
                bench.progress.done(_work(recipe, chunk), f"{recipe.name} on toy triples")
    return rows


def _work(recipe: Recipe, triples: Sequence[Triple]) -> float:
    """Estimate the cost of triples in characters read."""
    characters = sum(len(text) for triple in triples for text in (triple.query, triple.positive, triple.negative))
    return float(characters * recipe.template("query").copies)


def _measure(
    model: SentenceTransformer, recipe: str, source: str, triples: Sequence[Triple], start: int, batch_size: int
) -> list[Row]:
    """Return the rows of triples, numbered from ``start``."""
    texts = [text for triple in triples for text in (triple.query, triple.positive, triple.negative)]
    first_parts = [part for triple in triples for part in (triple.firsts or ("", "", ""))]
    vectors = token_vectors(model, texts, first_parts, batch_size)
    rows: list[Row] = []
    for pooling in ("mean", "last"):
        if f"{recipe} {pooling}" not in METHODS:
            continue
        positive, negative = _similarities(vectors[pooling])
        positive_first, negative_first = _similarities(vectors["first"])
        for number, triple in enumerate(triples):
            has_parts = triple.firsts is not None and pooling == "mean"
            rows.append(
                {
                    "method": f"{recipe} {pooling}",
                    "source": source,
                    "structure": triple.structure,
                    "triple": start + number,
                    "positive": float(positive[number]),
                    "negative": float(negative[number]),
                    "positive_first": float(positive_first[number]) if has_parts else None,
                    "negative_first": float(negative_first[number]) if has_parts else None,
                }
            )
    return rows


def token_vectors(
    model: SentenceTransformer, texts: Sequence[str], first_parts: Sequence[str], batch_size: int
) -> dict[str, Vectors]:
    """Compute vectors of whole texts (``mean``, ``last``), and of the tokens of their first parts (``first``)."""
    transformer = transformer_of(model)
    states: Any = model.encode(
        list(texts), output_value="token_embeddings", task="query", batch_size=batch_size, show_progress_bar=False
    )
    vectors: dict[str, list[Vectors]] = {"mean": [], "last": [], "first": []}
    prompts = transformer.reader.render(texts)
    part_prompts = iter(transformer.reader.render([part for part in first_parts if part]) if any(first_parts) else [])
    for prompt, part, states_SD in zip(prompts, first_parts, states, strict=True):
        array_SD = states_SD.float().cpu().numpy()
        count = shared_tokens(_span_ids(prompt), _span_ids(next(part_prompts))) if part else len(array_SD)
        vectors["mean"].append(array_SD.mean(axis=0))
        vectors["last"].append(array_SD[-1])
        vectors["first"].append(array_SD[:count].mean(axis=0))
    return {name: np.stack(rows) for name, rows in vectors.items()}


def _span_ids(rendered: Any) -> tuple[int, ...]:
    ids: tuple[int, ...] = rendered.ids[slice(*rendered.span)]
    return ids


def shared_tokens(text: Sequence[int], part: Sequence[int]) -> int:
    """Count the tokens that a text and its first part alone both begin with; at least one."""
    count = next((place for place, (a, b) in enumerate(zip(text, part, strict=False)) if a != b), None)
    return max(min(len(text), len(part)) if count is None else count, 1)


def _similarities(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """Compute the cosines of query and positive, and of query and negative, from rows of query, positive, negative."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query, positive, negative = unit[0::3], unit[1::3], unit[2::3]
    return (query * positive).sum(axis=1), (query * negative).sum(axis=1)


def accuracy(rows: Sequence[Row]) -> float:
    """Return the share of triples whose positive is nearer than their negative."""
    return fmean(row["positive"] > row["negative"] for row in rows)


def summary(rows: list[Row]) -> Summary:
    """Summarise accuracy by method and structure."""
    out = []
    for source in distinct(rows, "source"):
        for method in METHODS:
            method_rows = values(rows, source=source, method=method)
            groups = [values(method_rows, structure=name) for name in STRUCTURES]
            cells = [f"{100 * accuracy(group):.1f}" if group else "-" for group in (method_rows, *groups)]
            out.append([source, method, *cells, str(len(method_rows))])
    columns = ["triples", "method", "all", *(_SHORT[name].replace("\n", " ") for name in STRUCTURES), "count"]
    notes = ["Accuracy × 100; chance is 50. The paper shows its accuracies, for Mistral-7B, only in a picture."]
    return Summary(columns, out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw accuracies, and similarities of the first part alone."""
    own_rows = values(rows, source="own")
    figure, axes = plots.figure(
        f"Toy sentences: is the paraphrase nearer than the opposite? ({own_rows[0]['model']})",
        columns=3,
        width=11,
        height=3.8,
        width_ratios=[1.6, 1, 1],
    )
    series: dict[str, Sequence[float | None]] = {
        method: [
            100 * accuracy(group) if group else None
            for group in (
                values(own_rows, method=method),
                *(values(own_rows, method=method, structure=name) for name in STRUCTURES),
            )
        ]
        for method in METHODS
    }
    plots.bars(axes[0], ["all", *(_SHORT[name] for name in STRUCTURES)], series, label="accuracy, %")
    axes[0].axhline(50, color="black", linestyle=":", linewidth=1)
    axes[0].set(ylim=(0, 118), title="Accuracy by the place of the difference (dotted: chance)")
    axes[0].legend(fontsize=8, ncols=3, loc="upper center")
    groups = {name: values(own_rows, method=name, structure=STRUCTURES[2]) for name in ("classical mean", "echo mean")}
    least = min(0.98, *(row[key] for group in groups.values() for row in group for key in FIRST_PARTS))
    edges = np.linspace(least, 1.0005, 25).tolist()
    for axis, (method, group) in zip(axes[1:], groups.items(), strict=True):
        for key, shade in zip(FIRST_PARTS, ("#2a9d5c", "#b02e4f"), strict=True):
            cosines = [row[key] for row in group]
            label = "paraphrase" if key == "positive_first" else "opposite"
            axis.hist(cosines, bins=edges, alpha=0.6, color=shade, label=f"{label} (mean {fmean(cosines):.3f})")
        axis.set(
            title=f"{method}: shared first part only,\nthe difference comes after it",
            xlabel="cosine with the query's first part",
        )
        axis.set_ylabel("triples")
        axis.legend(fontsize=8, loc="upper left")
    most = max(axis.get_ylim()[1] for axis in axes[1:])
    for axis in axes[1:]:
        axis.set_ylim(0, most)
    return figure


EXPERIMENT = Experiment(
    name="figure2",
    title="Which embeddings see a difference between sentences that comes early, or late?",
    source="Figure 2, Section 3.1, Tables 8 to 10",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
)
