"""Reading texts: every format, in order, checked, in flat memory; what is wrong is named with its place."""

import csv
import gzip
import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echoembed.errors import FileError, TextError
from echoembed.texts import TextReader

TEXTS = ["one", "zwei ß", "三", 'a "quoted", cell', "\u2028 separators \u0085 stay", "🙂 last"]
IDS = ["a", "b", "c", "d", "e", "f"]


def write(path: Path, texts=TEXTS, ids=IDS) -> Path:
    """A file of the format its suffix tells, with the columns ``key`` and ``text``."""
    rows = [{"key": id_, "text": text} for id_, text in zip(ids, texts, strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if ".jsonl" in path.name:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif ".csv" in path.name:
        handle = io.StringIO(newline="")
        writer = csv.DictWriter(handle, ["key", "text"])
        writer.writeheader()
        writer.writerows(rows)
        content = handle.getvalue()
    else:
        content = "".join(text + "\n" for text in texts)
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(*inputs, **options):
    return [(item.id, item.text) for item in TextReader([str(given) for given in inputs], **options)]


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz", "x.jsonl", "x.jsonl.gz", "x.csv", "x.csv.gz", "x.parquet"])
def test_every_format_gives_its_texts_in_order(tmp_path, name):
    path = write(tmp_path / name)
    assert read(path) == [(str(n), text) for n, text in enumerate(TEXTS)]
    if ".txt" not in name:
        assert read(path, id_column="key") == list(zip(IDS, TEXTS, strict=True))
        assert [text for _, text in read(path, column="key")] == IDS


def test_cells_with_line_breaks_and_lines_of_every_ending_are_read_whole(tmp_path):
    text = "first\r\nsecond\nthird"
    assert read(write(tmp_path / "x.csv", [text], ["1"])) == [("0", text)]
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree")
    assert [text for _, text in read(tmp_path / "x.txt")] == ["one", "two", "three"]
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbftext\none\n")
    assert read(tmp_path / "bom.csv") == [("0", "one")]
    huge = "word " * 60_000  # over the csv module's own limit
    assert read(write(tmp_path / "huge.csv", [huge], ["1"])) == [("0", huge)]


def test_inputs_are_read_one_after_the_other_under_running_numbers(tmp_path):
    first, second = write(tmp_path / "x.txt", ["one", "two"], "ab"), write(tmp_path / "y.jsonl", ["three"], "c")
    assert read(first, "a text in between", second, texts=["x.txt"]) == [
        ("0", "one"),
        ("1", "two"),
        ("2", "a text in between"),
        ("3", "three"),
        ("4", "x.txt"),
    ]


@pytest.mark.parametrize("format_", [None, "jsonl", "csv"])
def test_standard_input_is_read_as_lines_unless_a_format_is_said(tmp_path, monkeypatch, format_):
    data = write(tmp_path / f"x.{format_ or 'txt'}").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    reader = TextReader(["-"], file_format=format_)
    items = list(reader)
    assert [item.text for item in items] == TEXTS
    assert "of standard input" in items[0].where
    assert reader.expected() is None


@pytest.mark.parametrize("given", ["missing.txt", "notes.md", "folder/notes", "my long notes.parquet"])
def test_what_looks_like_a_file_is_never_embedded_as_a_text(given):
    with pytest.raises(FileError, match=r"There is no file .*--text"):
        TextReader([given])


@pytest.mark.parametrize(
    "given", ["hello", "3.14", "A text with a slash and/or a dot.", "x" * 5000, "a\0b", "Why.txt?"]
)
def test_what_does_not_look_like_a_file_is_a_text(given):
    reader = TextReader([given], on_bad_text="skip")
    if "\0" in given:
        with pytest.raises(TextError, match="only 1 that cannot be embedded"):
            list(reader)
    else:
        assert [item.text for item in reader] == [given]


def test_a_file_of_unknown_format_is_refused_until_the_format_is_said(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("one\n")
    with pytest.raises(FileError, match=r"does not tell a format\. Allowed: \.txt, \.jsonl"):
        TextReader([str(path)])
    assert read(path, file_format="txt") == [("0", "one")]
    with pytest.raises(
        FileError, match=r"Got format 'cvs'\. Allowed: txt, jsonl, csv, tsv, parquet\. .*Did you mean 'csv'\?"
    ):
        TextReader([str(path)], file_format="cvs")
    with pytest.raises(FileError, match="is a folder"):
        TextReader([str(tmp_path)])


BAD_TEXTS = [
    ("x.txt", b"one\n\nthree\n", r"line 2 of \S+x\.txt is empty"),
    ("x.txt", b"one\n \t\nthree\n", r"line 2 of \S+x\.txt is blank"),
    ("x.txt", b"one\nb\xe9ta\n", r"line 2 of \S+x\.txt is not UTF-8: byte 2 is 0xE9"),
    ("x.txt", b"one\nnul\x00\n", r"line 2 of \S+x\.txt .*U\+0000"),
    ("x.jsonl", b'{"text": "one"}\n\n', r"line 2 of \S+x\.jsonl is empty"),
    ("x.jsonl", b'{"text": "one"}\n{"text": null}\n', r"line 2 of \S+x\.jsonl is None, of type NoneType"),
    ("x.jsonl", b'{"text": "one"}\n{"text": ["a"]}\n', r"line 2 of \S+x\.jsonl is .*of type list"),
    ("x.jsonl", b'{"text": "one"}\n{"text": "\\ud83d"}\n', r"line 2 of \S+x\.jsonl .*a lone surrogate"),
    ("x.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n', r"line 2 of \S+x\.jsonl is not UTF-8: byte 11 is 0xFF"),
    ("x.csv", b"key,text\n1,one\n2,\n3,three\n", r"line 3 of \S+x\.csv is empty"),
    ("x.csv", b'text\n"one\nmore"\n\nthree\n', r"line 4 of \S+x\.csv is empty"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_TEXTS)
def test_a_bad_text_is_named_with_its_line_or_left_out_and_counted(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=message):
        read(path)
    reader = TextReader([path], on_bad_text="skip")
    kept = [(item.id, item.text.split("\n")[0]) for item in reader]
    assert kept[0] == ("0", "one")
    assert [id_ for id_, text in kept if text == "three"] in ([], ["2"])  # ids still tell the place
    assert reader.skipped == 1
    assert len(reader.examples) == 1
    assert reader.count == len(kept) + 1


def test_bad_bytes_and_missing_values_in_parquet_are_named_with_their_row(tmp_path):
    bad = pa.array([b"one", b"b\xe9", None, b"four"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "x.parquet")
    with pytest.raises(TextError, match=r"row 2 of \S+x\.parquet is not UTF-8: byte 2 is 0xE9"):
        read(tmp_path / "x.parquet")
    reader = TextReader([tmp_path / "x.parquet"], on_bad_text="skip")
    assert [(item.id, item.text) for item in reader] == [("0", "one"), ("3", "four")]
    assert "row 3" in reader.examples[1]


BROKEN_FILES = [
    ("x.jsonl", b'{"text": "one"}\n{"text": \n', r"line 2 of \S+ is no JSON object: Expecting value: column"),
    ("x.jsonl", b'"one"\n', r"line 1 of \S+ is no JSON object: it holds 'one'"),
    ("x.jsonl", b"[" * 100_000, r"line 1 of \S+ is no JSON object"),
    (
        "x.jsonl",
        b'{"txt": "one", "key": 1}\n',
        r"line 1 .* no column 'text'\. It has: 'txt', 'key'\..*Did you mean 'txt'",
    ),
    ("x.csv", b"key,txt\n1,one\n", r"x\.csv has no column 'text'\. It has: 'key', 'txt'"),
    ("x.csv", b"text,text\n1,one\n", r"two columns named 'text'"),
    ("x.csv", b"key,text\n1,one\n2\n", r"line 3 of \S+ is no CSV record: 1 cells under 2 columns"),
    ("x.csv", b'key,text\n1,"one" more\n', r"line 2 of \S+ is no CSV record"),
    ("x.csv", b'key,text\n1,"never closed\n', r"line 2 of \S+ is no CSV record"),
    ("x.txt.gz", b"not compressed", r"x\.txt\.gz' cannot be read: "),
    ("x.txt.gz", gzip.compress(b"one\n" * 1000, mtime=0)[:-20], r"x\.txt\.gz' cannot be read: "),
    ("x.parquet", b"PAR1 and nothing more", r"x\.parquet' cannot be read: "),
]


@pytest.mark.parametrize("on_bad_text", ["error", "skip"])
@pytest.mark.parametrize(("name", "content", "message"), BROKEN_FILES)
def test_a_broken_file_is_refused_even_where_bad_texts_are_left_out(tmp_path, name, content, message, on_bad_text):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read(path, on_bad_text=on_bad_text)
    assert "\n" not in str(caught.value)


def test_a_missing_column_of_parquet_lists_those_there(tmp_path):
    with pytest.raises(FileError, match=r"no column 'body'\. It has: 'key', 'text'"):
        read(write(tmp_path / "x.parquet"), column="body")
    with pytest.raises(FileError, match=r"has no column 'key'\. It has: none"):
        read(write(tmp_path / "x.txt"), id_column="key")


def test_an_unbroken_line_of_gigabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.texts.lines.LINE_LIMIT", 1000)
    (tmp_path / "x.txt").write_bytes(b"short\n" + b"x" * 1001)
    with pytest.raises(FileError, match=r"line 2 of \S+ is longer than 1,000 bytes"):
        read(tmp_path / "x.txt")


def test_inputs_without_any_text_are_refused(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(TextError, match=r"There is no text in .*x\.txt"):
        read(tmp_path / "x.txt")


def test_an_id_used_twice_names_both_places(tmp_path):
    first = write(tmp_path / "x.jsonl", ["one", "two", "three"], ["a", "b", "c"])
    second = write(tmp_path / "y.jsonl", ["four", "five"], ["d", "b"])
    message = r"line 2 of \S+y\.jsonl has the id 'b', as text 2 of \S+x\.jsonl has"
    with pytest.raises(FileError, match=message):
        read(first, second, id_column="key")
    assert len(read(first, second)) == 5


@pytest.mark.parametrize("id_", ["null", "true", "1.5", '""', '" "', '["a"]', '"\\ud83d"'])
def test_an_id_that_is_no_word_and_no_number_is_refused(tmp_path, id_):
    (tmp_path / "x.jsonl").write_text(f'{{"key": {id_}, "text": "one"}}\n')
    with pytest.raises(FileError, match=r"line 1 of \S+ has the id"):
        read(tmp_path / "x.jsonl", id_column="key")


def test_many_ids_are_told_apart(tmp_path):
    ids = [f"id-{number}" for number in range(20_000)]
    assert [id_ for id_, _ in read(write(tmp_path / "x.jsonl", ["a text"] * len(ids), ids), id_column="key")] == ids


def test_the_number_of_texts_is_foretold_from_the_bytes_read(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a line of this length\n" * 10_000)
    reader = TextReader([path, "and one more text"])
    items = iter(reader)
    for _ in range(1000):
        next(items)
    assert reader.expected() == 10_000
    assert len(list(items)) == 9001
    assert reader.expected() == 10_001
    assert TextReader(["one text", "two texts"]).expected() == 2


MEASURED = """
    import sys
    import numpy as np
    from echoembed.texts import Stamp, TextReader, embed_stream, open_writer

    def peak():
        # Not ru_maxrss, in which a child starts with the peak of the process that it was forked from.
        status = open("/proc/self/status").read()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def run(name, out):
        encode = lambda texts: np.full((len(texts), 8), 0.5, np.float32)
        return embed_stream(TextReader([name]), encode, open_writer(out, Stamp(*"mrefki"), overwrite=True))

    folder, name, out = sys.argv[1:]
    run(f"{folder}/small-{name}", f"{folder}/{out}")
    before = peak()
    count = run(f"{folder}/{name}", f"{folder}/{out}")
    print(count, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(("name", "count", "out"), [("x.txt", 1_000_000, "v.npy"), ("x.jsonl", 300_000, "v.parquet")])
def test_a_million_lines_stream_in_flat_memory(tmp_path, name, count, out):
    line = {"x.txt": "this is line {0} of a file\n", "x.jsonl": '{{"key": "doc-{0}", "text": "line {0} of a file"}}\n'}
    for path, lines in ((tmp_path / name, count), (tmp_path / f"small-{name}", 5000)):
        with path.open("w") as handle:
            handle.writelines(line[name].format(number) for number in range(lines))
    command = [sys.executable, "-c", textwrap.dedent(MEASURED), str(tmp_path), name, out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    embedded, growth = done.stdout.split()
    assert int(embedded) == count
    assert float(growth) < 50  # MB
