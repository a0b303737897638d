"""Inputs that are odd rather than wrong: pipes, overlapping folders, gaps in tables, names that no index holds."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build
from echoembed.corpus import manifest as notes
from fake_encoder import FakeEncoder

GOOD = '{"id": "a", "text": "first"}\n{"id": "z", "text": "last"}\n'


@contextmanager
def at_most(seconds):
    """Whatever waits for a pipe is interrupted."""

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "y.jsonl").write_text(GOOD)
    return folder


def rows_of(out):
    names = [entry.name for entry in notes.read(out).shards]
    return [row for name in names for row in pq.read_table(out / "shards" / name).to_pylist()]


def reasons_of(out):
    return [json.loads(line)["reason"] for line in (out / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.md", "x.jsonl.gz", "x.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_what_is_no_file_is_set_aside_and_never_waited_for(source, tmp_path, name, kind):
    if kind == "pipe":
        os.mkfifo(source / name)
    else:
        (source / name).symlink_to("/dev/zero")
    with at_most(20):
        build([source], tmp_path / "out", FakeEncoder())
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["first", "last"]
    assert "neither a file nor a folder" in reasons_of(tmp_path / "out")[0]


@pytest.mark.parametrize(("levels", "texts"), [(1100, ["deep", "first", "last"]), (2500, ["first", "last"])])
def test_folders_may_be_nested_as_deeply_as_the_system_has_names_for(source, tmp_path, levels, texts):
    """1,100 are more than Python's calls, and 2,500 make a longer path than the system takes."""
    folder = os.open(source, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=folder)
        above, folder = folder, os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(above)
    os.close(os.open("x.md", os.O_CREAT, dir_fd=folder))
    with open(os.open("x.md", os.O_WRONLY, dir_fd=folder), "w") as file:  # noqa: PTH123
        file.write("deep")
    os.close(folder)
    try:
        report = build([source], tmp_path / "out", FakeEncoder())
        assert [row["text"] for row in rows_of(tmp_path / "out")] == texts
        assert report.manifest.rejected == (len(texts) == 2)
    finally:
        subprocess.run(["rm", "-rf", source / "d"], check=True)  # shutil.rmtree calls itself for each level


@pytest.mark.parametrize(
    "inputs",
    [["in", "in"], ["in", "in/"], ["in", "in/../in"], ["in", "in/y.jsonl"], ["in/y.jsonl", "in"], ["in/deep", "in"]],
    ids=" and ".join,
)
def test_where_inputs_overlap_a_file_is_read_once(source, tmp_path, monkeypatch, inputs):
    (source / "deep").mkdir()
    (source / "deep" / "x.jsonl").write_text('{"text": "deep"}\n')
    monkeypatch.chdir(tmp_path)
    build(inputs, "out", FakeEncoder())
    assert sorted(row["text"] for row in rows_of(tmp_path / "out")) == ["deep", "first", "last"]
    assert reasons_of(tmp_path / "out") == []


def test_two_names_of_one_file_are_two_files(source, tmp_path):
    (source / "x.jsonl").hardlink_to(source / "y.jsonl")
    build([source / "x.jsonl", source / "y.jsonl"], tmp_path / "out", FakeEncoder())
    assert len(rows_of(tmp_path / "out")) == 4


