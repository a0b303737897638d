"""A setting that none of the inputs can use is refused, and not passed over without a word."""

from pathlib import Path

import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build
from echoembed.corpus import manifest as notes
from fake_encoder import FakeEncoder


@pytest.fixture(autouse=True)
def _inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/x.md").write_text("A page.")
    Path("in/y.txt").write_text("Another page.")
    Path("in/z.jsonl").write_text('{"id": "a", "text": "a row"}\n')


PAGES, ROWS = ["in/x.md", "in/y.txt"], ["in/z.jsonl"]


@pytest.mark.parametrize(
    ("inputs", "settings", "file_format", "option"),
    [
        (ROWS, {"chunk_tokens": 9}, None, "--chunk-tokens"),
        (PAGES, {"chunk_tokens": 9}, "lines", "--chunk-tokens"),
        (PAGES, {"chunk_tokens": 9, "chunk": False}, None, "--chunk-tokens"),
        (ROWS, {"delimiter": ";"}, None, "--delimiter"),
        (PAGES, {"delimiter": ";"}, None, "--delimiter"),
        (PAGES, {"text": "body"}, None, "--column"),
        (PAGES, {"id": "key"}, None, "--id-column"),
        (ROWS, {"id": "key"}, "lines", "--id-column"),
        (PAGES, {"keep": (Keep("year", "int"),)}, None, "--keep"),
        (["in"], {"keep": (Keep("year", "int"),)}, "document", "--keep"),
    ],
)
def test_what_no_input_can_use_is_refused(inputs, settings, file_format, option):
    with pytest.raises(errors.CorpusError, match=f"Got {option}, which none of the inputs can use"):
        build(inputs, "out", FakeEncoder(), reading=Reading(**settings), file_format=file_format)
    assert not Path("out").exists()


@pytest.mark.parametrize("inputs", [["in"], [*PAGES, *ROWS]], ids=["folder", "files"])
@pytest.mark.parametrize("delimiter", [None, ";"])
def test_what_one_of_the_inputs_can_use_is_used(inputs, delimiter):
    """A folder may hold anything tomorrow, and the same command is to do then."""
    if delimiter and inputs != ["in"]:
        inputs = [*inputs, "in/w.csv"]
        Path("in/w.csv").write_text("id;text;year\nb;a cell;1\n")
    reading = Reading(id="id", keep=(Keep("year", "int"),), chunk_tokens=9, delimiter=delimiter)
    build(inputs, "out", FakeEncoder(), reading=reading)
    assert notes.read(Path("out")).rows == len(inputs if len(inputs) > 1 else list(Path("in").iterdir()))
