"""Inputs are read through before the first text is embedded, and no output replaces one of them."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from echoembed.errors import FileError, TextError
from echoembed.texts import TextReader, output_files


def faulty(path, fault: str):
    """Many sound rows and a fault in the last."""
    rows = [{"key": f"k{number}", "text": f"text {number}"} for number in range(3000)]
    rows[-1] = {
        "blank": {"key": "last", "text": " "},
        "control": {"key": "last", "text": "a\x00b"},
        "id": {"key": "k7", "text": "twice"},
        "none": {"key": "last", "text": None},
    }[fault]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
@pytest.mark.parametrize("fault", ["blank", "control", "id", "none"])
def test_a_fault_in_the_last_row_is_told_by_the_check(tmp_path, name, fault):
    reader = TextReader([faulty(tmp_path / name, fault)], id_column="key")
    with pytest.raises((TextError, FileError), match=r"(line|row) 3000 of"):
        reader.check()


@pytest.mark.parametrize("end", [b'{"text": \n', b'{"txt": "one"}\n', b'{"text": "\xff"}\n', b"[]\n"])
def test_a_broken_last_line_is_told_by_the_check(tmp_path, end):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "one"}\n' * 3000 + end)
    with pytest.raises((TextError, FileError), match="line 3001 of"):
        TextReader([tmp_path / "x.jsonl"]).check()


def test_what_was_checked_is_read_as_if_it_had_not_been(tmp_path):
    reader = TextReader([faulty(tmp_path / "x.jsonl", "blank"), "a text"], id_column=None, on_bad_text="skip")
    told: list[int] = []
    reader.check(told.append)
    assert reader.expected() == 3001
    assert (reader.count, reader.skipped, reader.examples) == (0, 0, [])
    assert [item.id for item in reader] == [str(number) for number in range(3001) if number != 2999]
    assert (reader.count, reader.skipped) == (3001, 1)


def test_nothing_but_faults_is_told_by_the_check(tmp_path):
    (tmp_path / "x.txt").write_text("\n\n")
    with pytest.raises(TextError, match="only 2 that cannot be embedded"):
        TextReader([tmp_path / "x.txt"], on_bad_text="skip").check()


def test_standard_input_is_left_to_be_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\n")))
    reader = TextReader(["-", faulty(tmp_path / "x.jsonl", "blank")])
    with pytest.raises(TextError, match="line 3000"):
        reader.check()
    with pytest.raises(TextError, match="line 2 of standard input"):
        list(reader)


@pytest.mark.parametrize("way", ["itself", "round about", "symbolic link", "hard link", "through a linked folder"])
def test_an_output_that_is_an_input_is_refused_by_whatever_name(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "link.jsonl").symlink_to("a/x.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to("a/x.jsonl")
    (tmp_path / "b").symlink_to("a")
    output = {
        "itself": "a/x.jsonl",
        "round about": "a/../a/x.jsonl",
        "symbolic link": "link.jsonl",
        "hard link": "hard.jsonl",
        "through a linked folder": "b/x.jsonl",
    }[way]
    with pytest.raises(FileError, match=r"is the input 'a/x\.jsonl'"):
        TextReader(["a/x.jsonl"]).refuse_as_output(*output_files(output))
    TextReader(["a/x.jsonl"]).refuse_as_output(*output_files("a/y.jsonl"))


@pytest.mark.parametrize("name", ["v.npy.jsonl", "v.npy.json"])
def test_files_beside_an_array_are_outputs_too(tmp_path, name):
    (tmp_path / name).write_text('{"text": "one"}\n')
    with pytest.raises(FileError, match="is the input"):
        TextReader([tmp_path / name], file_format="jsonl").refuse_as_output(*output_files(tmp_path / "v.npy"))


def test_standard_input_from_a_file_is_an_input(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text("one\n")
    with path.open() as handle:
        monkeypatch.setattr(sys, "stdin", handle)
        with pytest.raises(FileError, match="is the input 'standard input'"):
            TextReader(["-"]).refuse_as_output(path)


def test_an_open_file_that_is_appended_to_is_an_output(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one"}\n')
    handle = os.open(path, os.O_APPEND | os.O_WRONLY)
    try:
        with pytest.raises(FileError, match="is the input"):
            TextReader([path]).refuse_as_output(handle)
    finally:
        os.close(handle)
