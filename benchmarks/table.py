"""Put the results of all processors into one table, in Markdown: ``python benchmarks/table.py``.

A row is a system, and a column a processor. A cell has the processor time relative to sentence-transformers' classical
embedding of the bare text (1.00), the share of the processor's fastest matrix product in that dtype, the least cosine
to float32, and the STS score (× 100) of the timed vectors, where the time sufficed for all pairs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Print the table of every model that has results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    print(table(parser.parse_args().folder))


def table(folder: Path) -> str:
    """Return the tables of a folder's results, with a heading for each model and set of texts."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("engine-*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        for name, cell in results.get("cells", {}).items():
            if cell["kind"] == "real" and "ceiling_gops" in cell:  # older results have other columns
                facts = results["facts"]
                column = {**cell, "processor": facts["processor"], "load": cell["load"], "command": facts["command"]}
                grouped.setdefault(f"{facts['model']}, {name} ({cell['source']})", []).append(column)
    return "\n".join(_table(title, cells) for title, cells in grouped.items())


def _table(title: str, cells: list[dict[str, Any]]) -> str:
    systems = dict.fromkeys(system for cell in cells for system in cell["systems"])
    lines = [f"**{title}**", "", "| | " + " | ".join(cell["processor"] for cell in cells) + " |"]
    lines.append("| --- |" + " --- |" * len(cells))
    lines += [f"| {system} | " + " | ".join(_entry(cell, system) for cell in cells) + " |" for system in systems]
    ceilings = (", ".join(f"{dtype} {value:,.0f}" for dtype, value in cell["ceiling_gops"].items()) for cell in cells)
    lines.append("| ceiling of one thread, 10⁹ operations a second | " + " | ".join(ceilings) + " |")
    lines.append("| texts; load of the machine | " + " | ".join(f"{c['texts']}; {c['load']:.0f}" for c in cells) + " |")
    return "\n".join([*lines, ""])


def _entry(cell: dict[str, Any], system: str) -> str:
    row = cell["systems"].get(system)
    if row is None:
        return "not installed"
    ratio = row["ratio"]
    parts = [f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"]
    parts.append(f"{row['share_of_ceiling']:.0%} of {row['dtype']}")
    parts += [f"cosine {row['cosine']:.5f}"] if "cosine" in row else []
    most = max(other.get("pairs", 0) for other in cell["systems"].values())
    parts += [f"STS {row['sts']:.1f}"] if row.get("pairs", 0) == most > 0 else []
    return ", ".join(parts)


if __name__ == "__main__":
    main()
