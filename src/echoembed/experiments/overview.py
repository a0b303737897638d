"""The first page of a report: the paper's claims, our results, and whether each claim holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from echoembed.experiments import interval, layers, scoretable, table1
from echoembed.experiments.experiment import Summary
from echoembed.experiments.figure2 import accuracy
from echoembed.experiments.others import BAG
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.experiments.table2 import language_models
from echoembed.experiments.toy import STRUCTURES

PICTURES = ("table1", "layers", "figure2")
"""Experiments whose pictures are on the first page."""
HOLDS, NOT, UNSURE = "yes", "no", "uncertain"
Results = Mapping[str, list[Row]]
"""The name of an experiment → its rows."""


def overview(results: Results) -> Summary:
    """Return a row for each claim that was tested: ten at most, a page that can be taken in."""
    claims = (_classical, _prompteol, _other_models, _mask, _llm2vec, _pooling, _prompts, _toy, _layers, _simple)
    rows = [row for claim in claims for row in claim(results)]
    return Summary(["claim", "paper", "here", "does it hold here?"], rows)


@dataclass(frozen=True)
class _Lead:
    """Echo's lead over another system, with its interval."""

    where: str
    paper: str
    here: str
    verdict: str


def _lead(results: Results, rival: str, kind: str, system: str | None = None) -> _Lead | None:
    """Return the lead in Table 1; None if it was not measured. ``system`` is the rival's name in the paper."""
    rows = results.get("table1", [])
    name = table1.DIFFERENCE.format(rival)
    found = values(rows, recipe=name, kind=kind, task=None)
    if not found:
        return None
    paper = "-"
    if system is not None:
        table = paper_table("table1")
        field = "average" if kind == table1.AVERAGE else kind.lower()
        paper = f"{table.find(system='Echo (Ours)')[field] - table.find(system=system)[field]:+.1f}"
    where = "on average" if kind == table1.AVERAGE else f"on {kind}"
    return _Lead(where, paper, table1.lead(rows, name, kind), _verdict(found[0]))


def _leads(claim: str, leads: Sequence[_Lead | None]) -> list[list[str]]:
    """Return one row for several leads over the same system; one verdict if all have the same."""
    found = [lead for lead in leads if lead is not None]
    if not found:
        return []
    where = " and ".join(lead.where for lead in found)
    papers = [lead.paper for lead in found if lead.paper != "-"]
    verdicts = [lead.verdict for lead in found]
    return [
        [
            f"{claim} {where}",
            ", ".join(papers) or "-",
            ", ".join(lead.here for lead in found),
            ", ".join(verdicts if len(set(verdicts)) > 1 else verdicts[:1]),
        ]
    ]


def _verdict(row: Row) -> str:
    return HOLDS if row["low"] > 0 else NOT if row["high"] < 0 else UNSURE


def _classical(results: Results) -> list[list[str]]:
    """Compare echo with classical (Table 1); on STS over every pair, where ``interval`` had them all."""
    average, sts = (_lead(results, "classical", kind, "Classical") for kind in (table1.AVERAGE, "STS"))
    every = values(results.get("interval", []), task=interval.ALL)
    if every and sts is not None:
        shown = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * every[0][key] for key in ("difference", "low", "high")))
        sts = _Lead(f"on STS ({every[0]['pairs']:,} pairs)", sts.paper, shown, _verdict(every[0]))
    return _leads("Table 1: echo beats classical", [average, sts])


def _prompteol(results: Results) -> list[list[str]]:
    """Compare echo with PromptEOL (Table 1)."""
    leads = [_lead(results, "prompteol", kind, "PromptEOL") for kind in (table1.AVERAGE, "STS")]
    return _leads("Table 1: echo beats PromptEOL", leads)


def _simple(results: Results) -> list[list[str]]:
    """Compare echo with a bag of words (beyond the paper)."""
    return _leads("Beyond: echo beats a bag of words", [_lead(results, BAG, kind) for kind in (table1.AVERAGE, "STS")])


def _averages(rows: Sequence[Row]) -> dict[str, float]:
    scored = [row for row in rows if row.get("task") is not None]
    return {name: scoretable.by_kind(values(scored, recipe=name))["average"] for name in distinct(scored, "recipe")}


def _other_models(results: Results) -> list[list[str]]:
    """Compare echo with classical for every further model (Table 2)."""
    rows = results.get("table2", [])
    gaps = {}
    for model in language_models(rows)[1:]:
        means = _averages(values(rows, model=model))
        gaps[model] = means["echo"] - means["classical"]
    if not gaps:
        return []
    claim = f"Table 2: echo beats classical on average with {', '.join(gaps)} too"
    holds = HOLDS if min(gaps.values()) > 0 else NOT
    return [[claim, "+6.1, +5.6", ", ".join(f"{gap:+.1f}" for gap in gaps.values()), holds]]


