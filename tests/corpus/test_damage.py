"""A damaged index is made again, a damaged manifest is named, and a search that cannot be made is one line."""

import json
import shutil

import numpy as np
import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build, open_corpus
from fake_encoder import FakeEncoder

ENCODER = FakeEncoder(dimension=8)
READING = Reading(id="id", keep=(Keep("year", "int"),))
TEXTS = ["A baker makes bread.", "Stocks fell.", "The cat sat."]


@pytest.fixture
def out(tmp_path):
    rows = [{"id": f"r{number}", "text": text, "year": number} for number, text in enumerate(TEXTS)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build([tmp_path / "x.jsonl"], tmp_path / "out", FakeEncoder(dimension=8), reading=READING)
    return tmp_path / "out"


def first(out, **options):
    return open_corpus(out).search_vector(ENCODER.vector(TEXTS[1]), 1, **options)[0].id


def test_what_stands_in_a_corpus_instead_of_its_files_is_replaced(out, tmp_path):
    """Repaired by the next build, from what is whole."""
    whole = (out / "manifest.json").read_bytes()
    [shard] = (out / "shards").iterdir()
    (out / "manifest.json").write_text("[" * 100_000)
    shard.unlink()
    shard.mkdir()
    (shard / "a file").write_text("of somebody's")
    report = build([tmp_path / "x.jsonl"], out, FakeEncoder(), reading=READING)
    assert len(report.remarks) == 2
    assert (out / "manifest.json").read_bytes() == whole
    assert first(out) == "r1"


def without_table(index):
    shutil.rmtree(index / "texts.lance")


def without_data(index):
    shutil.rmtree(index / "texts.lance" / "data")


def without_words(index):
    shutil.rmtree(index / "texts.lance" / "_indices")


def cut_short(index):
    for path in (index / "texts.lance").rglob("*.lance"):
        path.write_bytes(path.read_bytes()[:50])


def a_file(index):
    shutil.rmtree(index)
    index.write_text("no index")


def another_note(index):
    (index / "built.json").write_text("[1]")


def a_note_nested_deeply(index):
    (index / "built.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [without_table, without_data, without_words, cut_short, a_file, another_note, a_note_nested_deeply],
    ids=lambda damage: damage.__name__,
)
@pytest.mark.parametrize("options", [{}, {"where": "year < 3"}, {"words": "stocks"}], ids=["plain", "filter", "words"])
def test_a_damaged_index_is_made_again(out, damage, options):
    assert first(out) == "r1"
    damage(out / "index")
    assert first(out, **options) == "r1"


def test_the_index_of_another_corpus_is_not_used(out, tmp_path):
    (tmp_path / "y.jsonl").write_text('{"text": "Other."}\n')
    build([tmp_path / "y.jsonl"], tmp_path / "other", FakeEncoder(dimension=8))
    open_corpus(tmp_path / "other").search_vector(np.ones(8), 1)
    shutil.copytree(tmp_path / "other" / "index", out / "index")
    assert first(out) == "r1"


CHANGES = {
    "a dimension in words": lambda plain: plain.update(dimension="x"),
    "another dimension": lambda plain: plain.update(dimension=7),
    "a shard elsewhere": lambda plain: plain["shards"][0].update(name="../../x.parquet"),
    "a shard without a name": lambda plain: plain["shards"][0].update(name=5),
    "rows in words": lambda plain: plain["shards"][0].update(rows="x"),
    "a column that is not there": lambda plain: plain.update(keep=[["colour", "text"]]),
    "an unknown type": lambda plain: plain.update(keep=[["year", "date"]]),
    "an identity that is none": lambda plain: plain["identity"].update(decides=5),
    "another precision": lambda plain: plain.update(precision="int8"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_manifest_that_was_edited_is_named(out, change):
    for name in ("manifest.json", "manifest.backup.json"):
        plain = json.loads((out / name).read_text())
        change(plain)
        (out / name).write_text(json.dumps(plain))
    dimension = 7 if plain["dimension"] == 7 else 8
    with pytest.raises(errors.CorpusError, match=r"manifest\.json' is damaged") as caught:
        open_corpus(out).search_vector(np.ones(dimension), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vector", [np.ones(7), np.zeros(8), np.full(8, np.nan), np.ones((1, 8))])
def test_a_vector_without_a_direction_here_is_refused(out, vector):
    with pytest.raises(errors.CorpusError, match="8 finite numbers"):
        open_corpus(out).search_vector(vector, 1)


@pytest.mark.parametrize("k", [0, -1, 2.5, "2", None, True])
def test_a_number_of_hits_is_a_whole_number(out, k):
    with pytest.raises(errors.CorpusError, match="a whole number above 0"):
        open_corpus(out).search_vector(np.ones(8), k)


def test_more_hits_than_texts_are_all_texts(out):
    assert len(open_corpus(out).search_vector(np.ones(8), 2**70)) == len(TEXTS)


@pytest.mark.parametrize(
    "where", ["year > 1; DROP TABLE texts", "year > 1;", "year / 0 > 1", "text LIKE 'A%", "NOT", "/*"]
)
def test_a_filter_is_one_condition(out, where):
    with pytest.raises(errors.CorpusError, match="cannot be used") as caught:
        first(out, where=where)
    assert "\n" not in str(caught.value)
    assert first(out, where="text != 'a;b' AND year < 3") == "r1"


def test_a_changed_corpus_changes_its_index_row_by_row(tmp_path):
    """What stays is not written again, and what is found is what a fresh index finds."""
    source, out = tmp_path / "x.jsonl", tmp_path / "out"
    texts = {f"r{number}": f"text number {number}" for number in range(40)}

    def built():
        source.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in texts.items()))
        build([source], out, FakeEncoder(), reading=Reading(id="id", shard_rows=8))
        return open_corpus(out)

    assert len(built().search_vector(ENCODER.vector("any"), 99)) == 40
    before = {path.name for path in (out / "index" / "texts.lance" / "data").iterdir()}
    texts = {"new": "a new text in front", **texts, "r7": "another text"}
    del texts["r3"]
    corpus = built()
    hits = corpus.search_vector(ENCODER.vector("any"), 99)
    assert {hit.id: hit.text for hit in hits} == texts
    assert before & {path.name for path in (out / "index" / "texts.lance" / "data").iterdir()}
    assert "new" in [hit.id for hit in corpus.search_vector(ENCODER.vector("any"), 2, words="front")]
    shutil.rmtree(out / "index")
    fresh = open_corpus(out).search_vector(ENCODER.vector("any"), 99)
    assert [(hit.id, hit.score) for hit in fresh] == [(hit.id, hit.score) for hit in hits]


def test_a_corpus_made_anew_by_another_model_has_an_index_of_its_own(out, tmp_path):
    """Same texts, same place, other vectors: nothing of the old index may stay."""
    assert first(out) == "r1"
    for path in out.iterdir():
        if path.name != "index":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    other = FakeEncoder(dimension=8, revision="1" * 40)
    build([tmp_path / "x.jsonl"], out, other, reading=Reading(id="id", keep=(Keep("year", "int"),)))
    hit = open_corpus(out).search_vector(other.vector(TEXTS[1]), 1)[0]
    assert (hit.id, round(hit.score, 5)) == ("r1", 1.0)
