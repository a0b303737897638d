"""Tables of every separator and files of every encoding: read as what they are, or refused by that name."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys

import pytest

from echoembed.errors import FileError, TextError
from echoembed.texts import TextReader

TEXTS = ["one; two", "zwei ß, drei", "三\t四", "🙂 last"]
MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def table(delimiter: str, header=("id", "text")) -> str:
    handle = io.StringIO(newline="")
    writer = csv.writer(handle, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows((f"k{number}", text) for number, text in enumerate(TEXTS))
    return handle.getvalue()


def texts_of(path, **options) -> list[str]:
    return [item.text for item in TextReader([path], **options)]


@pytest.mark.parametrize("said", ["tab", r"\t", "\t", None])
def test_a_tsv_is_known_by_its_suffix(tmp_path, said):
    (tmp_path / "x.tsv").write_text(table("\t"), newline="")
    assert texts_of(tmp_path / "x.tsv", delimiter=said) == TEXTS


@pytest.mark.parametrize("delimiter", [";", "|", "\t", ":"])
def test_a_delimiter_that_is_said_is_used(tmp_path, delimiter):
    (tmp_path / "x.csv").write_text(table(delimiter), newline="")
    assert texts_of(tmp_path / "x.csv", delimiter=delimiter) == TEXTS
    ids = [item.id for item in TextReader([tmp_path / "x.csv"], delimiter=delimiter, id_column="id")]
    assert ids == ["k0", "k1", "k2", "k3"]


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ";"), ("x.csv", "\t"), ("x.csv", "|"), ("x.tsv", ",")])
@pytest.mark.parametrize("header", [("id", "text"), ("text", "id"), ("id", "text, in full")])
def test_a_table_with_another_delimiter_is_named_and_never_read_as_one_column(tmp_path, name, delimiter, header):
    (tmp_path / name).write_text(table(delimiter, header), newline="")
    whole = delimiter.join(header)
    for column in ("text", whole):  # the second is what a hint at a column's name would lead to
        with pytest.raises(FileError) as caught:
            texts_of(tmp_path / name, column=column)
        if column == "text" or "," not in whole:
            shown = "'tab'" if delimiter == "\t" else repr(delimiter)
            assert f"seems to be separated by {delimiter!r}" in str(caught.value)
            assert f"add --delimiter {shown}" in str(caught.value)


def test_a_column_whose_name_holds_another_delimiter_is_read_where_the_delimiter_is_said(tmp_path):
    (tmp_path / "x.csv").write_text("text; in full\none\n")
    assert texts_of(tmp_path / "x.csv", column="text; in full", delimiter=",") == ["one"]


def test_a_missing_column_of_a_sound_table_is_still_a_missing_column(tmp_path):
    (tmp_path / "x.csv").write_text("id,body;x\n1,one\n")
    with pytest.raises(FileError, match="has no column 'text'"):
        texts_of(tmp_path / "x.csv")


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "comma"])
def test_a_delimiter_that_cannot_be_is_refused(tmp_path, delimiter):
    (tmp_path / "x.csv").write_text("text\none\n")
    with pytest.raises(FileError, match="Got delimiter"):
        TextReader([tmp_path / "x.csv"], delimiter=delimiter)


def test_a_delimiter_for_lines_of_text_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("id;text\n1;one\n")
    with pytest.raises(FileError, match="is read as txt, which has none"):
        TextReader([tmp_path / "x.txt"], delimiter=";")


@pytest.mark.parametrize(
    ("inputs", "options", "kind"),
    [
        (["x.txt"], {}, "txt"),
        (["x.jsonl"], {"file_format": "txt"}, "txt"),
        (["some words"], {}, "a text"),
        ([], {"texts": ["some words"]}, "a text"),
    ],
)
def test_a_column_for_inputs_without_columns_is_refused(tmp_path, monkeypatch, inputs, options, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("one\n")
    (tmp_path / "x.jsonl").write_text('{"body": "one"}\n')
    with pytest.raises(FileError, match=f"Got column 'body', and .* is read as {kind}, which has none"):
        TextReader(inputs, column="body", **options)
    assert [item.text for item in TextReader(["x.txt", "x.jsonl"], column="body")] == ["one", "one"]


@pytest.mark.parametrize("content", [b"one\rtwo\rthree", b"one\rtwo\r", b"one\n\ntwo\rthree\n", b"one\r\r\n"])
@pytest.mark.parametrize("on_bad_text", ["error", "skip"])
def test_old_line_ends_do_not_make_one_text_of_a_file(tmp_path, content, on_bad_text):
    (tmp_path / "x.txt").write_bytes(content.replace(b"\n\n", b"\n"))
    with pytest.raises(FileError, match=r"line [12] of .* has a carriage return \(CR\) without a line feed"):
        texts_of(tmp_path / "x.txt", on_bad_text=on_bad_text)


def test_a_carriage_return_in_a_cell_is_part_of_its_text(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "one\\rtwo"}\n')
    assert texts_of(tmp_path / "x.jsonl") == ["one\rtwo"]
    (tmp_path / "x.txt").write_bytes(b"one\r\ntwo\r")
    assert texts_of(tmp_path / "x.txt") == ["one", "two"]  # the end of the file is the end of a line


@pytest.mark.parametrize("format_", [None, "csv", "jsonl"])
def test_packed_standard_input_is_said_to_be_packed(monkeypatch, format_):
    data = gzip.compress(b"one\n" * 50)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(FileError, match=r"'standard input' is compressed by gzip.*'gzip -dc'"):
        list(TextReader(["-"], file_format=format_))


@pytest.mark.parametrize("codec", list(MARKS))
@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.tsv", "x.jsonl"])
def test_files_with_a_byte_order_mark_are_read_by_it(tmp_path, codec, name):
    contents = {
        "x.txt": "\r\n".join(TEXTS) + "\n",
        "x.csv": table(","),
        "x.tsv": table("\t"),
        "x.jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS),
    }
    (tmp_path / name).write_bytes(MARKS[codec] + contents[name].encode(codec))
    assert texts_of(tmp_path / name) == TEXTS


def test_a_long_file_in_utf16_is_read_whole(tmp_path):
    texts = [f"line {number} ß三🙂" for number in range(20_000)]
    (tmp_path / "x.txt").write_bytes("\n".join(texts).encode("utf-16"))
    assert texts_of(tmp_path / "x.txt") == texts


def test_standard_input_in_utf16_is_read_by_its_mark(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("one\nzwei ß\n".encode("utf-16"))))
    assert [item.text for item in TextReader(["-"])] == ["one", "zwei ß"]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.jsonl"])
def test_utf16_without_a_mark_is_named(tmp_path, codec, name):
    content = {"x.txt": "one\ntwo\n", "x.csv": "id,text\n1,one\n", "x.jsonl": '{"text": "zwei ß"}\n'}[name]
    (tmp_path / name).write_bytes(content.encode(codec))
    with pytest.raises(FileError, match=f"UTF-16 .*{codec.replace('-16-', '-16')}.*byte order mark.*iconv"):
        texts_of(tmp_path / name, on_bad_text="skip")


def test_utf16_that_is_cut_off_is_a_broken_file(tmp_path):
    (tmp_path / "x.txt").write_bytes("one\ntwo\n".encode("utf-16")[:-1])
    with pytest.raises(FileError, match="damaged UTF-16"):
        texts_of(tmp_path / "x.txt")


def test_a_nul_in_an_ordinary_file_is_no_sign_of_utf16(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a nul \x00 in the middle\n")
    with pytest.raises(TextError, match=r"line 1 of .*U\+0000"):
        texts_of(tmp_path / "x.txt")
