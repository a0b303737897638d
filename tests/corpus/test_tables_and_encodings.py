"""Tables and texts as other programs write them: what can be read is read as it was meant, the rest is named."""

import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build
from echoembed.corpus import manifest as notes
from fake_encoder import FakeEncoder

GOOD = '{"id": "a", "text": "first"}\n{"id": "z", "text": "zuletzt, ß"}\n'
TABLE = 'id,text\na,first\nz,"zuletzt, ß"\n'


def built(folder, name, content, **reading):
    """The rows and the reasons of a corpus of one file beside a good one."""
    (folder / "in").mkdir()
    (folder / "in" / "good.jsonl").write_text('{"text": "good"}\n')
    (folder / "in" / name).write_bytes(content)
    build(
        [folder / "in" / name, folder / "in" / "good.jsonl"], folder / "out", FakeEncoder(), reading=Reading(**reading)
    )
    names = [entry.name for entry in notes.read(folder / "out").shards]
    rows = [row for name in names for row in pq.read_table(folder / "out" / "shards" / name).to_pylist()]
    reasons = [json.loads(line)["reason"] for line in (folder / "out" / "rejected.jsonl").read_text().splitlines()]
    assert rows.pop()["text"] == "good"
    return rows, reasons


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def zst(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("codec", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(("name", "content"), [("x.jsonl", GOOD), ("x.csv", TABLE), ("x.csv.gz", TABLE)])
def test_a_file_with_a_byte_order_mark_is_read_whatever_its_encoding(tmp_path, codec, name, content):
    data = content.encode(codec)
    rows, reasons = built(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data)
    assert [row["text"] for row in rows] == ["first", "zuletzt, ß"]
    assert reasons == []


@pytest.mark.parametrize("codec", ["utf-16", "utf-32"])
def test_a_document_with_a_byte_order_mark_is_read(tmp_path, codec):
    rows, _ = built(tmp_path, "x.md", "# Über\nText".encode(codec))
    assert [row["text"] for row in rows] == ["# Über\nText"]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "content"), [("x.jsonl", GOOD), ("x.csv", TABLE), ("x.md", "# A page\n")])
def test_a_file_in_utf16_without_a_mark_is_one_line_with_the_command(tmp_path, codec, name, content):
    rows, [reason] = built(tmp_path, name, content.encode(codec))
    assert rows == []
    assert f"iconv -f {codec.replace('16-', '16')} -t utf-8" in reason


@pytest.mark.parametrize(("pack", "how"), [(gzip.compress, "gzip"), (zst, "zstd")])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.md"])
def test_a_packed_file_that_is_named_as_a_plain_one_is_said_to_be_packed(tmp_path, pack, how, name):
    rows, [reason] = built(tmp_path, name, pack((TABLE if name == "x.csv" else GOOD).encode()))
    assert rows == []
    assert f"'{name}' is compressed by {how}" in reason
    assert "iconv" not in reason


def test_a_line_with_old_line_ends_is_not_one_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\rtwo\r\nthree\r\nfour\r")
    build([tmp_path / "x.txt"], tmp_path / "out", FakeEncoder(), file_format="lines")
    [entry] = notes.read(tmp_path / "out").shards
    texts = pq.read_table(tmp_path / "out" / "shards" / entry.name).column("text").to_pylist()
    assert texts == ["three", "four"]
    [reason] = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert "line 1 of x.txt has a carriage return" in reason


def test_a_column_that_is_missing_for_its_encoding_is_said_so(tmp_path):
    rows, [reason] = built(tmp_path, "x.csv", "text,année\na,1\n".encode("latin-1"), keep=(Keep("année"),))
    assert rows == []
    assert "line 1 of x.csv is not UTF-8: byte 4 is 0xE9" in reason


@pytest.mark.parametrize(("separator", "shown"), [(";", "';'"), ("\t", "'tab'"), ("|", "'|'")])
def test_another_delimiter_is_named_and_can_be_given(tmp_path, separator, shown):
    content = f"id{separator}text\na{separator}first, and more\n".encode()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    _, [reason] = built(tmp_path / "one", "x.csv", content)
    assert f"add --delimiter {shown}" in reason
    rows, reasons = built(tmp_path / "two", "x.csv", content, delimiter=shown.strip("'"))
    assert ([row["text"] for row in rows], reasons) == (["first, and more"], [])


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_that_separates_nothing_is_refused(delimiter):
    with pytest.raises(errors.FileError, match="Got delimiter"):
        Reading(delimiter=delimiter)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([datetime.date(2026, 5, 31)]), ["2026-05-31"]),
        (pa.array([datetime.datetime(2026, 5, 31, 12)], pa.timestamp("ms")), ["2026-05-31 12:00:00.000"]),
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"]),
        (pa.array([1], pa.time64("us")), ["00:00:00.000001"]),
        (pa.array(["1.50"]).cast(pa.decimal128(5, 2)), ["1.50"]),
        (pa.array([True]), ["true"]),
        (pa.array([[1, 2]]), ["[1, 2]"]),
        (pa.array([{"a": datetime.date(2026, 5, 31)}]), ['{"a": "2026-05-31"}']),
        (pa.array([None], pa.date32()), [None]),
    ],
    ids=str,
)
def test_a_value_that_is_no_text_is_kept_as_a_filter_would_write_it(tmp_path, values, texts):
    rows, reasons = built(tmp_path, "x.parquet", parquet(text=["t"], value=values), keep=(Keep("value"),))
    assert ([row["value"] for row in rows], reasons) == (texts, [])


@pytest.mark.parametrize("bad", [pa.array([2**31 - 1, 0], pa.date32()), pa.array([b"\xff", None])], ids=str)
def test_a_value_that_cannot_be_kept_takes_its_row_and_no_other(tmp_path, bad):
    rows, [reason] = built(tmp_path, "x.parquet", parquet(text=["t", "u"], value=bad), keep=(Keep("value"),))
    assert [row["text"] for row in rows] == ["u"]
    assert reason.startswith("row 1 of x.parquet has ")
    assert "--keep" not in reason  # the column is kept as text already


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_a_text_is_read_from_every_kind_of_string_column(tmp_path, type_):
    rows, reasons = built(tmp_path, "x.parquet", parquet(text=pa.array(["one", "two"]).cast(type_)))
    assert ([row["text"] for row in rows], reasons) == (["one", "two"], [])
