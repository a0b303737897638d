"""Corpora in figures: what a job costs besides the model, whether its memory is flat, and what searches find.

    python benchmarks/corpus.py build --rows 1000000          # a fake encoder: what is measured is the job
    python benchmarks/corpus.py search FOLDER...              # retrieval sets: as mteb lays them out

Each prints a line of JSON per measurement. Times are of the machine at hand; say which.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from echoembed.corpus import ModelEncoder, Reading, build, open_corpus  # noqa: E402
from echoembed.corpus.shard import Stored  # noqa: E402
from fake_encoder import FakeEncoder  # noqa: E402


@dataclass
class Quick(FakeEncoder):
    """Vectors that cost nothing: rows of a fixed table."""

    def __post_init__(self) -> None:
        table_ND = np.random.default_rng(0).standard_normal((512, self.dimension)).astype(np.float32)
        self.table_ND = table_ND / np.linalg.norm(table_ND, axis=1, keepdims=True)

    def encode(self, prompts):  # noqa: ANN001, ANN201, D102
        return self.table_ND[: len(prompts)]


def peak() -> int:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure_build(rows: int, dimension: int, folder: Path) -> None:
    """Build, build again, and build with a row in front; memory at a tenth and at the whole."""
    sentence = "and some more words, so that the line is about as long as a sentence is."
    for count in (rows // 10, rows):
        source, out = folder / f"{count}.jsonl", folder / f"corpus-{count}"
        with source.open("w") as file:
            file.writelines(f'{{"id": "r{n}", "text": "Text number {n} {sentence}"}}\n' for n in range(count))
        for what in ("first", "again", "a row in front"):
            if what == "a row in front":
                source.write_bytes(b'{"id": "new", "text": "A new text."}\n' + source.read_bytes())
            start = time.perf_counter()
            report = build([source], out, Quick(dimension=dimension), reading=Reading(id="id"))
            seconds = time.perf_counter() - start
            show(
                build=what,
                rows=count,
                seconds=round(seconds, 1),
                rows_per_second=round(count / seconds),
                embedded=report.embedded,
                peak_mib=peak(),
                bytes_per_row=round(sum(entry.bytes for entry in report.manifest.shards) / count),
            )


def measure_search(sets: list[Path], model_name: str | None, limit: int, folder: Path) -> None:
    """Recall at 10 of relevant documents, agreement with exact float32, and time, by precision and dimension."""
    import echoembed

    model = echoembed.load(model_name)
    for place in sets:
        documents, queries = lines(place / "corpus.jsonl.gz")[:limit], lines(place / "queries.jsonl.gz")
        qrels = read_qrels(place)
        known = {row["_id"] for row in documents}
        queries = [row for row in queries if qrels.get(row["_id"], set()) & known][:200]
        source = folder / f"{place.name}.jsonl"
        texts = [(row["_id"], f"{row.get('title') or ''}\n{row['text']}".strip()) for row in documents]
        source.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in texts if text))
        build([source], folder / place.name, ModelEncoder(model), reading=Reading(id="id"))
        corpus = open_corpus(folder / place.name, model)
        ids, parts = zip(*corpus.vectors(), strict=True)
        names = np.array([id_ for part in ids for id_ in part])
        vectors_ND, queries_QD = np.concatenate(parts), model.encode_query([row["text"] for row in queries])
        exact = top(vectors_ND, queries_QD)
        wanted = [qrels[row["_id"]] & known for row in queries]
        for precision in ("float32", "float16", "int8"):
            for dimension in (vectors_ND.shape[1], vectors_ND.shape[1] // 2, vectors_ND.shape[1] // 4):
                cut_ND, cut_QD = (unit(all_[:, :dimension]) for all_ in (vectors_ND, queries_QD))
                found = top(Stored.of(cut_ND, precision).unit(), cut_QD)
                show(set=place.name, documents=len(names), precision=precision, dimension=dimension,
                     **scores(found, exact, names, wanted))  # fmt: skip
        for name, below in (("LanceDB exact", 10**9), ("LanceDB IVF-PQ", 0)):
            corpus = open_corpus(folder / place.name, model, exact_below=below)
            corpus.table  # noqa: B018 (built before the clock starts)
            start = time.perf_counter()
            hits = [[hit.id for hit in corpus.search_vector(query_D, 10)] for query_D in queries_QD]
            seconds = time.perf_counter() - start
            where = {id_: row for row, id_ in enumerate(names)}
            found = np.array([[where[id_] for id_ in row] for row in hits])
            show(set=place.name, search=name, ms_per_query=round(1000 * seconds / len(queries), 2),
                 **scores(found, exact, names, wanted))  # fmt: skip


def lines(path: Path) -> list[dict[str, str]]:
    """The objects of a JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_qrels(place: Path) -> dict[str, set[str]]:
    """Relevant documents by query."""
    relevant: dict[str, set[str]] = {}
    with (place / "qrels" / "test.tsv").open() as file:
        for query, document, grade in list(csv.reader(file, delimiter="\t"))[1:]:
            if float(grade) > 0:
                relevant.setdefault(query, set()).add(document)
    return relevant


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Cut vectors, at length 1 again."""
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def top(vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int = 10) -> np.ndarray:
    """The rows nearest to each query, by brute force."""
    return np.argsort(-(queries_QD @ vectors_ND.T), axis=1, kind="stable")[:, :k]


def scores(found: np.ndarray, exact: np.ndarray, names: np.ndarray, wanted: list[set[str]]) -> dict[str, float]:
    """Recall of what is relevant, and the share of the exact ten that is among the found ten, × 100."""
    pairs = zip(found, exact, wanted, strict=True)
    both = [
        (len(set(names[row]) & best) / min(len(best), 10), len({*row} & {*other}) / 10) for row, other, best in pairs
    ]
    recall, same = 100 * np.mean(both, axis=0)
    return {"recall_at_10": round(float(recall), 1), "same_as_exact": round(float(same), 1)}


def show(**facts: object) -> None:
    """A line of JSON."""
    print(json.dumps(facts), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    job = verbs.add_parser("build")
    job.add_argument("--rows", type=int, default=1_000_000)
    job.add_argument("--dimension", type=int, default=256)
    search = verbs.add_parser("search")
    search.add_argument("sets", nargs="+", type=Path)
    search.add_argument("--model")
    search.add_argument("--limit", type=int, default=5000, help="documents of a set")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.verb == "build":
            measure_build(args.rows, args.dimension, Path(folder))
        else:
            measure_search(args.sets, args.model, args.limit, Path(folder))


if __name__ == "__main__":
    main()
