"""The manifest says what the data are; what is built from originals has its hashes, or is not there."""

import gzip
import hashlib
import itertools
import json
import os
from http.client import BadStatusLine, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from typer.testing import CliRunner

from echoembed import errors
from echoembed.cli import app
from echoembed.evaluation import manifest
from echoembed.evaluation.local import DATA_KINDS
from echoembed.evaluation.originals import READERS, written
from echoembed.evaluation.rows import content

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"
CSV = b'text,category\nWhere is my card?,card_arrival\n"Late, again.",delay\n'
MADE = b'{"text": "Where is my card?", "label": "card_arrival"}\n{"text": "Late, again.", "label": "delay"}\n'


def data_set(**changes):
    file = {
        "path": "test.jsonl.gz",
        "rows": 2,
        "bytes": 0,
        "sha256": hashlib.sha256(MADE).hexdigest(),
        "form": "csv-labels",
        "originals": ("bank/test.csv",),
    }
    file = manifest.DataFile(**{**file, **changes})
    facts = dict.fromkeys(("what", "mteb", "licence"), "") | {"origin": "owner/bank", "revision": "abc"}
    return manifest.DataSet(name="classification/bank", overlaps=(), files=(file,), **facts), file


def test_a_file_is_built_from_its_original_and_then_is_there(tmp_path):
    bank, file = data_set()
    asked = []

    def fetch(*what):
        asked.append(what)
        return CSV

    assert manifest.state(tmp_path, bank, file) == "missing"
    assert manifest.build(tmp_path, bank, file, fetch) == ""
    assert asked == [("owner/bank", "abc", "bank/test.csv")]
    assert gzip.decompress((tmp_path / "classification/bank/test.jsonl.gz").read_bytes()) == MADE
    assert manifest.state(tmp_path, bank, file) == "there"


@pytest.mark.parametrize(
    ("original", "said"),
    [
        (CSV.replace(b"card_arrival", b"other"), "other rows"),
        (b"\xff\xfe", "not what it was"),
        (b"text\nonly one column\n", "not what it was"),
        (URLError("no route"), "no network"),
        (TimeoutError(), "no network"),
        (HTTPError("address", 404, "gone", None, None), "refused (404)"),
        (IncompleteRead(b"text"), "no network"),
        (BadStatusLine("-"), "no network"),
        (ValueError("too large"), "not what it was"),
        (b'"' + b"x" * 200_000 + b'",1\n', "its original"),  # which of the two depends on the process's limit of fields
    ],
)
def test_what_cannot_be_built_is_said_and_nothing_is_written(tmp_path, original, said):
    bank, file = data_set()

    def fetch(*_):
        if isinstance(original, Exception):
            raise original
        return original

    assert said in manifest.build(tmp_path, bank, file, fetch)
    assert list(tmp_path.rglob("*.gz")) == []


@pytest.mark.parametrize("content", [b"[1]", b"{}", b'{"data": null, "test": 1}', b"[" * 200_000, b"\0", b""])
@pytest.mark.parametrize("form", READERS)
def test_an_original_of_any_other_form_is_not_what_it_was(tmp_path, form, content):
    """As where a portal answers with a page of its own."""
    bank, file = data_set(form=form, options={"split": "test", "labels": ["a"]})
    assert manifest.build(tmp_path, bank, file, lambda *_: content).startswith("its original")
    assert list(tmp_path.rglob("*.gz")) == []


