"""Where a corpus and its inputs lie: inside each other, closed, not writable, or no folder at all."""

import os
import tempfile
from pathlib import Path

import lancedb  # noqa: F401 (another user may not read where it is installed)
import pytest

from echoembed import errors
from echoembed.corpus import build, open_corpus
from fake_encoder import FakeEncoder

VECTOR_D = FakeEncoder().vector("a query")


@pytest.fixture
def folder(monkeypatch):
    """A folder with an input, for a user who has no rights but the usual ones."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.chdir(name)
        Path("in").mkdir()
        Path("in/y.jsonl").write_text('{"text": "first"}\n')
        root = os.geteuid() == 0
        if root:
            for path in (".", "in"):
                os.chmod(path, 0o777)  # noqa: PTH101
            os.seteuid(65534)
        try:
            yield Path()
        finally:
            if root:
                os.seteuid(0)
            for closed in [path for path in Path().rglob("*") if path.is_dir()]:
                closed.chmod(0o777)


def make(*inputs):
    return build(inputs or ["in"], "out", FakeEncoder())


def search():
    return [hit.text for hit in open_corpus("out").search_vector(VECTOR_D, 1)]


def refused(call, kind, said):
    with pytest.raises(kind) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", ["out", "out/shards", "in/../out/shards", "link/shards"])
def test_a_corpus_is_never_built_from_its_own_shards(folder, inside):
    make()
    Path("link").symlink_to("out")
    before = sorted((path, path.read_bytes()) for path in Path("out").rglob("*.parquet"))
    refused(lambda: make(inside), errors.CorpusError, "lies in 'out', the corpus that is to be built")
    assert sorted((path, path.read_bytes()) for path in Path("out").rglob("*.parquet")) == before


def test_an_input_that_cannot_be_reached_is_not_said_to_be_missing(folder):
    Path("in/closed").mkdir()
    Path("in/closed/x.md").write_text("text")
    Path("in/closed").chmod(0)
    Path("loop").symlink_to("loop")
    refused(lambda: make("in/closed/x.md"), errors.FileError, "'in/closed/x.md' cannot be read: Permission denied")
    refused(lambda: make("loop"), errors.FileError, "'loop' cannot be read: Too many levels")
    refused(lambda: make("in/none.md"), errors.FileError, "There is no 'in/none.md'")
    refused(lambda: make("in/y.jsonl/x.md"), errors.FileError, "There is no")
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["out", "out/shards"])
def test_what_is_no_folder_is_not_built_into(folder, name):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("of someone")
    refused(make, errors.FileError, f"'{name}' cannot be written: it exists, and is no folder")
    assert Path(name).read_text() == "of someone"


def test_a_link_to_nowhere_is_not_built_into(folder):
    Path("out").symlink_to("nowhere/at/all")
    refused(make, errors.FileError, "it exists, and is no folder")


def test_a_corpus_whose_parts_are_closed_is_not_said_to_be_damaged(folder):
    make()
    [shard] = Path("out/shards").iterdir()
    shard.chmod(0)
    refused(search, errors.FileError, f"'{shard}' cannot be read: Permission denied")
    shard.chmod(0o644)
    Path("out/shards").chmod(0)
    refused(search, errors.FileError, "cannot be read: Permission denied")
    refused(make, errors.FileError, "'out/shards' cannot be read: Permission denied")
    Path("out/shards").chmod(0o755)
    assert search() == ["first"]


def test_a_corpus_that_must_not_be_written_to_is_searched_if_it_has_its_index(folder):
    make()
    Path("out").chmod(0o555)
    refused(search, errors.FileError, "no search index of its present texts, and none can be built there")
    Path("out").chmod(0o755)
    assert search() == ["first"]
    Path("out").chmod(0o555)
    assert search() == ["first"]
    Path("in/more.md").write_text("more")
    refused(make, errors.FileError, "cannot be written: Permission denied")
    assert search() == ["first"]
