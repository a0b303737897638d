"""A search finds what brute force finds, refuses what must not be compared, and sees a damaged shard."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import echoembed
from echoembed import errors
from echoembed.corpus import Keep, ModelEncoder, Reading, build, open_corpus
from echoembed.corpus import manifest as notes

TINY = Path(echoembed.__file__).parent / "tiny"
TEXTS = [
    "A baker makes bread before dawn.",
    "Stocks fell sharply on Monday.",
    "The cat sat on the mat.",
    "Rain is expected in the north.",
    "The orchestra played a symphony.",
    "Zanzibar lies in the sea off Africa.",
]
RECIPE = echoembed.Recipe(
    name="sides",
    query_template="{bos}Find what answers: {text}\nAgain: {text:pool}",
    document_template="{bos}Rewrite: {text}\nRewritten: {text:pool}",
)


@pytest.fixture(scope="module")
def model():
    return echoembed.load(TINY, recipe=RECIPE)


@pytest.fixture(scope="module", params=["float32", "int8"])
def built(model, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": f"r{number}", "text": text, "year": 2000 + number} for number, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = Reading(id="id", keep=(Keep("year", "int"),), shard_rows=4)
    load = {"model": str(TINY), "recipe": RECIPE.as_dict()}
    build(
        [folder / "rows.jsonl"],
        folder / "out",
        ModelEncoder(model),
        reading=reading,
        precision=request.param,
        load=load,
    )
    return folder / "out"


def test_hits_are_those_of_brute_force_with_the_query_template(built, model):
    hits = open_corpus(built, model).search("Who bakes?", len(TEXTS))
    scores_N = model.encode_document(TEXTS) @ model.encode_query("Who bakes?")
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores_N)[::-1], atol=1e-2)
    if "float32" in notes.read(built).precision:
        assert [hit.id for hit in hits] == [f"r{row}" for row in np.argsort(-scores_N)]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores_N)[::-1], atol=1e-6)
    assert {hit.id: hit.text for hit in hits} == {f"r{row}": text for row, text in enumerate(TEXTS)}


def test_a_filter_leaves_the_best_of_what_it_lets_through(built, model):
    corpus = open_corpus(built, model)
    everything = corpus.search("bread", len(TEXTS))
    few = corpus.search("bread", 2, where="year >= 2002 AND id != 'r4'")
    assert [hit.id for hit in few] == [hit.id for hit in everything if hit.kept["year"] >= 2002 and hit.id != "r4"][:2]
    assert corpus.search("bread", 2, where="year > 3000") == []


def test_words_count_in_a_hybrid_search(built, model):
    corpus = open_corpus(built, model)
    assert corpus.search("zanzibar", 1, hybrid=True)[0].id == "r5"
    assert corpus.search("zanzibar", 2, hybrid=True, where="year < 2005")


def test_the_first_hits_of_a_hybrid_search_do_not_depend_on_how_many_are_asked_for(tmp_path):
    from fake_encoder import FakeEncoder

    words = ["bread", "stocks", "cat", "rain", "orchestra", "sea", "garden", "tooth", "letter", "road"]
    texts = [f"{one} and {other} {number}" for number, (one, other) in enumerate(itertools.permutations(words, 2))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    encoder = FakeEncoder(dimension=32)
    build([tmp_path / "rows.jsonl"], tmp_path / "out", encoder)
    corpus = open_corpus(tmp_path / "out")
    differs = 0
    for number in range(0, 90, 5):
        query = f"{words[number % 10]} {number}"
        vector_D = encoder.vector(query)
        hits = [hit.id for hit in corpus.search_vector(vector_D, 90, words=query)]
        for k in (1, 2, 3, 10, 30):
            assert [hit.id for hit in corpus.search_vector(vector_D, k, words=query)] == hits[:k]
        differs += hits[:1] != [hit.id for hit in corpus.search_vector(vector_D, 1)]
    assert differs > 9  # the words count for the first hit, too


@pytest.mark.parametrize("where", ["colour = 'red'", "year >", "year = 'abc'", "", "; DROP TABLE texts"])
def test_a_filter_that_cannot_be_used_is_one_line(built, model, where):
    with pytest.raises(errors.CorpusError) as caught:
        open_corpus(built, model).search("bread", 1, where=where)
    assert "Columns: id, chunk, start, end, text, year" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ".rs" not in str(caught.value)


def test_the_manifest_gives_the_model_again(built):
    assert open_corpus(built).search("bread", 1)


@pytest.mark.parametrize(
    "change", [{"recipe": "classical"}, {"recipe": RECIPE, "layer": 2}, {"recipe": RECIPE, "budget": 9}]
)
def test_another_identity_is_refused_with_the_difference(built, change):
    with pytest.raises(errors.CorpusError, match=r"was made with other settings: .* in the corpus and .* here"):
        open_corpus(built, echoembed.load(TINY, **change)).search("bread", 1)


def test_other_numerics_are_named_and_allowed(built):
    corpus = open_corpus(built, echoembed.load(TINY, recipe=RECIPE, dtype="bfloat16"))
    assert corpus.search("bread", 1)
    assert corpus.remarks[0].startswith("dtype of the corpus is float32, of the query bfloat16")


def test_numerics_of_several_builds_are_all_named(tmp_path, model):
    half = echoembed.load(TINY, recipe=RECIPE, dtype="bfloat16")
    for one, texts in ((half, TEXTS[:3]), (model, TEXTS)):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        build([tmp_path / "rows.jsonl"], tmp_path / "out", ModelEncoder(one))
    corpus = open_corpus(tmp_path / "out", model)
    assert corpus.search("bread", 1)
    assert corpus.remarks[0].startswith("dtype of the corpus is bfloat16, float32, of the query float32")


def test_numerics_out_of_their_bound_are_refused(built, monkeypatch):
    corpus = open_corpus(built, echoembed.load(TINY, recipe=RECIPE, dtype="bfloat16"))
    monkeypatch.setattr("echoembed.corpus.search.BOUND", {})
    monkeypatch.setattr("echoembed.corpus.search.STORED_BOUND", dict.fromkeys(("float32", "int8"), 1e-9))
    with pytest.raises(errors.CorpusError, match="is rounding"):
        corpus.search("bread", 1)


def test_a_query_that_is_none_is_refused(built, model):
    with pytest.raises(errors.TextError):
        open_corpus(built, model).search(" ", 1)
    with pytest.raises(errors.CorpusError, match="k = 0"):
        open_corpus(built, model).search("bread", 0)


def test_a_changed_corpus_is_searched_as_it_is_now(tmp_path, model):
    source = tmp_path / "rows.jsonl"
    for texts in (TEXTS[:3], TEXTS[3:]):
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        build([source], tmp_path / "out", ModelEncoder(model))
        assert {hit.text for hit in open_corpus(tmp_path / "out", model).search("anything", 9)} == set(texts)


def test_a_damaged_shard_is_named_before_it_is_searched(tmp_path, model):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    build([tmp_path / "rows.jsonl"], tmp_path / "out", ModelEncoder(model))
    [path] = (tmp_path / "out" / "shards").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(errors.CorpusError, match="is damaged: its bytes have changed"):
        open_corpus(tmp_path / "out", model).search("bread", 1)


def test_an_unfinished_corpus_and_no_corpus_are_told_apart(tmp_path, built):
    with pytest.raises(errors.CorpusError, match="is not a corpus"):
        open_corpus(tmp_path)
    whole = notes.read(built)
    (tmp_path / "shards").mkdir()
    notes.write(tmp_path, notes.Manifest(**{**vars(whole), "state": "building", "shards": ()}))
    with pytest.raises(errors.CorpusError, match="interrupted"):
        open_corpus(tmp_path)


def test_an_index_finds_nearly_all_that_comparing_with_all_finds(tmp_path):
    from fake_encoder import FakeEncoder

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"text number {n}"}) + "\n" for n in range(2000)))
    encoder = FakeEncoder(dimension=32)
    build([tmp_path / "rows.jsonl"], tmp_path / "out", encoder)
    corpus = open_corpus(tmp_path / "out", exact_below=1000)
    assert {built.index_type for built in corpus.table.list_indices()} == {"FTS", "IvfPq"}
    shared = []
    for number in range(20):
        vector_D = encoder.vector(f"query {number}")
        found, exact = (corpus.search_vector(vector_D, 10, exact=exact) for exact in (False, True))
        vectors_ND = np.stack([encoder.vector(f"text number {n}") for n in range(2000)])
        best = np.argsort(-(vectors_ND @ vector_D))[:10]
        assert [hit.text for hit in exact] == [f"text number {n}" for n in best]
        shared.append(len({hit.id for hit in found} & {hit.id for hit in exact}))
    assert np.mean(shared) > 7.5  # of ten; vectors without any structure are the hardest there are