@pytest.mark.parametrize("blank", ["\n\n", "\r\n", "\ufeff\n"])
def test_blank_lines_before_the_header_are_passed_over(source, tmp_path, blank):
    (source / "y.jsonl").unlink()
    (source / "x.csv").write_bytes(f"{blank}id,text\na,first\n".encode())
    build([source], tmp_path / "out", FakeEncoder())
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["first"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', '"inf"'])
@pytest.mark.parametrize("kind", ["float", "int"])
def test_a_kept_number_is_one_that_json_has(source, tmp_path, value, kind):
    (source / "x.jsonl").write_text(f'{{"text": "odd", "n": {value}}}\n')
    build([source], tmp_path / "out", FakeEncoder(), reading=Reading(keep=(Keep("n", kind),)))
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["first", "last"]
    assert f"cannot be read as {kind}" in reasons_of(tmp_path / "out")[0]


def test_whole_numbers_of_a_table_with_gaps_are_whole(source, tmp_path):
    values = {"3.0": 3, '"4.0"': 4, "5": 5, '""': None, "null": None, f"{2**62 + 1}": 2**62 + 1}
    lines = [f'{{"text": "row {row}", "n": {value}}}\n' for row, value in enumerate(values)]
    (source / "y.jsonl").write_text("".join(lines))
    build([source], tmp_path / "out", FakeEncoder(), reading=Reading(keep=(Keep("n", "int"),)))
    assert [row["n"] for row in rows_of(tmp_path / "out")] == list(values.values())


@pytest.mark.parametrize("value", ["3.5", '"3.5"', "true", "1e300", f"{2**64}.0"])
def test_what_is_not_whole_is_no_whole_number(source, tmp_path, value):
    (source / "x.jsonl").write_text(f'{{"text": "odd", "n": {value}}}\n')
    build([source], tmp_path / "out", FakeEncoder(), reading=Reading(keep=(Keep("n", "int"),)))
    assert "cannot be read as int" in reasons_of(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("9007199254740993.0", "int", None),  # a float of JSON is read as another number
        ("9007199254740992.0", "int", None),
        ('"9007199254740993.0"', "int", 9007199254740993),
        ("9007199254740991.0", "int", 9007199254740991),
        ('"1_000"', "int", None),
        ('"1_0.5"', "float", None),
        ('"9007199254740993.5"', "int", None),
        ('" 7 "', "int", 7),
        ('"-3.0"', "int", -3),
    ],
)
def test_a_kept_number_is_the_one_that_was_written(source, tmp_path, value, kind, read):
    (source / "x.jsonl").write_text(f'{{"text": "odd", "n": {value}}}\n')
    build([source], tmp_path / "out", FakeEncoder(), reading=Reading(keep=(Keep("n", kind),)))
    values = [row["n"] for row in rows_of(tmp_path / "out") if row["text"] == "odd"]
    assert values == ([] if read is None else [read])
    assert all(f"cannot be read as {kind}" in reason for reason in reasons_of(tmp_path / "out"))


@pytest.mark.parametrize("path", ["in", "./in", "in/deep/..", "../{here}/in", "{there}/in", "in/deep/../"])
def test_ids_do_not_depend_on_how_a_path_is_written(source, tmp_path, monkeypatch, path):
    (source / "deep").mkdir()
    (source / "deep" / "x.md").write_text("deep")
    monkeypatch.chdir(tmp_path)
    build([path.format(here=tmp_path.name, there=tmp_path)], "out", FakeEncoder())
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["in/deep/x.md", "in/y.jsonl:1", "in/y.jsonl:2"]


def test_ids_of_the_folder_above_are_below_it(source, tmp_path, monkeypatch):
    (source / "deep").mkdir()
    (source / "deep" / "x.md").write_text("deep")
    monkeypatch.chdir(source / "deep")
    build([".."], tmp_path / "out", FakeEncoder())
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["in/deep/x.md", "in/y.jsonl:1", "in/y.jsonl:2"]


@pytest.mark.parametrize("name", ["_score", "_rowid", "_distance", "_relevance_score", "a.b", "`", "Vector", " "])
def test_a_column_that_no_search_could_hold_is_refused_at_once(source, tmp_path, name):
    with pytest.raises(errors.CorpusError, match="--keep"):
        build([source], tmp_path / "out", FakeEncoder(), reading=Reading(keep=(Keep(name),)))
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_name_no_system_takes_is_one_line(source, tmp_path):
    with pytest.raises(errors.FileError, match="cannot be written") as caught:
        build([source], f"{tmp_path}/a\0b", FakeEncoder())
    assert "\n" not in str(caught.value)


def test_ids_are_told_apart_by_their_characters_and_numbers_are_their_digits(source, tmp_path):
    rows = [{"id": "\u00e9", "text": "one"}, {"id": "e\u0301", "text": "two"}, {"id": 7, "text": "three"}]
    again = {"id": "7", "text": "four"}
    (source / "y.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, again]))
    build([source], tmp_path / "out", FakeEncoder(), reading=Reading(id="id"))
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["\u00e9", "e\u0301", "7"]
    assert "the id '7', as an earlier row" in reasons_of(tmp_path / "out")[0]