def _mask(results: Results) -> list[list[str]]:
    """Compare echo with bidirectional attention without training (Table 3)."""
    means = _averages(results.get("table3", []))
    if "classical-bidirectional" not in means:
        return []
    gap = means["classical-bidirectional"] - means["echo"]
    claim = "Table 3: without training, removing the causal mask does not replace echo"
    return [[claim, "-14.0, -13.8, -1.5", f"{gap:+.1f}", HOLDS if gap < 0 else NOT]]


def _llm2vec(results: Results) -> list[list[str]]:
    """Compare LLM2Vec, which is trained without labels, with echo (Table 1)."""
    means = _averages(results.get("table1", []))
    ours = [name for name in means if name.startswith("llm2vec, ")]
    if not ours or "echo" not in means:
        return []
    gap = means[ours[-1]] - means["echo"]
    claim = "Table 1: LLM2Vec, trained without labels, is ahead of echo on average"
    table = paper_table("table1")
    paper = table.find(system="LLM2Vec (requires fine tuning)")["average"] - table.find(system="Echo (Ours)")["average"]
    return [[claim, f"{paper:+.1f}", f"{gap:+.1f}", HOLDS if gap > 0 else NOT]]


def _pooling(results: Results) -> list[list[str]]:
    """Compare mean and last pooling (Table 4)."""
    means = _averages(results.get("table4", []))
    if not {"echo", "echo-last"} <= means.keys():
        return []
    gap = means["echo"] - means["echo-last"]
    return [
        [
            "Table 4: without training, pooling the mean beats pooling the last state",
            "+17.1",
            f"{gap:+.1f}",
            HOLDS if gap > 0 else NOT,
        ]
    ]


def _prompts(results: Results) -> list[list[str]]:
    """Compare the prompts of echo and of classical (Figure 3), and name the sets on which echo is not ahead."""
    rows = results.get("figure3", [])
    rows = values(rows, model=rows[0]["model"]) if rows else []
    if not {"echo mean", "classical mean"} <= set(distinct(rows, "method")):
        return []
    shown, holds = _spreads(rows)
    verdicts = {task: _spreads(values(rows, task=task))[1] for task in distinct(rows, "task")}
    others = [task for task, verdict in verdicts.items() if verdict != HOLDS]
    if holds == HOLDS and others:
        holds = f"on average, but not on {', '.join(others)}"
    return [["Figure 3: echo is ahead whatever the prompt's wording", "in a picture", shown, holds]]


def _spreads(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the means and deviations over the prompts, and whether echo is ahead by more than both deviations."""
    means = []
    for method in ("echo mean", "classical mean"):
        method_rows = values(rows, method=method)
        prompts = distinct(method_rows, "prompt")
        means.append([100 * fmean(row["score"] for row in values(method_rows, prompt=prompt)) for prompt in prompts])
    echo, classical = means
    gap, deviations = fmean(echo) - fmean(classical), pstdev(echo) + pstdev(classical)
    shown = f"{fmean(echo):.1f} ± {pstdev(echo):.1f} against {fmean(classical):.1f} ± {pstdev(classical):.1f}"
    return shown, HOLDS if gap > deviations else NOT if -gap > deviations else UNSURE


def _toy(results: Results) -> list[list[str]]:
    """Compare accuracies on late differences (Figure 2)."""
    rows = values(results.get("figure2", []), source="own")
    if not rows:
        return []
    late = [accuracy(values(rows, method=m, structure=STRUCTURES[1])) * 100 for m in ("echo mean", "classical mean")]
    claim = "Figure 2: the mean over one reading misses differences that come late"
    return [
        [claim, "in a picture", f"echo {late[0]:.0f} %, classical {late[1]:.0f} %", HOLDS if late[0] > late[1] else NOT]
    ]


def _layers(results: Results) -> list[list[str]]:
    """Compare the best layer with the last (beyond the paper)."""
    rows = results.get("layers", [])
    if not rows:
        return []
    echo_rows = values(rows, model=rows[0]["model"], method="echo", form=layers.RAW)
    last = max(distinct(echo_rows, "layer"))
    layer, score = layers.best(echo_rows)
    final = 100 * fmean(row["score"] for row in values(echo_rows, layer=last))
    return [
        [
            "Beyond: a layer before the last is better on STS",
            "-",
            f"layer {layer} of {last}: {score - final:+.1f}",
            HOLDS if layer < last else NOT,
        ]
    ]
