"""The first page of a report: the paper's claims, our results, and whether each claim holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from echoembed.experiments import interval, layers, scoretable, table1
from echoembed.experiments.experiment import Summary
from echoembed.experiments.figure2 import accuracy
from echoembed.experiments.figure6 import mean_error
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
    """Return a row for each claim that was tested."""
    claims = (
        *(_leads, _every_pair, _matched, _other_models, _mask, _llm2vec, _pooling, _prompts, _toy, _halves, _layers),
        _simple,
    )
    rows = [row for claim in claims for row in claim(results)]
    return Summary(["claim", "paper", "here", "does it hold here?"], rows)


def _lead(results: Results, rival: str, kind: str) -> Row | None:
    leads = values(results.get("table1", []), recipe=table1.DIFFERENCE.format(rival), kind=kind, task=None)
    return leads[0] if leads else None


def _verdict(row: Row) -> str:
    return HOLDS if row["low"] > 0 else NOT if row["high"] < 0 else UNSURE


def _leads(results: Results) -> list[list[str]]:
    """Compare echo with classical and PromptEOL."""
    table = paper_table("table1")
    echo = table.find(system="Echo (Ours)")
    out = []
    for rival, system, kind, field, where in (
        ("classical", "Classical", table1.AVERAGE, "average", "on average"),
        ("classical", "Classical", "STS", "sts", "on STS"),
        ("prompteol", "PromptEOL", table1.AVERAGE, "average", "on average"),
        ("prompteol", "PromptEOL", "STS", "sts", "on STS"),
    ):
        row = _lead(results, rival, kind)
        if row is not None:
            paper = echo[field] - table.find(system=system)[field]
            lead = table1.lead(results["table1"], row["recipe"], kind)
            name = "PromptEOL" if rival == "prompteol" else rival
            out.append([f"Echo beats {name} {where} (Table 1)", f"{paper:+.1f}", lead, _verdict(row)])
    return out


def _every_pair(results: Results) -> list[list[str]]:
    """Compare echo with classical on all STS pairs, if Table 1 has a sample of them."""
    means = values(results.get("interval", []), task=interval.ALL)
    sampled = values(results.get("table1", []), recipe="echo", kind="STS")
    if not means or not sampled or sum((row["max_texts"] or 0) // 2 for row in sampled) in (0, means[0]["pairs"]):
        return []
    lead = means[0]
    shown = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * lead[key] for key in ("difference", "low", "high")))
    return [[f"Echo beats classical on STS, all {lead['pairs']:,} pairs (interval)", "-", shown, _verdict(lead)]]


def _averages(rows: Sequence[Row]) -> dict[str, float]:
    scored = [row for row in rows if row.get("task") is not None]
    return {name: scoretable.by_kind(values(scored, recipe=name))["average"] for name in distinct(scored, "recipe")}


def _matched(results: Results) -> list[list[str]]:
    """Compare echo on half the text, at the cost of classical, with classical."""
    means = _averages(results.get("table1", []))
    if not {"echo-compute-matched", "classical"} <= means.keys():
        return []
    gap = means["echo-compute-matched"] - means["classical"]
    return [
        [
            "Echo on half the text budget beats classical (Table 1; few texts are that long)",
            "+6.6",
            f"{gap:+.1f}",
            HOLDS if gap > 0 else NOT,
        ]
    ]


def _other_models(results: Results) -> list[list[str]]:
    """Compare echo with classical for every further model (Table 2)."""
    rows = results.get("table2", [])
    out = []
    for model in language_models(rows)[1:]:
        means = _averages(values(rows, model=model))
        gap = means["echo"] - means["classical"]
        out.append(
            [
                f"Echo beats classical on average with {model} too (Table 2)",
                "+6.1, +5.6",
                f"{gap:+.1f}",
                HOLDS if gap > 0 else NOT,
            ]
        )
    return out


def _mask(results: Results) -> list[list[str]]:
    """Compare echo with bidirectional attention without training (Table 3)."""
    means = _averages(results.get("table3", []))
    if "classical-bidirectional" not in means:
        return []
    gap = means["classical-bidirectional"] - means["echo"]
    claim = "Without training, removing the causal mask does not replace echo (Table 3)"
    return [[claim, "-14.0, -13.8, -1.5", f"{gap:+.1f}", HOLDS if gap < 0 else NOT]]


def _llm2vec(results: Results) -> list[list[str]]:
    """Compare LLM2Vec, which is trained without labels, with echo (Table 1)."""
    means = _averages(results.get("table1", []))
    ours = [name for name in means if name.startswith("llm2vec, ")]
    if not ours or "echo" not in means:
        return []
    gap = means[ours[-1]] - means["echo"]
    claim = "Trained without labels, LLM2Vec is ahead of echo without training (Table 1)"
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
            "Without training, pooling the mean beats the last state (Table 4)",
            "+17.1",
            f"{gap:+.1f}",
            HOLDS if gap > 0 else NOT,
        ]
    ]


def _prompts(results: Results) -> list[list[str]]:
    """Compare the spread of echo's prompts with that of classical's (Figure 3)."""
    rows = results.get("figure3", [])
    rows = values(rows, model=rows[0]["model"]) if rows else []
    spread = {}
    for method in ("echo mean", "classical mean"):
        method_rows = values(rows, method=method)
        if not method_rows:
            return []
        spread[method] = [
            100 * fmean(row["score"] for row in values(method_rows, prompt=p)) for p in distinct(method_rows, "prompt")
        ]
    echo, classical = spread["echo mean"], spread["classical mean"]
    spreads = f"{fmean(echo):.1f} ± {pstdev(echo):.1f} against {fmean(classical):.1f} ± {pstdev(classical):.1f}"
    ahead = fmean(echo) - pstdev(echo) > fmean(classical) + pstdev(classical)
    claim = "Echo is ahead whatever the prompt's wording (Figure 3)"
    return [[claim, "in a picture", spreads, HOLDS if ahead else UNSURE]]


def _toy(results: Results) -> list[list[str]]:
    """Compare accuracies on late differences (Figure 2)."""
    rows = values(results.get("figure2", []), source="own")
    if not rows:
        return []
    late = [accuracy(values(rows, method=m, structure=STRUCTURES[1])) * 100 for m in ("echo mean", "classical mean")]
    claim = "The mean over one reading misses differences that come late (Figure 2)"
    return [
        [claim, "in a picture", f"echo {late[0]:.0f} %, classical {late[1]:.0f} %", HOLDS if late[0] > late[1] else NOT]
    ]


def _halves(results: Results) -> list[list[str]]:
    """Compare the overestimation of pairs that begin alike (Figure 6)."""
    rows = results.get("figure6", [])
    if not rows:
        return []
    gaps = [mean_error(rows, name, "first") - mean_error(rows, name, "second") for name in ("classical", "echo")]
    claim = "Classical overestimates pairs that begin alike, echo does not (Figure 6)"
    gaps_text = f"classical {gaps[0]:+.1f} % of the ranks, echo {gaps[1]:+.1f} %"
    return [[claim, "in a picture", gaps_text, HOLDS if gaps[0] > max(gaps[1], 0) else NOT]]


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
            "Beyond the paper: a layer before the last is better on STS",
            "-",
            f"layer {layer} of {last}: {score - final:+.1f}",
            HOLDS if layer < last else NOT,
        ]
    ]


def _simple(results: Results) -> list[list[str]]:
    """Compare echo with a bag of words (beyond the paper)."""
    out = []
    for kind, where in ((table1.AVERAGE, "on average"), ("STS", "on STS")):
        row = _lead(results, BAG, kind)
        if row is not None:
            lead = table1.lead(results["table1"], row["recipe"], kind)
            out.append([f"Beyond the paper: echo beats a bag of words {where}", "-", lead, _verdict(row)])
    return out
