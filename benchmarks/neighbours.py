"""Test whether a text's vector depends on the other texts of the call, with the bundled model and random neighbours.

    python benchmarks/neighbours.py --neighbourhoods 500

Each neighbourhood is a random choice of texts in random order, embedded in batches of a random size. Its vectors are
compared with those of each text alone: bit by bit with ``deterministic=True``, to 1e-6 without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import echoembed

WORDS = ("river", "boats", "town", "old", "rain", "reading", "twice", "whole", "early", "nobody", "waits", "and", "the")


def main() -> None:
    """Try the neighbourhoods, print the results, and fail if a vector depends on its neighbours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbourhoods", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    count = arguments.neighbourhoods
    torch.set_num_threads(1)
    results = []
    for deterministic, limit in ((True, 0.0), (False, 1e-6)):
        model = echoembed.load("tiny", device="cpu", deterministic=deterministic)
        chance = random.Random(0)
        pool = [" ".join(chance.choices(WORDS, k=chance.choice([1, 2, 5, 9, 17, 40, 90]))) for _ in range(60)]
        alone = {text: model.encode(text) for text in pool}
        worst, differing = 0.0, 0
        for _ in range(count):
            batch = chance.choices(pool, k=chance.randint(1, 16))
            vectors = model.encode(batch, batch_size=chance.choice([1, 3, 8, 32]))
            wanted = np.stack([alone[text] for text in batch])
            worst = max(worst, float(np.abs(vectors - wanted).max()))
            differing += not np.array_equal(vectors, wanted)
        engine = echoembed.describe(model)["engine"]
        print(f"{engine}: {differing} of {count} differ, at most by {worst:.1e}", flush=True)
        results.append(
            {"engine": engine, "neighbourhoods": count, "differing": differing, "worst": worst, "limit": limit}
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "neighbours.json").write_text(json.dumps(results, indent=1) + "\n")
    if any(row["worst"] > row["limit"] for row in results):
        raise SystemExit("over the limit")


if __name__ == "__main__":
    main()