@pytest.mark.parametrize("kind", ["no gzip", "cut off", "folder", "dangling link", "pipe"])
def test_a_file_that_cannot_be_read_is_told_and_the_others_are_checked(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(manifest, "fetched", lambda *_: pytest.fail("fetched"))
    path = tmp_path / "sts/sts13/test.jsonl.gz"
    path.parent.mkdir(parents=True)
    make = {
        "no gzip": lambda: path.write_bytes(b"no gzip"),
        "cut off": lambda: path.write_bytes(gzip.compress(MADE)[:-6]),
        "folder": path.mkdir,
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    run = CliRunner().invoke(app, ["data", str(tmp_path), "sts13", "msrp", "--check"], env={"COLUMNS": "200"})
    assert run.exit_code == 1
    assert "cannot be read: test.jsonl.gz" in run.stdout
    assert "pair/msrp" in run.stdout
    assert os.path.lexists(path)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("folder", ["x" * 300, "~nobody-has-this-name/x", "file"])
def test_a_folder_that_cannot_be_is_an_error_line(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    run = CliRunner().invoke(app, ["data", folder, "sts13"])
    assert run.exit_code == 1
    assert run.stderr.startswith("error: ")
    assert "fault" not in run.stderr


def test_the_page_says_of_each_set_what_the_manifest_says():
    page = DOCS.read_text()
    sets = manifest.manifest()
    assert f"{len(sets)} data sets" in page
    assert f"for {sum(one.built for one in sets.values())} of the {len(sets)} sets" in page
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert lines.keys() == sets.keys()
    for name, one in sets.items():
        cells = [cell.strip() for cell in lines[name].strip("|").split("|")]
        rows = ", ".join(f"{file.path.split('.')[0]} {file.rows:,}" for file in one.files)
        assert cells[3] == rows
        assert f"[{one.origin}](https://github.com/{one.origin})@{one.revision[:10]}" == cells[4]
        assert cells[5] == one.licence
        assert cells[6] == (", ".join(f"`{other}`" for other in one.overlaps) or "-")
        assert cells[7] == ("yes" if one.built else "no")
        for other in one.overlaps:
            assert name in sets[other].overlaps


def test_a_file_that_is_there_and_another_is_told_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "fetched", lambda *_: pytest.fail("fetched"))
    path = tmp_path / "sts/sts13/test.jsonl.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b'{"mine": 1}\n'))
    run = CliRunner().invoke(app, ["data", str(tmp_path), "sts13", "--json"])
    assert run.exit_code == 1
    assert json.loads(run.stdout)[0]["files"] == {"test.jsonl.gz": "differs"}
    assert gzip.decompress(path.read_bytes()) == b'{"mine": 1}\n'


def test_without_a_network_one_table_says_what_is_missing_and_nobody_waits_twice(tmp_path, monkeypatch):
    tried = []

    def fetch(*what):
        tried.append(what)
        raise URLError("no route")

    monkeypatch.setattr(manifest, "fetched", fetch)
    run = CliRunner().invoke(app, ["data", str(tmp_path)], env={"COLUMNS": "200"})
    assert run.exit_code == 1
    assert len(tried) == 1
    assert "Traceback" not in run.output
    assert all(name in run.stdout for name in manifest.manifest())
    assert f"0 of {sum(len(one.files) for one in manifest.manifest().values())} files" in run.stdout


def test_an_unknown_data_set_is_an_error_line(tmp_path):
    run = CliRunner().invoke(app, ["data", str(tmp_path), "st13"])
    assert run.exit_code == 1
    assert run.stderr.startswith("error: There is no data set 'st13'")
    with pytest.raises(errors.DataError, match="sts13"):
        manifest.chosen(["st13"])


def test_names_and_kinds_are_found():
    assert [one.name for one in manifest.chosen(["sts13"])] == ["sts/sts13"]
    assert {one.name.split("/")[0] for one in manifest.chosen(["pair", "sts/stsb"])} == {"pair", "sts"}


def test_the_manifest_is_whole():
    sets = manifest.manifest()
    for name, one in sets.items():
        assert name.split("/")[0] in {*DATA_KINDS, "train"}
        assert set(one.overlaps) <= set(sets)
        for file in one.files:
            assert len(file.sha256) == 64
            assert file.form == "" or (file.form in READERS and file.originals)
    page = DOCS.read_text()
    assert [name for name in sets if f"`{name}`" not in page] == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data are not beside this repository")
def test_the_data_beside_this_repository_are_the_manifests():
    for one in manifest.manifest().values():
        assert {manifest.state(SHARED, one, file) for file in one.files} == {"there"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data are not beside this repository")
def test_sets_that_share_texts_are_named():
    """Counted over all files, so that nobody trains on what is scored without knowing it."""
    texts = {name: set(_texts(one)) for name, one in manifest.manifest().items()}
    for name, other in itertools.combinations(texts, 2):
        if len(texts[name] & texts[other]) >= 5:
            assert other in manifest.manifest()[name].overlaps


def _texts(one):
    """The texts of a data set of more than 20 letters, without what is a label, a title or an id."""
    for file in one.files:
        if not file.path.endswith(".tsv"):
            for line in content(SHARED / one.name / file.path).decode().strip().split("\n"):
                row = {key: value for key, value in json.loads(line).items() if key not in ("_id", "title", "label")}
                for value in row.values():
                    for text in value if isinstance(value, list) else [value]:
                        if isinstance(text, str) and len(text) > 20:
                            yield " ".join(text.lower().split())


@pytest.mark.parametrize(
    ("form", "files", "options", "expected"),
    [
        (
            "scored-pairs",
            [("2013/headlines.test.tsv", "2.5\tA \tB\n\tno\tscore\n4\tC\tD\n")],
            {},
            [("A", "B", 2.5, "headlines"), ("C", "D", 4.0, "headlines")],
        ),
        ("csv-pairs", [("dev.csv", '"A, b",C,3.25\n')], {}, [("A, b", "C", 3.25)]),
        ("sick", [("t.txt", "id\ta\tb\ts\te\n1\tA\tB\t3.3\tNEUTRAL\r\n")], {}, [("A", "B", 3.3, "NEUTRAL")]),
        ("msrp", [("t.tsv", "\ufeffq\ti\tj\ta\tb\n1\t7\t8\tA\tB\n")], {}, [("A", "B", 1)]),
        ("csv-labels", [("t.tsv", 'sentence\tl\nA "b"\t0\n')], {}, [('A "b"', 0)]),
        ("clinc", [("d.json", '{"test": [["A ", "x"]], "oos_test": [["B", "oos"]]}')], {"split": "test"}, [("A", "x")]),
        (
            "texts-and-numbers",
            [("t.txt", "A\nB\n"), ("l.txt", "1\n2\n")],
            {"labels": ["x", "y"], "first": 1},
            [("A", "x"), ("B", "y")],
        ),
        ("trec", [("T.test", "NUM:dist How far ?\n")], {}, [("How far ?", "NUM", "NUM:dist")]),
    ],
)
def test_an_original_of_each_form_gives_its_rows(form, files, options, expected):
    rows = READERS[form]([(path, text.encode()) for path, text in files], options)
    assert [tuple(row.values()) for row in rows] == expected


def test_questions_and_paragraphs_keep_their_places():
    paragraph = {"context": "C", "qas": [{"id": "q1", "question": "Q?"}]}
    article = {"data": [{"title": "A_b", "paragraphs": [{"context": "no", "qas": []}, paragraph]}]}
    files = [("x.json", json.dumps(article).encode())]
    assert READERS["squad-corpus"](files, {})[1] == {"_id": "0-1", "title": "A b", "text": "C"}
    assert READERS["squad-queries"](files, {}) == [{"_id": "q1", "text": "Q?"}]
    judged = written("qrels/test.tsv", READERS["squad-judgements"](files, {}))
    assert judged == b"query-id\tcorpus-id\tscore\nq1\t0-1\t1\n"
