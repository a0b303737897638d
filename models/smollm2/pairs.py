"""Copy the labelled pairs for ``pairs.toml``, without every row that has a text of a scored data set.

python models/smollm2/pairs.py --data DATA --out runs/smollm2-pairs-data
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from rich.console import Console

from echoembed.experiments.selection import judged_texts, plain

SETS = (
    "snli_devtest",
    "flickr8k_captions",
    "twitter_url_train",
    "asset_valid",
    "quora_dev_duplicates",
    "squad_question_sentence",
    "climate_fever",
    "wikiqa_train",
)
console = Console()


def main() -> None:
    """Write a file for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and what is scored")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    judged = judged_texts(options.data)
    for name in SETS:
        with gzip.open(options.data / "train" / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        kept = [row for row in rows if not any(plain(row[key]) in judged for key in ("query", "positive", "negative"))]
        target = options.out / f"{name}.jsonl.gz"
        with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
            file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in kept)
        console.print(
            f"{name}: {len(kept):,} rows; {len(rows) - len(kept):,} left out, as they have a text that is scored"
        )


if __name__ == "__main__":
    main()
