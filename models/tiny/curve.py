"""Draw loss curves: ``python models/tiny/curve.py RUN … --out curves.png``, of the logs that ``train.py`` writes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", default="Pretraining")
    options = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=(7, 4))
    for place, run in enumerate(options.runs):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        tokens = np.array([line["tokens"] for line in lines]) / 1e6
        losses = np.array([line["loss"] for line in lines])
        window = max(1, min(25, len(losses) // 8))
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(
            tokens[window - 1 :], smooth, color=f"C{place}", linewidth=1, alpha=0.7, label=f"{run.name}: training"
        )
        valid = [(line["tokens"] / 1e6, line["valid"]) for line in lines if "valid" in line]
        axes.plot(
            *zip(*valid, strict=True), color=f"C{place}", marker="o", linestyle="--", label=f"{run.name}: validation"
        )
    axes.set(title=options.title, xlabel="million tokens", ylabel="nats a token")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    drawn.tight_layout()
    drawn.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
