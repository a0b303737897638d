"""Figure 6 and table 11: are pairs that begin alike overestimated, and pairs that end alike not (appendix E)?

From every STS set it takes the tenth of pairs whose first halves are most similar, and the tenth whose second halves
are, judged by a bidirectional encoder. The error of a pair is its rank by cosine minus its rank by gold score, as a
share of the pairs.
"""

from __future__ import annotations

import json
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from echoembed import plots
from echoembed.experiments import scoretable, selection
from echoembed.experiments.experiment import Bench, Experiment, Plan, Summary, work_of_set
from echoembed.experiments.interval import cosines
from echoembed.experiments.results import Row, distinct, values
from echoembed.experiments.splitter import Splitter, load_splitter, splitter_name, splitter_revision
from echoembed.files import write_text
from echoembed.model.transformer import transformer_of
from echoembed.recipe import recipes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("classical", "echo")
HALVES = ("first", "second")
SHARE = 0.1
EXTREME = 7
Array = NDArray[np.float64]


def plan(bench: Bench) -> Plan:
    """Plan classical and echo on STS."""
    compared = [recipes[name] for name in NAMES]
    wanted = bench.setting.splitter
    revision = splitter_revision(wanted) if bench.sts_tasks else ""  # it may have to be fetched
    return scoretable.sts_plan(bench, compared, splitter=splitter_name(wanted), revision=revision, share=SHARE)


def run(bench: Bench, plan: Plan) -> list[Row]:
    """Return a row for each pair and recipe, without its texts.

    The folder ``table11`` of the results holds, for each set, the pairs that echo improves most and least.
    """
    setting = bench.setting
    split = load_splitter(setting.splitter)
    name = bench.shown(transformer_of(bench.models.get(bench.model_name, plan.recipes[0])).name)
    rows: list[Row] = []
    for pairs in bench.sts_pairs:
        similarities = [half_similarities(split, pairs.first, pairs.second, half) for half in (0, 1)]
        chosen = [top(similarities_N) for similarities_N in similarities]
        errors = {
            recipe: rank_errors(cosines(bench, recipe, pairs.first, pairs.second), pairs.gold) for recipe in NAMES
        }
        for recipe, errors_N in errors.items():
            rows += [
                {
                    "model": name,
                    "splitter": plan.settings["splitter"],
                    "task": pairs.name,
                    "pair": place,
                    "recipe": recipe,
                    "error": float(error),
                    "gold": pairs.gold[place],
                    "first": place in chosen[0],
                    "second": place in chosen[1],
                    "first_similarity": float(similarities[0][place]),
                    "second_similarity": float(similarities[1][place]),
                }
                for place, error in enumerate(errors_N)
            ]
        bench.progress.done(work_of_set(plan, pairs.name), f"halves of {pairs.name}")
        _keep_extremes(bench, pairs, np.abs(errors["classical"]) - np.abs(errors["echo"]))
    return rows


def half_similarities(split: Splitter, left: list[str], right: list[str], half: int) -> Array:
    """Compute the cosines of the first (0) or second (1) halves of pairs."""
    left_ND, right_ND = (split([halves(text)[half] for text in texts]) for texts in (left, right))
    cosines_N: Array = np.sum(left_ND * right_ND, axis=1, dtype=np.float64)
    return cosines_N


def halves(text: str) -> tuple[str, str]:
    """Cut a text in two by its number of words; the first half has the odd word. A single word is both halves."""
    words = text.split()
    middle = (len(words) + 1) // 2
    opening, ending = " ".join(words[:middle]), " ".join(words[middle:])
    return opening or text, ending or opening or text


def rank_errors(similarities: ArrayLike, gold: ArrayLike) -> Array:
    """Compute estimated rank minus true rank, as a share of the pairs; above 0, a pair is overestimated."""
    errors: Array = rankdata(similarities) - rankdata(gold)
    return errors / len(errors)


def top(similarities: Array) -> set[int]:
    """Return the indices of the most similar tenth, at least one."""
    count = max(round(SHARE * len(similarities)), 1)
    return set(np.argsort(-similarities, kind="stable")[:count].tolist())


