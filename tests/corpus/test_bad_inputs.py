"""What is wrong with an input is said in one line, and nothing else is lost.

Each row of the tables: what is on the disk, how it is read, what is said, and which texts have a vector all the same.
"""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build, readers
from echoembed.corpus import manifest as notes
from fake_encoder import FakeEncoder

GOOD = '{"id": "a", "text": "first"}\n{"id": "z", "text": "last"}\n'


def jsonl(line):
    """A file with a bad line between two good ones."""
    good = GOOD.encode().splitlines(keepends=True)
    return good[0] + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good[1]


def parquet(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def zst(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


BAD_ROWS = [  # name, files, reading, a part of what is said, texts that remain
    ("no json", {"x.jsonl": jsonl("{broken")}, {}, "line 2 of x.jsonl is no JSON object", ["first", "last"]),
    ("no object", {"x.jsonl": jsonl("[1, 2]")}, {}, "line 2 of x.jsonl is no JSON object", ["first", "last"]),
    ("nested deeply", {"x.jsonl": jsonl("[" * 100_000)}, {}, "nested too deeply", ["first", "last"]),
    ("no such key", {"x.jsonl": jsonl('{"id": "b", "body": "t"}')}, {}, "no column 'text'", ["first", "last"]),
    ("no id", {"x.jsonl": jsonl('{"text": "t"}')}, {"id": "id"}, "no column 'id'", ["first", "last"]),
    ("empty text", {"x.jsonl": jsonl('{"id": "b", "text": ""}')}, {}, "line 2 of x.jsonl is empty", ["first", "last"]),
    ("blank text", {"x.jsonl": jsonl('{"id": "b", "text": " \\t"}')}, {}, "line 2 of x.jsonl", ["first", "last"]),
    ("a number", {"x.jsonl": jsonl('{"id": "b", "text": 7}')}, {}, "of type int", ["first", "last"]),
    ("null", {"x.jsonl": jsonl('{"id": "b", "text": null}')}, {}, "of type NoneType", ["first", "last"]),
    ("a list", {"x.jsonl": jsonl('{"id": "b", "text": ["t"]}')}, {}, "of type list", ["first", "last"]),
    ("half a pair", {"x.jsonl": jsonl('{"id": "b", "text": "\\ud800"}')}, {}, "line 2 of x.jsonl", ["first", "last"]),
    ("NUL", {"x.jsonl": jsonl('{"id": "b", "text": "a\\u0000b"}')}, {}, "U+0000", ["first", "last"]),
    ("latin-1", {"x.jsonl": jsonl(b'{"id": "b", "text": "caf\xe9"}')}, {}, "is not UTF-8: byte", ["first", "last"]),
    (
        "id twice",
        {"x.jsonl": jsonl('{"id": "a", "text": "t"}')},
        {"id": "id"},
        "the id 'a', as an earlier row",
        ["first", "last"],
    ),
    ("id is a float", {"x.jsonl": jsonl('{"id": 1.5, "text": "t"}')}, {"id": "id"}, "1.5", ["first", "last"]),
    (
        "id is blank",
        {"x.jsonl": jsonl('{"id": " ", "text": "t"}')},
        {"id": "id"},
        "line 2 of x.jsonl",
        ["first", "last"],
    ),
    ("id in two files", {"x.jsonl": GOOD, "y.jsonl": GOOD}, {"id": "id"}, "line 1 of y.jsonl has", ["first", "last"]),
    (
        "a cell of another type",
        {"x.jsonl": jsonl('{"id": "b", "text": "t", "year": "then"}')},
        {"keep": (Keep("year", "int"),)},
        "'then' in the column 'year'",
        ["first", "last"],
    ),
    (
        "a number over 64 bits",
        {"x.jsonl": jsonl(f'{{"id": "b", "text": "t", "year": {2**70}}}')},
        {"keep": (Keep("year", "int"),)},
        "in the column 'year'",
        ["first", "last"],
    ),
    ("too few cells", {"x.csv": "id,text\na,first\nb\nz,last\n"}, {}, "1 cells under 2 columns", ["first", "last"]),
    ("an open quote", {"x.csv": 'id,text\na,first\nb,"open\nz,last\n'}, {}, "line 3 of x.csv is no", ["first", "last"]),
    (
        "a quote closed rows later",
        {"x.csv": 'id,text\na,first\nb,"open\nm,middle\nz,"last"\n'},
        {},
        "line 3 of x.csv is no CSV record",
        ["first", "middle", "last"],
    ),
    ("a latin-1 cell", {"x.csv": b"id,text\na,first\nb,caf\xe9\nz,last\n"}, {}, "0xE9", ["first", "last"]),
    ("a short TSV row", {"x.tsv": "id\ttext\na\tfirst\nb\nz\tlast\n"}, {}, "1 cells under 2", ["first", "last"]),
    (
        "a null in Parquet",
        {"x.parquet": parquet(text=["first", None, "last"])},
        {},
        "row 2 of x.parquet",
        ["first", "last"],
    ),
    ("numbers in Parquet", {"x.parquet": parquet(text=[1]), "y.jsonl": GOOD}, {}, "of type int", ["first", "last"]),
    (
        "a renamed column",
        {"x.csv": "id,body\na,b\n", "y.jsonl": GOOD},
        {},
        "x.csv has no column 'text'",
        ["first", "last"],
    ),
    (
        "a column twice",
        {"x.csv": "text,text\na,b\n", "y.jsonl": GOOD},
        {},
        "x.csv has two columns named 'text'",
        ["first", "last"],
    ),
    ("Parquet cut short", {"x.parquet": parquet(text=["a"])[:-9], "y.jsonl": GOOD}, {}, "x.parquet", ["first", "last"]),
    ("gzip cut short", {"x.jsonl.gz": gzip.compress(GOOD.encode())[:-6], "y.jsonl": GOOD}, {}, "x.jsonl.gz", None),
    ("no gzip", {"x.jsonl.gz": GOOD, "y.jsonl": GOOD}, {}, "'x.jsonl.gz' cannot be read", ["first", "last"]),
    ("no zstd", {"x.jsonl.zst": GOOD, "y.jsonl": GOOD}, {}, "'x.jsonl.zst' cannot be read", ["first", "last"]),
    ("zstd cut short", {"x.jsonl.zst": zst(GOOD.encode())[:-4], "y.jsonl": GOOD}, {}, "x.jsonl.zst", None),
    ("gzip, then more", {"x.jsonl.gz": gzip.compress(GOOD.encode()) + b"more"}, {}, "x.jsonl.gz", ["first", "last"]),
    ("zstd, then more", {"x.jsonl.zst": zst(GOOD.encode()) + b"more"}, {}, "x.jsonl.zst", ["first", "last"]),
    (
        "a key twice",
        {"x.jsonl": jsonl('{"text": "t", "text": "u"}')},
        {},
        "key 'text' twice",
        ["first", "last"],
    ),
    ("CR alone", {"x.csv": "id,text\ra,t\r", "y.jsonl": GOOD}, {}, "LF or CRLF", ["first", "last"]),
    ("latin-1 document", {"x.md": b"caf\xe9", "y.jsonl": GOOD}, {}, "x.md is not UTF-8: byte 4", ["first", "last"]),
    (
        "UTF-16 document",
        {"x.txt": "text".encode("utf-16-le"), "y.jsonl": GOOD},
        {},
        "'x.txt' is UTF-16 (utf-16le) without a byte order mark",
        ["first", "last"],
    ),
    ("empty document", {"x.md": "", "y.jsonl": GOOD}, {}, "x.md is empty", ["first", "last"]),
    ("no token", {"x.jsonl": jsonl('{"id": "b", "text": "BLANK"}')}, {}, "line 2 of x.jsonl: ", ["first", "last"]),
    ("not finite", {"x.jsonl": jsonl('{"id": "b", "text": "NAN"}')}, {}, "is not finite", ["first", "last"]),
    ("zero", {"x.jsonl": jsonl('{"id": "b", "text": "ZERO"}')}, {}, "is zero", ["first", "last"]),
]


def write(folder: Path, files) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def texts_of(out):
    names = [entry.name for entry in notes.read(out).shards]
    return [row["text"] for name in names for row in pq.read_table(out / "shards" / name).to_pylist()]


def rejected(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("files", "reading", "said", "texts"), [row[1:] for row in BAD_ROWS], ids=[r[0] for r in BAD_ROWS]
)
def test_a_bad_row_is_set_aside_with_its_reason_and_the_others_stay(tmp_path, files, reading, said, texts):
    write(tmp_path / "in", files)
    paths = [tmp_path / "in" / name for name in files]
    report = build(paths, tmp_path / "out", FakeEncoder(), reading=Reading(**reading))
    [line] = [line for line in rejected(tmp_path / "out") if said in line["reason"]]
    assert "\n" not in line["reason"]
    assert line["reason"].endswith(".")
    count = len(rejected(tmp_path / "out"))
    assert report.manifest.rejected == count
    if texts is None:  # what a file held before it broke off stays
        assert set(texts_of(tmp_path / "out")) == {"first", "last"}
    else:
        assert texts_of(tmp_path / "out") == texts
        assert count == (1 if said != "line 1 of y.jsonl has" else 2)


REFUSED = [  # name, files, inputs, options, a part of what is said
    ("nothing there", {}, ["missing.jsonl"], {}, "There is no 'missing.jsonl'"),
    ("no input", {}, [], {}, "at least one"),
    ("standard input", {}, ["-"], {}, "standard input"),
    ("unknown suffix", {"x.pdf": "text"}, ["x.pdf"], {}, "does not tell a format"),
    ("unknown format", {"x.jsonl": GOOD}, ["x.jsonl"], {"file_format": "xml"}, "Got format 'xml'"),
    ("an empty file", {"x.jsonl": ""}, ["x.jsonl"], {}, "No text of the input can be embedded"),
    ("an empty folder", {}, ["."], {}, "No text of the input can be embedded"),
    ("only bad rows", {"x.jsonl": "bad\n"}, ["x.jsonl"], {}, "is no JSON object"),
    ("only blank to the model", {"x.jsonl": '{"text": "BLANK"}\n'}, ["x.jsonl"], {}, "No text"),
    ("a wrong column", {"x.csv": "body\na\n"}, ["x.csv"], {}, "no column 'text'"),
    (
        "another type",
        {"x.jsonl": GOOD},
        ["x.jsonl"],
        {"reading": lambda: Reading(keep=(Keep.parse("a:date"),))},
        "TYPE one of",
    ),
    (
        "a taken column",
        {"x.jsonl": GOOD},
        ["x.jsonl"],
        {"reading": lambda: Reading(keep=(Keep.parse("vector"),))},
        "'vector'",
    ),
    (
        "kept twice",
        {"x.jsonl": GOOD},
        ["x.jsonl"],
        {"reading": lambda: Reading(keep=(Keep("a"), Keep("a")))},
        "every column once",
    ),
    ("no rows a shard", {"x.jsonl": GOOD}, ["x.jsonl"], {"reading": lambda: Reading(shard_rows=0)}, "--shard-rows = 0"),
    (
        "chunks over the budget",
        {"x.jsonl": GOOD},
        ["x.jsonl"],
        {"reading": lambda: Reading(chunk=True, chunk_tokens=99)},
        "at most 30",
    ),
    (
        "chunks too small",
        {"x.jsonl": GOOD},
        ["x.jsonl"],
        {"reading": lambda: Reading(chunk=True, chunk_tokens=2)},
        "from 8",
    ),
    ("unknown precision", {"x.jsonl": GOOD}, ["x.jsonl"], {"precision": "int4"}, "float32, float16, int8"),
]


@pytest.mark.parametrize(
    ("files", "inputs", "options", "said"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_cannot_be_built_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, files, inputs, options, said):
    write(tmp_path / "in", files)
    monkeypatch.chdir(tmp_path / "in")

    def run():
        made = {name: value() if callable(value) else value for name, value in options.items()}
        build(inputs, tmp_path / "out", FakeEncoder(), **made)

    with pytest.raises(errors.EchoembedError) as caught:
        run()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_build_that_finds_nothing_leaves_the_corpus_as_it_was(tmp_path):
    write(tmp_path / "in", {"x.jsonl": GOOD})
    build([tmp_path / "in"], tmp_path / "out", FakeEncoder())
    (tmp_path / "in" / "x.jsonl").write_text('{"renamed": "t"}\n')
    with pytest.raises(errors.CorpusError, match="Nothing was changed"):
        build([tmp_path / "in"], tmp_path / "out", FakeEncoder())
    assert texts_of(tmp_path / "out") == ["first", "last"]
    assert build([tmp_path / "out" / "shards"], tmp_path / "copy", FakeEncoder()).manifest.rows == 2


def test_folders_with_links_in_a_circle_are_read_once(tmp_path):
    write(tmp_path / "in", {"a.md": "one"})
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "b.md").write_text("two")
    (tmp_path / "in" / "deep" / "er" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "deep" / "er" / "self").symlink_to(".")
    (tmp_path / "in" / "nowhere.md").symlink_to("gone")
    report = build([tmp_path / "in"], tmp_path / "out", FakeEncoder())
    assert sorted(texts_of(tmp_path / "out")) == ["one", "two"]
    assert report.manifest.rejected == 1
    assert "nowhere.md" in rejected(tmp_path / "out")[0]["where"]


def test_a_name_that_is_not_utf8_keeps_its_text(tmp_path):
    (tmp_path / "in").mkdir()
    try:
        Path(os.fsdecode(bytes(tmp_path / "in") + b"/caf\xe9.md")).write_text("one")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "in" / "b.md").write_text("two")
    build([tmp_path / "in"], tmp_path / "out", FakeEncoder())
    [entry] = notes.read(tmp_path / "out").shards
    ids = pq.read_table(tmp_path / "out" / "shards" / entry.name).column("id").to_pylist()
    assert ids == ["in/b.md", "in/caf\\xe9.md"]


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    write(tmp_path / "in", {"x.jsonl": "".join(f'{{"text": "text {number}"}}\n' for number in range(10))})
    encoder = FakeEncoder()
    encode = encoder.encode

    def meanwhile(texts):
        with (tmp_path / "in" / "x.jsonl").open("a") as file:
            file.write("more\n")
        return encode(texts)

    encoder.encode = meanwhile
    build([tmp_path / "in"], tmp_path / "out", encoder, reading=Reading(shard_rows=4))
    reasons = [line["reason"] for line in rejected(tmp_path / "out")]
    assert any("changed while it was read" in reason for reason in reasons)
    assert len(texts_of(tmp_path / "out")) == 10


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("nothing is hidden from root")
    write(tmp_path / "in", {"a.md": "one"})
    (tmp_path / "in" / "closed").mkdir(mode=0)
    build([tmp_path / "in"], tmp_path / "out", FakeEncoder())
    assert "closed" in rejected(tmp_path / "out")[0]["where"]


def test_a_line_over_the_limit_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LINE_LIMIT", 100)
    for name, bad in (
        ("x.jsonl", '{"text": "' + "t" * 300 + '"}'),
        ("y.csv", "t" * 300),
        ("z.csv", '"' + "t" * 300 + '"'),
    ):
        head = "" if name == "x.jsonl" else "text\n"
        good = [f'{{"text": "{word}"}}' if name == "x.jsonl" else word for word in ("first", "last")]
        write(tmp_path / name, {name: f"{head}{good[0]}\n{bad}\n{good[1]}\n"})
        build([tmp_path / name], tmp_path / f"out-{name}", FakeEncoder())
        assert texts_of(tmp_path / f"out-{name}") == ["first", "last"]
        assert "longer than 100 bytes" in rejected(tmp_path / f"out-{name}")[0]["reason"]


def test_the_corpus_is_not_its_own_input(tmp_path, monkeypatch):
    write(tmp_path / "in", {"a.md": "one"})
    monkeypatch.chdir(tmp_path / "in")
    build(["."], "corpus", FakeEncoder())
    again = FakeEncoder()
    build(["."], "corpus", again)
    assert again.texts == []
    assert texts_of(Path("corpus")) == ["one"]


@pytest.mark.parametrize("name", ["manifest.json", "manifest.backup.json"])
def test_a_corpus_of_a_foreign_version_is_left_alone(tmp_path, name):
    write(tmp_path / "in", {"x.jsonl": GOOD})
    build([tmp_path / "in"], tmp_path / "out", FakeEncoder())
    plain = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text("")
    (tmp_path / "out" / name).write_text(json.dumps({**plain, "format": 99}))
    with pytest.raises(errors.CorpusError, match=r"format 99\. This version reads format 1"):
        build([tmp_path / "in"], tmp_path / "out", FakeEncoder())


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    write(tmp_path / "in", {"x.jsonl": GOOD})
    with pytest.raises(errors.CorpusError, match=r"holds 'x\.jsonl', which is no part of a corpus"):
        build([tmp_path / "in"], tmp_path / "in", FakeEncoder())
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.tsv", "x.md"])
def test_packed_files_are_read_as_the_plain_ones_are(tmp_path, name, suffix):
    plain = {"x.jsonl": GOOD, "x.csv": "text\nfirst\nlast\n", "x.tsv": "text\nfirst\nlast\n", "x.md": "first"}[name]
    pack = {".gz": gzip.compress, ".zst": zst}[suffix]
    write(tmp_path / "in", {name: plain, f"packed-{name}{suffix}": pack(plain.encode())})
    build([tmp_path / "in" / name], tmp_path / "plain", FakeEncoder())
    build([tmp_path / "in" / f"packed-{name}{suffix}"], tmp_path / "packed", FakeEncoder())
    assert texts_of(tmp_path / "packed") == texts_of(tmp_path / "plain")
