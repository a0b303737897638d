"""Small data sets of every kind, made here."""

import json
import random

import pytest

STARTS = {
    "animals": ["The cat", "A dog", "The old horse", "One grey wolf"],
    "money": ["The bank", "A loan", "The new tax", "One large bill"],
    "weather": ["The rain", "A storm", "The cold wind", "One grey cloud"],
}
ENDS = ["is here today.", "was never seen again.", "came back at night.", "surprised all of us.", "left town early."]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = random.Random(1)
    texts = [(f"{start} {end}", topic) for topic, starts in STARTS.items() for start in starts for end in ENDS]
    rng.shuffle(texts)
    for name in ("one", "two"):
        pairs = [(rng.choice(texts), rng.choice(texts)) for _ in range(24)]
        rows = [{"sentence1": a, "sentence2": b, "score": 3.0 * (s == t) + rng.random()} for (a, s), (b, t) in pairs]
        write(root / f"sts/{name}/test.jsonl", rows)
    rows = [{"sentence1": a, "sentence2": b, "label": int(s == t)} for (a, s), (b, t) in pairs]
    write(root / "pair/couples/test.jsonl", rows)
    labelled = [{"text": text, "label": topic} for text, topic in texts]
    write(root / "classification/topics/train.jsonl", labelled[:36])
    write(root / "classification/topics/test.jsonl", labelled[36:])
    write(root / "clustering/topics/test.jsonl", labelled)
    ranking = {"query": texts[0][0], "positive": [texts[1][0]], "negative": [text for text, _ in texts[2:6]]}
    write(root / "reranking/ranks/test.jsonl", [ranking])
    write(root / "retrieval/search/corpus.jsonl", [{"_id": f"d{n}", "text": t} for n, (t, _) in enumerate(texts[:30])])
    write(root / "retrieval/search/queries.jsonl", [{"_id": f"q{n}", "text": texts[n][0][:12]} for n in range(5)])
    lessons = [
        {"query": f"Lesson {n}: {ENDS[n % 5]}", "positive": f"{STARTS['money'][n % 4]}, lesson {n}."} for n in range(20)
    ]
    write(root / "train/lessons/train.jsonl", [*lessons, {"query": texts[0][0].upper(), "positive": "Not judged."}])
    (root / "retrieval/search/qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in range(5))]
    (root / "retrieval/search/qrels/test.tsv").write_text("\n".join(lines) + "\n")
    return root
