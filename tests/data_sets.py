"""Small data sets of every kind, written or taken from ../shared, and a network that is not there."""

import gzip
import json
import os
import random
import socket
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
TOPICS = {
    "animals": "The cat|A dog|The old horse|One grey wolf|The small bird",
    "money": "The bank|A loan|The new tax|One large bill|The market",
    "weather": "The rain|A storm|The cold wind|One grey cloud|The snow",
}
ENDS = [
    "is here.",
    "was never seen again.",
    "came back at night.",
    "surprised all of us.",
    "is what they talked about.",
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def texts():
    found = [(f"{start} {end}", topic) for topic, s in TOPICS.items() for start in s.split("|") for end in ENDS]
    random.Random(1).shuffle(found)
    return found[:60]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a small data set of every kind."""
    root = tmp_path_factory.mktemp("data")
    rng = random.Random(2)
    all_ = texts()
    pairs = [(rng.choice(all_), rng.choice(all_)) for _ in range(40)]
    sts = [{"sentence1": a, "sentence2": b, "score": 5.0 * (t == u) - rng.random() * 2} for (a, t), (b, u) in pairs]
    write(root / "sts/made/test.jsonl", sts)
    pair = [{"sentence1": a, "sentence2": b, "label": int(t == u)} for (a, t), (b, u) in pairs]
    write(root / "pair/couples/test.jsonl.gz", pair)
    labelled = [{"text": text, "label": topic} for text, topic in all_]
    write(root / "classification/topics/train.jsonl", labelled[:40])
    write(root / "classification/topics/test.jsonl.gz", labelled[40:])
    ended = [{"text": text, "label": text.split()[-1] if n % 5 else "here."} for n, (text, _) in enumerate(all_)]
    write(root / "clustering/endings/dev.jsonl", ended)
    ranking = []
    for number in range(6):
        topic = list(TOPICS)[number % 3]
        own = [text for text, other in all_ if other == topic][number : number + 4]
        others = [text for text, other in all_ if other != topic][number : number + 5]
        ranking.append({"query": own[0], "positive": own[1:], "negative": others})
    write(root / "reranking/made_rr/test.jsonl", ranking)
    write(
        root / "retrieval/made_ir/corpus.jsonl",
        [{"_id": f"d{n}", "title": t, "text": x} for n, (x, t) in enumerate(all_)],
    )
    write(
        root / "retrieval/made_ir/queries.jsonl", [{"_id": f"q{n}", "text": r["query"]} for n, r in enumerate(ranking)]
    )
    numbers = {text: f"d{n}" for n, (text, _) in enumerate(all_)}
    lines = [f"q{n}\t{numbers[x]}\t{1 + g % 2}" for n, r in enumerate(ranking) for g, x in enumerate(r["positive"])]
    (root / "retrieval/made_ir/qrels").mkdir()
    (root / "retrieval/made_ir/qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return root


def _some(source, target, count, step=1):
    """The first rows, or every ``step``-th."""
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, 0, count * step, step)]
    write(target, rows)
    return rows


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Some rows of real data sets, one of every kind."""
    if not SHARED.is_dir():
        pytest.skip(f"real data sets are not at {SHARED}")
    root = tmp_path_factory.mktemp("real")
    _some(SHARED / "sts/sts13/test.jsonl.gz", root / "sts/sts13/test.jsonl", 40, 30)
    _some(SHARED / "pair/msrp/test.jsonl.gz", root / "pair/msrp/test.jsonl", 30)
    _some(SHARED / "classification/trec/train.jsonl.gz", root / "classification/trec/train.jsonl", 100)
    _some(SHARED / "classification/trec/test.jsonl.gz", root / "classification/trec/test.jsonl", 40)
    _some(SHARED / "clustering/twentynewsgroups_subjects/test.jsonl.gz", root / "clustering/news/test.jsonl", 60, 140)
    _some(SHARED / "reranking/wikiqa/test.jsonl.gz", root / "reranking/wikiqa/test.jsonl", 4)
    corpus = _some(SHARED / "retrieval/xquad_en/corpus.jsonl.gz", root / "retrieval/xquad/corpus.jsonl", 25)
    queries = _some(SHARED / "retrieval/xquad_en/queries.jsonl.gz", root / "retrieval/xquad/queries.jsonl", 40)
    known = {row["_id"] for row in corpus}, {row["_id"] for row in queries}
    lines = (SHARED / "retrieval/xquad_en/qrels/test.tsv").read_text().splitlines()
    kept = [line for line in lines[1:] if line.split("\t")[1] in known[0] and line.split("\t")[0] in known[1]]
    (root / "retrieval/xquad/qrels").mkdir()
    (root / "retrieval/xquad/qrels/test.tsv").write_text("\n".join([lines[0], *kept]) + "\n")
    return root


@pytest.fixture(scope="session")
def model():
    import echoembed

    return echoembed.load("tiny", recipe="echo", budget=24, layer=2)  # small: what is scored here is not the model


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("an evaluation of local data asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