def _keep_extremes(bench: Bench, pairs: selection.Pairs, improvement: Array) -> None:
    order = np.argsort(-improvement, kind="stable").tolist()
    extremes = {"most improved": order[:EXTREME], "least improved": order[::-1][:EXTREME]}
    pairs_of = {
        name: [
            {
                "sentence1": pairs.first[place],
                "sentence2": pairs.second[place],
                "gold": pairs.gold[place],
                "improvement": float(improvement[place]),
            }
            for place in places
        ]
        for name, places in extremes.items()
    }
    text = json.dumps(pairs_of, indent=1, ensure_ascii=False)
    write_text(bench.setting.out / "table11" / f"{pairs.name.replace('/', '-')}.json", text)


def mean_error(rows: list[Row], recipe: str, half: str) -> float:
    """Return the mean error of pairs that are similar in a half, in % of the pairs."""
    return 100 * fmean(row["error"] for row in values(rows, recipe=recipe) if row[half])


def first_halves_alike(rows: list[Row], task: str) -> dict[str, float]:
    """Return how similar the first halves are in the pairs that echo improves most, and least (table 11)."""
    by_recipe = {recipe: values(rows, task=task, recipe=recipe) for recipe in NAMES}
    gains = [
        (abs(old["error"]) - abs(new["error"]), old["first_similarity"])
        for old, new in zip(by_recipe["classical"], by_recipe["echo"], strict=True)
    ]
    gains.sort(key=lambda gain: -gain[0])
    count = max(round(SHARE * len(gains)), 1)
    return {
        "most": fmean(similarity for _, similarity in gains[:count]),
        "least": fmean(similarity for _, similarity in gains[-count:]),
    }


def summary(rows: list[Row]) -> Summary:
    """Summarise mean errors by half and set, and the numbers of table 11."""
    out = []
    for task in (*distinct(rows, "task"), "all"):
        task_rows = rows if task == "all" else values(rows, task=task)
        cells = [mean_error(task_rows, recipe, half) for recipe in NAMES for half in HALVES]
        gaps = [cells[0] - cells[1], cells[2] - cells[3]]
        alike = first_halves_alike(rows, task) if task != "all" else {}
        halves_alike = [f"{alike[key]:.2f}" if alike else "-" for key in ("most", "least")]
        out.append([task, *(f"{cell:+.1f}" for cell in (*cells, *gaps)), *halves_alike])
    columns = [
        "set",
        *(f"{recipe}, {half} halves alike" for recipe in NAMES for half in HALVES),
        *(f"{recipe}, first minus second" for recipe in NAMES),
        "first halves alike: most improved tenth",
        "least improved tenth",
    ]
    pairs = len(values(rows, recipe=NAMES[0]))
    notes = [
        f"Mean rank error in % of the pairs (above 0: overestimated), {pairs:,} pairs; {rows[0]['model']}; "
        f"halves compared by {rows[0]['splitter']} (the paper: bge-base-en-v1.5).",
        "The paper shows its errors in a picture: classical overestimates pairs with similar first halves, echo not.",
        "The sentences for Table 11 are beside the results, in table11/.",
    ]
    return Summary(columns, out, notes)


def plot(rows: list[Row]) -> Figure:
    """Draw histograms of the errors, by half."""
    figure, axes = plots.figure(
        "STS pairs that begin alike, or end alike: is their similarity overestimated?\n"
        f"({rows[0]['model']}; halves compared by {rows[0]['splitter']})",
        columns=2,
        width=9,
        height=3.8,
        sharex=True,
        sharey=True,
    )
    edges = np.linspace(-1, 1, 31).tolist()
    for axis, recipe in zip(axes, NAMES, strict=True):
        for half, shade in zip(HALVES, ("#b8860b", "#54417a"), strict=True):
            errors = [row["error"] for row in values(rows, recipe=recipe) if row[half]]
            label = f"{half} halves alike (mean {fmean(errors):+.2f})"
            axis.hist(errors, bins=edges, alpha=0.5, color=shade, label=label)
            axis.axvline(fmean(errors), color=shade, linewidth=2)
        axis.set(title=recipe, xlabel="rank by cosine minus rank by gold, share of the pairs")
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17))  # below the bars
    axes[0].set_ylabel("pairs")
    return figure


EXPERIMENT = Experiment(
    name="figure6",
    title="Are pairs that begin alike overestimated in real data too?",
    source="Figure 6, Table 11, Appendix E",
    plan=plan,
    run=run,
    summary=summary,
    plot=plot,
    aliases=("table11",),
)
