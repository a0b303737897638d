"""What is built over what was there: counted, set aside and described as what it is, whatever was built before."""

import json
import random

import pyarrow.parquet as pq
import pytest

from echoembed import errors
from echoembed.corpus import Reading, build
from echoembed.corpus import manifest as notes
from fake_encoder import CUT_AT, FakeEncoder

READING = Reading(id="id", shard_rows=4)
LONG = "word " * CUT_AT


@pytest.fixture
def folder(tmp_path):
    """Writes rows and builds them; with ``out``, into another folder."""

    def made(texts, out="out", *, encoder=None, **options):
        lines = [json.dumps({"id": f"r{row}", "text": text}) + "\n" for row, text in enumerate(texts)]
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        return build([tmp_path / "rows.jsonl"], tmp_path / out, encoder or FakeEncoder(), reading=READING, **options)

    made.path = tmp_path
    return made


def rejected(folder, out="out"):
    return [json.loads(line) for line in (folder.path / out / "rejected.jsonl").read_text().splitlines()]


def contents(folder, out):
    return {
        path.name: path.read_bytes() for path in (folder.path / out).rglob("*") if path.suffix[1:4] in ("par", "jso")
    }


# What is counted.


@pytest.mark.parametrize(
    ("before", "texts", "embedded", "reused", "repeated"),
    [
        ([], ["a", "a"], 1, 0, 1),
        ([], ["a", "BLANK", "b"], 2, 0, 0),
        ([], ["a", "b", "c", "d", "a", "e"], 5, 0, 1),
        (["a"], ["a", "BLANK"], 0, 1, 0),
        (["a", "b"], ["a", "b"], 0, 2, 0),
        (["a", "b"], ["b", "c", "b", "c"], 1, 2, 1),
        (["a", "b", "c", "d", "e"], ["new", "a", "b", "c", "d", "e", "e"], 1, 6, 0),
    ],
)
def test_each_text_is_counted_as_what_became_of_it(folder, before, texts, embedded, reused, repeated):
    if before:
        folder(before)
    encoder, steps = FakeEncoder(), []
    report = folder(texts, encoder=encoder, progress=steps.append)
    assert (report.embedded, report.reused, report.repeated) == (embedded, reused, repeated)
    assert report.embedded == len(encoder.texts) == steps[-1].embedded


def test_counts_add_up_whatever_was_there(folder):
    draw = random.Random(0)
    for _ in range(20):
        texts = [draw.choice(["a", "b", "c", "d", "BLANK", "ZERO", f"{draw.random()}"]) for _ in range(15)]
        report = folder(["kept", *texts])
        assert min(report.embedded, report.reused, report.repeated) >= 0
        assert report.manifest.rows + report.manifest.rejected == len(texts) + 1


# What is set aside.


def test_a_text_that_was_cut_is_set_aside_once_such_texts_are_to_be(folder):
    texts = ["short", LONG + "and more", LONG + "or less", "a", "b"]
    folder(texts)
    folder([*texts[1:], texts[0]], refuse_cut=True)
    folder([*texts[1:], texts[0]], "fresh", refuse_cut=True)
    assert [line["where"] for line in rejected(folder)] == ["line 1 of rows.jsonl", "line 2 of rows.jsonl"]
    assert contents(folder, "out") == contents(folder, "fresh")
    assert folder(texts).manifest.rejected == 0  # and come back when they may be cut


def test_new_texts_that_are_all_as_much_over_the_budget_are_set_aside(folder):
    folder(["fine"], refuse_cut=True)
    report = folder(["fine", *(LONG + word for word in ("one", "two", "red"))], refuse_cut=True)
    assert (report.manifest.rows, report.manifest.rejected) == (1, 3)


def test_only_texts_over_the_budget_are_no_fault_of_the_model(folder):
    with pytest.raises(errors.CorpusError, match=r"No text .*: line 1 of rows\.jsonl is 1 tokens over the limit of 30"):
        folder([LONG + "one", LONG + "two"], refuse_cut=True)


def test_a_model_that_fails_alike_at_all_texts_is_named_with_the_first(folder):
    with pytest.raises(errors.ModelError, match=r"^The vector of line 1 of rows\.jsonl is zero"):
        folder(["ZERO one", "ZERO two"])


def test_a_reason_names_the_row_that_it_stands_beside(folder):
    folder(["fine", "BLANK", "ZERO", "BLANK", "ZERO", LONG + "more", LONG + "more"], refuse_cut=True)
    for line in rejected(folder):
        assert line["where"] in line["reason"]
        assert line["reason"].count("rows.jsonl") == 1
    assert [line["where"] for line in rejected(folder)] == [f"line {number} of rows.jsonl" for number in range(2, 8)]


def test_rows_that_have_moved_are_named_where_they_are_now(folder):
    texts = ["fine", "BLANK", "ZERO", "more", LONG + "more", "last"]
    folder(texts, refuse_cut=True)
    (folder.path / "rows.jsonl").write_text("\n\n" + (folder.path / "rows.jsonl").read_text())
    for out in ("out", "fresh"):
        report = build([folder.path / "rows.jsonl"], folder.path / out, FakeEncoder(), reading=READING, refuse_cut=True)
    assert [line["where"] for line in rejected(folder)] == [f"line {number} of rows.jsonl" for number in (4, 5, 7)]
    assert contents(folder, "out")["rejected.jsonl"] == contents(folder, "fresh")["rejected.jsonl"]
    assert report.manifest.rejected == 3


def test_what_to_do_with_a_text_over_the_budget_is_what_a_build_can_do(folder):
    folder(["fine", LONG + "more"], refuse_cut=True)
    [line] = rejected(folder)
    assert "--on-overflow cut" in line["reason"]
    assert "warn" not in line["reason"]


# How vectors were computed.


def numerics(folder):
    return notes.read(folder.path / "out").identity.numerics["dtype"]


def of_shards(folder):
    paths = sorted((folder.path / "out" / "shards").iterdir())
    return [json.loads(pq.read_schema(path).metadata[b"echoembed"])["identity"]["numerics"]["dtype"] for path in paths]


def test_numerics_are_those_of_the_vectors_that_are_stored(folder):
    half, full = FakeEncoder(dtype="bfloat16"), FakeEncoder()
    texts = [f"text {number}" for number in range(8)]
    folder(texts, encoder=half)
    folder(texts, encoder=full)
    assert numerics(folder) == "bfloat16"  # nothing was embedded
    folder(texts[::-1], encoder=full)
    assert (numerics(folder), of_shards(folder)) == ("bfloat16", ["bfloat16", "bfloat16"])  # all were copied
    folder([*texts, "a new one"], encoder=full)
    assert (numerics(folder), of_shards(folder)[-1]) == ("bfloat16, float32", "float32")
    folder(["a new one", *texts[:3]], encoder=half)
    assert (numerics(folder), of_shards(folder)) == ("bfloat16, float32", ["bfloat16, float32"])
    folder(["another"], encoder=full)
    assert numerics(folder) == "float32"
