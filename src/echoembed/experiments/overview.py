"""The first page of a report: what the paper claims, what came of it here, and whether it held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from echoembed.experiments import layers, scoretable, table1
from echoembed.experiments.experiment import Summary
from echoembed.experiments.figure2 import accuracy
from echoembed.experiments.figure6 import mean_error
from echoembed.experiments.others import BAG
from echoembed.experiments.paper import paper_table
from echoembed.experiments.results import Row, distinct, values
from echoembed.experiments.toy import STRUCTURES

PICTURES = ("table1", "layers", "figure2")
"""Experiments whose pictures stand on the first page."""
HOLDS, NOT, UNSURE = "holds", "does not hold", "cannot be told"
Kept = Mapping[str, list[Row]]
"""Name of an experiment → its rows."""


def overview(kept: Kept) -> Summary:
    """A row for each claim that was tested."""
    claims = (_leads, _matched, _other_models, _mask, _pooling, _prompts, _toy, _halves, _layers, _simple)
    rows = [row for claim in claims for row in claim(kept)]
    return Summary(["claim", "paper", "here", "so it"], rows)


def _lead(kept: Kept, rival: str, kind: str) -> Row | None:
    leads = values(kept.get("table1", []), recipe=table1.DIFFERENCE.format(rival), kind=kind, task=None)
    return leads[0] if leads else None


def _verdict(row: Row) -> str:
    return HOLDS if row["low"] > 0 else NOT if row["high"] < 0 else UNSURE


def _leads(kept: Kept) -> list[list[str]]:
    """Echo against classical and PromptEOL."""
    table = paper_table("table1")
    echo = table.find(system="Echo (Ours)")
    out = []
    for rival, system, kind, field, where in (
        ("classical", "Classical", table1.AVERAGE, "average", "on average"),
        ("classical", "Classical", "STS", "sts", "on STS"),
        ("prompteol", "PromptEOL", table1.AVERAGE, "average", "on average"),
        ("prompteol", "PromptEOL", "STS", "sts", "on STS"),
    ):
        row = _lead(kept, rival, kind)
        if row is not None:
            paper = echo[field] - table.find(system=system)[field]
            shown = table1.lead(kept["table1"], row["recipe"], kind)
            called = "PromptEOL" if rival == "prompteol" else rival
            out.append([f"Echo beats {called} {where} (Table 1)", f"{paper:+.1f}", shown, _verdict(row)])
    return out


def _averages(rows: Sequence[Row]) -> dict[str, float]:
    scored = [row for row in rows if row.get("task") is not None]
    return {name: scoretable.by_kind(values(scored, recipe=name))["average"] for name in distinct(scored, "recipe")}


def _matched(kept: Kept) -> list[list[str]]:
    """Echo on half the text costs what classical does."""
    means = _averages(kept.get("table1", []))
    if not {"echo-compute-matched", "classical"} <= means.keys():
        return []
    gap = means["echo-compute-matched"] - means["classical"]
    return [
        [
            "Echo on half the text budget beats classical (Table 1; few texts are over it)",
            "+6.6",
            f"{gap:+.1f}",
            HOLDS if gap > 0 else NOT,
        ]
    ]


def _other_models(kept: Kept) -> list[list[str]]:
    """Table 2: every further model."""
    rows = kept.get("table2", [])
    out = []
    for model in distinct(rows, "model")[1:]:
        means = _averages(values(rows, model=model))
        gap = means["echo"] - means["classical"]
        out.append([f"… and with {model} (Table 2)", "+6.1, +5.6", f"{gap:+.1f}", HOLDS if gap > 0 else NOT])
    return out


def _mask(kept: Kept) -> list[list[str]]:
    """Table 3."""
    means = _averages(kept.get("table3", []))
    if "classical-bidirectional" not in means:
        return []
    gap = means["classical-bidirectional"] - means["echo"]
    claim = "Taking the causal mask away without training does not replace echo (Table 3)"
    return [[claim, "-14.0, -13.8, -1.5", f"{gap:+.1f}", HOLDS if gap < 0 else NOT]]


def _pooling(kept: Kept) -> list[list[str]]:
    """Table 4."""
    means = _averages(kept.get("table4", []))
    if not {"echo", "echo-last"} <= means.keys():
        return []
    gap = means["echo"] - means["echo-last"]
    return [
        ["Without training, the mean beats the last state (Table 4)", "+17.1", f"{gap:+.1f}", HOLDS if gap > 0 else NOT]
    ]


def _prompts(kept: Kept) -> list[list[str]]:
    """Figure 3: the least of echo's prompts against the best of classical's."""
    rows = kept.get("figure3", [])
    spread = {}
    for method in ("echo mean", "classical mean"):
        own = values(rows, method=method)
        if not own:
            return []
        spread[method] = [100 * fmean(row["score"] for row in values(own, prompt=p)) for p in distinct(own, "prompt")]
    echo, classical = spread["echo mean"], spread["classical mean"]
    shown = f"{fmean(echo):.1f} ± {pstdev(echo):.1f} against {fmean(classical):.1f} ± {pstdev(classical):.1f}"
    held = fmean(echo) - pstdev(echo) > fmean(classical) + pstdev(classical)
    return [["Echo is ahead whatever the prompt's wording (Figure 3)", "a picture", shown, HOLDS if held else UNSURE]]


def _toy(kept: Kept) -> list[list[str]]:
    """Figure 2."""
    rows = values(kept.get("figure2", []), source="own")
    if not rows:
        return []
    late = [accuracy(values(rows, method=m, structure=STRUCTURES[1])) * 100 for m in ("echo mean", "classical mean")]
    claim = "A mean over one reading misses differences that stand late (Figure 2)"
    return [
        [claim, "a picture", f"echo {late[0]:.0f} %, classical {late[1]:.0f} %", HOLDS if late[0] > late[1] else NOT]
    ]


def _halves(kept: Kept) -> list[list[str]]:
    """Figure 6."""
    rows = kept.get("figure6", [])
    if not rows:
        return []
    gaps = [mean_error(rows, name, "first") - mean_error(rows, name, "second") for name in ("classical", "echo")]
    claim = "Classical overestimates pairs that begin alike, echo does not (Figure 6)"
    shown = f"classical {gaps[0]:+.1f} % of the ranks, echo {gaps[1]:+.1f} %"
    return [[claim, "a picture", shown, HOLDS if gaps[0] > max(gaps[1], 0) else NOT]]


def _layers(kept: Kept) -> list[list[str]]:
    """Beyond the paper: the last layer is not the best."""
    rows = kept.get("layers", [])
    if not rows:
        return []
    own = values(rows, model=rows[0]["model"], method="echo", form=layers.RAW)
    last = max(distinct(own, "layer"))
    layer, score = layers.best(own)
    final = 100 * fmean(row["score"] for row in values(own, layer=last))
    return [
        [
            "Beyond the paper: another layer than the last is better on STS",
            "-",
            f"layer {layer} of {last}: {score - final:+.1f}",
            "is so" if layer < last else "is not so",
        ]
    ]


def _simple(kept: Kept) -> list[list[str]]:
    """Beyond the paper: the bag of words."""
    out = []
    for kind, where in ((table1.AVERAGE, "on average"), ("STS", "on STS")):
        row = _lead(kept, BAG, kind)
        if row is not None:
            shown = table1.lead(kept["table1"], row["recipe"], kind)
            held = {HOLDS: "is so", NOT: "is not so"}.get(_verdict(row), UNSURE)
            out.append([f"Beyond the paper: echo beats a bag of words {where}", "-", shown, held])
    return out
