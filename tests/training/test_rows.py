"""Rows are read whole and checked before anything else: an error names file and line, and nothing is passed over."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from echoembed.errors import FileError, TextError, TrainingError
from echoembed.training import rows
from echoembed.training.config import DataConfig, OptimiserConfig, TrainConfig

SHARED = Path(__file__).parents[3] / "shared" / "data" / "train"
ROW = {"query": "who sings", "positive": "the choir sings", "negative": "the door squeaks"}


def lines(path, *found):
    """Write a file: a row as JSON, a string as it is."""
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in found)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path, objective="contrastive", **settings):
    return rows.read(DataConfig(path=str(path), **settings), objective)


def numbered(count, **more):
    return [{name: f"{text} {number}" for name, text in ROW.items()} | more for number in range(count)]


# Formats


def test_every_format_gives_the_same_rows(tmp_path):
    given = numbered(5)
    lines(tmp_path / "a.jsonl", *given)
    lines(tmp_path / "b.jsonl.gz", *given)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given), tmp_path / "c.parquet")
    expected = [{"query": row["query"], "positive": row["positive"], "negative_1": row["negative"]} for row in given]
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        assert read(tmp_path / name).to_list() == expected


def test_a_folder_is_its_files_in_order(tmp_path):
    given = numbered(6)
    lines(tmp_path / "2.jsonl", *given[3:])
    lines(tmp_path / "1.jsonl.gz", *given[:3])
    lines(tmp_path / ".hidden.jsonl", "no JSON")
    (tmp_path / "notes.md").write_text("no rows")
    assert [row["query"] for row in read(tmp_path).to_list()] == [row["query"] for row in given]


def test_negatives_are_taken_in_order_from_both_keys(tmp_path):
    path = lines(tmp_path / "a.jsonl", {**ROW, "negative": ["n1", "n2"], "negatives": ["n3", "n4"], "source": "x"})
    assert read(path, negatives=3).to_list() == [
        {
            "query": "who sings",
            "positive": "the choir sings",
            "negative_1": "n1",
            "negative_2": "n2",
            "negative_3": "n3",
        }
    ]
    assert read(path, negatives=0).column_names == ["query", "positive"]


def test_of_several_positives_the_first_is_used(tmp_path):
    path = lines(tmp_path / "a.jsonl", {**ROW, "positive": ["first", "second"]})
    assert read(path)[0]["positive"] == "first"


def test_only_so_many_rows_are_read(tmp_path):
    path = lines(tmp_path / "a.jsonl", *numbered(4), "no JSON")
    assert len(read(path, rows=4)) == 4


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n" + json.dumps(ROW).encode())
    assert len(read(path)) == 2


@pytest.mark.skipif(not SHARED.exists(), reason="the data is not here")
def test_as_many_rows_as_lines_of_real_data():
    path = SHARED / "snli_devtest" / "train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        given = [json.loads(line) for line in file]
    assert read(path.parent)["query"] == [row["query"] for row in given]


# Plain texts


def test_the_texts_of_rows_come_once_each(tmp_path):
    path = lines(tmp_path / "a.jsonl", ROW, {**ROW, "negative": ["who sings", "new"]}, {"text": "plain"})
    texts = [ROW["query"], ROW["positive"], ROW["negative"], "new", "plain"]
    for objective in ("simcse", "mntp"):
        found = read(path, objective)
        assert found.column_names == ["text"]
        assert found["text"] == texts


def test_lines_of_text_are_rows(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  two \nthree", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"four\n"))
    assert read(tmp_path, "simcse")["text"] == ["one", "  two ", "three", "four"]


def test_lines_of_text_are_no_rows_of_queries(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(TrainingError, match="Found no rows"):
        read(tmp_path / "a.txt")


# What is refused


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ("{", FileError, "line 2 of .* is no JSON object"),
        ('["list"]', FileError, "line 2 of .* is no JSON object"),
        (
            {"positive": "a", "negative": "b"},
            TrainingError,
            "line 2 of .* has no 'query'; it has 'positive', 'negative'",
        ),
        ({**ROW, "positive": None}, TrainingError, "line 2 of .* has no 'positive'"),
        ({**ROW, "query": " \t"}, TrainingError, "line 2 of .*: its query"),
        ({**ROW, "positive": ""}, TrainingError, "line 2 of .*: its positive"),
        ({**ROW, "positive": []}, TrainingError, "line 2 of .* has no 'positive'; it has 'query', 'negative'. Add it"),
        ({**ROW, "query": 7}, TrainingError, "line 2 of .*: its query"),
        ({**ROW, "negative": "bad \x00 byte"}, TrainingError, r"line 2 of .*: its negative 1 .*U\+0000"),
        ({"query": "a", "positive": "b"}, TrainingError, "line 2 of .*: it has 0 hard negatives, and 1 are configured"),
        ({**ROW, "negative": "the choir sings"}, TrainingError, "line 2 of .*: its negative 1 is its positive"),
        ({**ROW, "negative": " who sings "}, TrainingError, "line 2 of .*: its negative 1 is its query"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_row_that_cannot_be_is_refused_with_file_and_line(tmp_path, row, error, message, suffix):
    path = lines(tmp_path / f"a{suffix}", ROW, row, ROW)
    with pytest.raises(error, match=message) as caught:
        read(path)
    assert path.name in str(caught.value)


def test_too_few_negatives_say_both_numbers(tmp_path):
    path = lines(tmp_path / "a.jsonl", {**ROW, "negatives": ["n2"]})
    assert len(read(path, negatives=2)) == 1
    with pytest.raises(TrainingError, match="it has 2 hard negatives, and 3 are configured"):
        read(path, negatives=3)


def test_a_row_of_parquet_is_named_too(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, {**ROW, "query": ""}]), tmp_path / "a.parquet")
    with pytest.raises(TrainingError, match=r"row 2 of .*a.parquet: its query"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x"], "querry": ["y"]}, r"has no 'query'; it has 'a', 'querry'.*Did you mean 'querry'"),
        ({"query": ["x"], "negative": ["y"]}, r"has no 'positive'; it has 'query', 'negative'"),
    ],
)
def test_a_parquet_file_without_a_column_says_which_it_has(tmp_path, columns, message):
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(TrainingError, match=message):
        read(tmp_path / "a.parquet", bad_rows="skip")


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["query", "positive", "query"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(FileError, match="two columns named 'query'"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("row", [{"texts": []}, {"text": None}, {"texts": [], "negatives": []}, {}])
def test_a_row_without_any_text_is_bad(tmp_path, row):
    path = lines(tmp_path / "a.jsonl", {"text": "a"}, row)
    with pytest.raises(TrainingError, match=r"line 2 of .* has no 'text'; it has nothing"):
        rows.read(DataConfig(path=str(path)), "simcse")
    assert len(rows.read(DataConfig(path=str(path), bad_rows="skip"), "simcse")) == 1


def test_bytes_that_are_no_text_are_refused_with_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROW).encode() + b'\n{"query": "\xff"}\n')
    with pytest.raises(TextError, match=r"line 2 of .*a.jsonl is not UTF-8"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(TrainingError, match=r"Found no rows to train on at .*a.jsonl"):
        read(tmp_path / "a.jsonl")


def test_missing_broken_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="Found no rows"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(TrainingError, match="Found no rows"):
        read(tmp_path)
    (tmp_path / "a.csv").write_text("query,positive\n")
    with pytest.raises(TrainingError, match=r"Found no rows.*\.jsonl, \.jsonl\.gz, \.parquet"):
        read(tmp_path / "a.csv")
    cut = gzip.compress(json.dumps(ROW).encode() * 9)[:-9]
    (tmp_path / "a.jsonl.gz").write_bytes(cut)
    with pytest.raises(FileError, match=r"a.jsonl.gz"):
        read(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(FileError, match=r"a.parquet"):
        read(tmp_path / "a.parquet")


def test_bad_rows_are_left_out_and_counted_where_that_is_asked(tmp_path):
    bad = [{**ROW, "query": ""}, {"query": "a"}, {**ROW, "negative": ROW["positive"]}, {**ROW, "negative": "\x01"}]
    path = lines(tmp_path / "a.jsonl", ROW, *bad, ROW)
    seen = []
    data = DataConfig(path=str(path), bad_rows="skip")
    found = rows.read(data, "contrastive", progress=seen.append)
    assert len(found) == 2
    assert (seen[-1].rows, seen[-1].skipped, len(seen[-1].examples)) == (2, 4, 3)
    assert "line 2 of" in seen[-1].examples[0]


def test_a_line_that_is_no_json_is_refused_even_where_bad_rows_are_left_out(tmp_path):
    with pytest.raises(FileError, match="line 2"):
        read(lines(tmp_path / "a.jsonl", ROW, "{"), bad_rows="skip")


# A run's data


def run(tmp_path, batch_size=4, **settings):
    optimiser = OptimiserConfig(batch_size=batch_size, steps=2, warmup_steps=0)
    data = [DataConfig(path=str(tmp_path / name), **settings) for name in ("a.jsonl", "b.jsonl")]
    return TrainConfig(output=str(tmp_path / "out"), data=data, optimiser=optimiser)


def test_a_data_set_smaller_than_a_batch_is_refused(tmp_path):
    lines(tmp_path / "a.jsonl", *numbered(4))
    lines(tmp_path / "b.jsonl", *numbered(3))
    with pytest.raises(TrainingError, match=r"'b' has 3 rows.* takes 4"):
        rows.read_all(run(tmp_path))
    assert not (tmp_path / "out").exists()
    assert list(rows.read_all(run(tmp_path, batch_size=3))) == ["a", "b"]


def test_one_where_every_row_is_left_out_is_smaller_still(tmp_path):
    lines(tmp_path / "a.jsonl", *numbered(4, positive=" "))
    lines(tmp_path / "b.jsonl", *numbered(4))
    with pytest.raises(TrainingError, match="'a' has 0 rows"):
        rows.read_all(run(tmp_path, bad_rows="skip"))


def test_a_data_set_with_several_instructions_is_there_under_each(tmp_path):
    lines(tmp_path / "a.jsonl", *numbered(4))
    data = [DataConfig(path=str(tmp_path / "a.jsonl"), instruction=["one", "two"])]
    optimiser = OptimiserConfig(batch_size=4)
    found = rows.read_all(TrainConfig(output="out", recipe="echo-finetuned-last", data=data, optimiser=optimiser))
    assert list(found) == ["a#0", "a#1"]
    assert found["a#0"].to_list() == found["a#1"].to_list()
    assert found["a#0"] is not found["a#1"]


def test_the_digest_is_the_files_own(tmp_path):
    content = lines(tmp_path / "a.jsonl", *numbered(4)).read_bytes()
    lines(tmp_path / "b.jsonl", ROW)
    found = rows.digests(run(tmp_path))
    assert found["a"] == {"a.jsonl": hashlib.sha256(content).hexdigest()}
    assert list(found) == ["a", "b"]
