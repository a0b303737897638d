"""Measure corpora: what a job costs besides the model, whether its memory grows, and what searches find.

    python benchmarks/corpus.py build --rows 1000000          # a fake encoder: only the job is measured
    python benchmarks/corpus.py search FOLDER...              # retrieval sets: as mteb lays them out

Each command prints a line of JSON per measurement. Times depend on the machine: name it beside them.
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
from collections.abc import Sequence
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
    """An encoder that takes no time: its vectors are rows of a fixed table."""

    def __post_init__(self) -> None:
        table_ND = np.random.default_rng(0).standard_normal((512, self.dimension)).astype(np.float32)
        self.table_ND = table_ND / np.linalg.norm(table_ND, axis=1, keepdims=True)

    def encode(self, prompts):  # noqa: ANN001, ANN201, D102
        return self.table_ND[: len(prompts)]


def peak() -> int:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure_build(rows: int, dimension: int, folder: Path) -> None:
    """Time a build, the next build, and one with a new first row; measure memory for a tenth of the rows and all."""
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


def measure_search(args: argparse.Namespace, folder: Path) -> None:
    """Measure recall, agreement with exact float32 search, and time, by recipe, precision and dimension."""
    import echoembed

    for place, recipe in ((place, recipe) for place in args.sets for recipe in args.recipe or ["echo"]):
        adapter = recipe if recipe in args.adapter else None
        model = echoembed.load(args.model, recipe=None if adapter else recipe, adapter=adapter, dtype=args.dtype)
        about = {"set": place.name, "recipe": recipe}
        documents, queries = lines(place / "corpus.jsonl.gz")[: args.limit], lines(place / "queries.jsonl.gz")
        qrels = read_qrels(place)
        texts = {row["_id"]: f"{row.get('title') or ''}\n{row['text']}".strip() for row in documents}
        known = {id_ for id_, text in texts.items() if text}
        queries = [row for row in queries if qrels.get(row["_id"], set()) & known][: args.queries]
        source, out = folder / f"{place.name}.jsonl", folder / f"{place.name}-{recipe}"
        source.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in texts.items() if text))
        report = build([source], out, ModelEncoder(model), reading=Reading(id="id"))
        ids, parts = zip(*open_corpus(out, model).vectors(), strict=True)
        names = np.array([id_ for part in ids for id_ in part])
        vectors_ND, queries_QD = np.concatenate(parts), model.encode_query([row["text"] for row in queries])
        exact = top(vectors_ND, queries_QD)
        wanted = [qrels[row["_id"]] & known for row in queries]
        show(**about, documents=len(names), queries=len(queries), dtype=args.dtype, seconds=round(report.seconds))
        sizes = [vectors_ND.shape[1] // part for part in (1, 2, 4)]
        for precision, dimension in (
            (precision, size) for precision in ("float32", "float16", "int8") for size in sizes
        ):
            cut_ND, cut_QD = (unit(all_[:, :dimension]) for all_ in (vectors_ND, queries_QD))
            start = time.perf_counter()
            found = top(Stored.of(cut_ND, precision).unit(), cut_QD)
            seconds = time.perf_counter() - start
            show(**about, search="brute force", precision=precision, dimension=dimension,
                 ms_per_query=per_query(seconds, queries), **scores(found, exact, names, wanted))  # fmt: skip
        where = {id_: row for row, id_ in enumerate(names)}
        for name, below, hybrid in (("exact", 10**9, False), ("IVF-PQ", 0, False), ("hybrid", 10**9, True)):
            corpus = open_corpus(out, model, exact_below=below)
            corpus.table  # noqa: B018 (built before the clock starts)
            start = time.perf_counter()
            hits = [
                corpus.search_vector(query_D, 10, words=row["text"] if hybrid else None)
                for query_D, row in zip(queries_QD, queries, strict=True)
            ]
            seconds = time.perf_counter() - start
            found = [[where[hit.id] for hit in row] for row in hits]
            show(**about, search=f"LanceDB, {name}", ms_per_query=per_query(seconds, queries),
                 **scores(found, exact, names, wanted))  # fmt: skip


def per_query(seconds: float, queries: list[dict[str, str]]) -> float:
    """Return the milliseconds that a query takes."""
    return round(1000 * seconds / len(queries), 2)


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
    """Cut vectors, and scale them to length 1 again."""
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def top(vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int = 10) -> np.ndarray:
    """Find the rows nearest to each query, by comparing all."""
    return np.argsort(-(queries_QD @ vectors_ND.T), axis=1, kind="stable")[:, :k]


def scores(
    found: Sequence[Sequence[int]], exact: np.ndarray, names: np.ndarray, wanted: list[set[str]]
) -> dict[str, float]:
    """Shares × 100: relevant texts among the ten found, relevant first hits, and exact hits among them."""
    rows = []
    for row, other, best in zip(found, exact, wanted, strict=True):
        hits = [names[place] in best for place in row]
        rows.append((sum(hits) / min(len(best), 10), hits[0], len({*row} & {*other}) / 10))
    recall, first, same = 100 * np.mean(rows, axis=0)
    return {"recall_at_10": round(float(recall), 1), "first": round(float(first), 1), "same": round(float(same), 1)}


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
    search.add_argument("--recipe", action="append", help="may be repeated; echo")
    search.add_argument("--adapter", action="append", default=[], help="which of these are adapters that come with us")
    search.add_argument("--dtype", default="float32")
    search.add_argument("--limit", type=int, default=5000, help="documents of a set")
    search.add_argument("--queries", type=int, default=200, help="queries of a set")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.verb == "build":
            measure_build(args.rows, args.dimension, Path(folder))
        else:
            measure_search(args, Path(folder))


if __name__ == "__main__":
    main()
