"""Pictures of the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ECHO, _CLASSICAL, _PEER = "#0a6e9c", "#c6541f", "#8a8f98"
_STYLES = {"bfloat16": "--", "int8": ":", "deterministic": "-."}
"""Part of a system's name → how its line is drawn."""


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw ratios by cell as bars, and growth with length and number as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = {name: cell for name, cell in results["cells"].items() if cell["kind"] == "real"}
    growth = {kind: [c for c in results["cells"].values() if c["kind"] == kind] for kind in ("length", "number")}
    panels = len(cells) + sum(len(members) > 1 for members in growth.values())
    figure, axes = plt.subplots(1, panels, figsize=(2.5 + 4.2 * panels, 4.2), squeeze=False, layout="constrained")
    remaining = list(axes[0])
    for name, cell in cells.items():
        _bars(remaining.pop(0), name, cell)
    for kind, label in (("length", "tokens of a text"), ("number", "texts of a call")):
        if len(growth[kind]) > 1:
            _lines(remaining.pop(0), growth[kind], kind, label)
    figure.suptitle(f"{results['facts']['model']}, {results['facts']['processor']}, {results['facts']['threads']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _colour(system: str) -> str:
    """Blue for echo by our engine, grey for echo by others, orange for classical embeddings."""
    if system.startswith("classical"):
        return _CLASSICAL
    return _ECHO if "echoembed" in system else _PEER


def _bars(axes: Any, name: str, cell: dict[str, Any]) -> None:
    rows = cell["systems"]
    low = [row["ratio"]["median"] - row["ratio"]["least"] for row in rows.values()]
    high = [row["ratio"]["greatest"] - row["ratio"]["median"] for row in rows.values()]
    colors = [_colour(system) for system in rows]
    medians = [row["ratio"]["median"] for row in rows.values()]
    axes.barh(list(rows), medians, xerr=[low, high], color=colors, error_kw={"linewidth": 1})
    axes.axvline(1, color="black", linewidth=0.6, linestyle=":")
    axes.set(title=f"{name}: {cell['texts']} texts", xlabel="time, sentence-transformers' classical = 1")
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()


def _lines(axes: Any, cells: list[dict[str, Any]], kind: str, label: str) -> None:
    for system in dict.fromkeys(system for cell in cells for system in cell["systems"]):
        points = [(cell[kind], cell["systems"][system]) for cell in cells if system in cell["systems"]]
        if len(points) > 1:
            axes.plot(
                [x for x, _ in points],
                [row["us_per_token"] for _, row in points],
                marker="o",
                markersize=3,
                label=system,
                color=_colour(system),
                linestyle=next((style for part, style in _STYLES.items() if part in system), "-"),
            )
    axes.set(xscale="log", xlabel=label, ylabel="µs a prompt token", title=f"growth with {label}")
    axes.set_ylim(bottom=0)
    places = [cell[kind] for cell in cells]
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
