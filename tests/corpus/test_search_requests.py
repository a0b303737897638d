"""What a search is asked: one condition and nothing behind it, a vector of numbers, the corpus as it is now."""

import json
import shutil

import numpy as np
import pytest

from echoembed import errors
from echoembed.corpus import Keep, Reading, build, open_corpus
from echoembed.corpus import manifest as notes
from fake_encoder import FakeEncoder

YEARS = range(2000, 2012)


def write(folder, years=YEARS):
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": f"text {y}", "year": y}) + "\n" for y in years))


def make(folder, encoder=None):
    build([folder / "in.jsonl"], folder / "out", encoder or FakeEncoder(), reading=Reading(keep=(Keep("year", "int"),)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write(folder)
    make(folder)
    return open_corpus(folder / "out")


VECTOR_D = FakeEncoder().vector("a query")


@pytest.mark.parametrize(
    "where",
    [
        "year > 2003 LIMIT 1",
        "year > 2003 ORDER BY year",
        "year > 2003 GROUP BY year",
        "year > 2003 -- and more",
        "year > 2003 /* and more */",
        "year > 2003; year < 2005",
        "year > 2003) LIMIT 1",
        "year > 2003)) AND (year < 2005",
        "year > 2003) AND (year < 2005",
        "(year > 2003",
        "max(year) > 2003",
        "year / 0 > 1",
        "cast(text as int) > 3",
        "regexp_like(text, '[')",
        "year > (SELECT 1)",
        "text = 'it's'",
        "(" * 3000,
        "\0",
        "\ud800 = 1",
        "year",
        "null",
    ],
)
def test_what_is_no_condition_is_refused_in_one_short_line(corpus, where):
    with pytest.raises(errors.CorpusError, match="cannot be used: ") as caught:
        corpus.search_vector(VECTOR_D, 3, where=where)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert "_row_hash" not in message
    assert "Did you mean 'year'" not in message  # the name that the filter has
    assert corpus.search_vector(VECTOR_D, 3, where="year > 2003")  # nothing is damaged


@pytest.mark.parametrize(
    "where", ["year >\n2003", "`year` > 2003", "year > 2003 OR text = '-- ; /*)'", "(year > 2003)"]
)
def test_a_condition_lets_through_what_it_says(corpus, where):
    hits = corpus.search_vector(VECTOR_D, 99, where=where)
    assert {hit.kept["year"] for hit in hits} == {year for year in YEARS if year > 2003}


@pytest.mark.parametrize("where", [5, b"year > 2000", ["year > 2000"]])
def test_a_filter_is_a_string(corpus, where):
    with pytest.raises(errors.CorpusError, match="Got where = "):
        corpus.search_vector(VECTOR_D, 1, where=where)


@pytest.mark.parametrize(
    "vector",
    [None, "abc", ["a"] * 8, [[1], [1, 2]], np.ones(3), np.ones((1, 8)), np.zeros(8), np.full(8, np.nan), [1j] * 8],
    ids=repr,
)
def test_a_vector_is_as_many_finite_numbers_as_the_corpus_has(corpus, vector):
    with pytest.raises(errors.CorpusError, match=r"Got vector_D = .* Allowed: 8 finite numbers"):
        corpus.search_vector(vector, 1)


def test_the_length_of_a_vector_plays_no_part(corpus):
    expected = [hit.id for hit in corpus.search_vector(VECTOR_D, 5)]
    for factor in (1e-300, 1e300):
        assert [hit.id for hit in corpus.search_vector(VECTOR_D.astype(np.float64) * factor, 5)] == expected


@pytest.mark.parametrize("words", ["", " \n", 5, b"text"])
def test_words_to_search_for_are_a_string_with_something_in_it(corpus, words):
    with pytest.raises(errors.CorpusError, match="Got words = "):
        corpus.search_vector(VECTOR_D, 1, words=words)


@pytest.mark.parametrize(
    "words", ['"', "text AND (", "+2003 -text", "text:3", "^", "/x/", "中文", "\ud800", "w" * 99_999]
)
def test_words_are_words_whatever_signs_they_hold(corpus, words):
    assert len(corpus.search_vector(VECTOR_D, 3, words=words)) == 3


@pytest.mark.parametrize("k", [2**31, 2**63, 2**70])
def test_more_texts_than_there_are_is_all_of_them(corpus, k):
    assert len(corpus.search_vector(VECTOR_D, k)) == len(YEARS)


def test_a_corpus_that_was_built_anew_since_it_was_opened_is_searched_as_it_is_now(tmp_path):
    write(tmp_path)
    make(tmp_path)
    corpus = open_corpus(tmp_path / "out")
    write(tmp_path, [1999])
    make(tmp_path)
    assert [hit.kept["year"] for hit in corpus.search_vector(VECTOR_D, 5)] == [1999]
    assert len(corpus) == 1


ASKED = {
    "search": lambda corpus: [hit.id for hit in corpus.search_vector(VECTOR_D, 99)],
    # All texts have this word once: LanceDB gives equal scores in any order.
    "words": lambda corpus: sorted(hit.id for hit in corpus.search_vector(VECTOR_D, 99, words="text")),
    "vectors": lambda corpus: [id_ for ids, _ in corpus.vectors() for id_ in ids],
    "length": len,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_corpus_that_was_asked_before_answers_as_one_that_is_opened_now(tmp_path, ask):
    write(tmp_path)
    make(tmp_path)
    corpus = open_corpus(tmp_path / "out")
    for years in (YEARS, [*YEARS, 2030], [1999], YEARS):
        write(tmp_path, years)
        make(tmp_path)
        assert ask(corpus) == ask(open_corpus(tmp_path / "out"))
    assert ask(corpus) == ask(corpus)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_corpus_of_other_vectors_since_it_was_opened_is_refused(tmp_path, ask):
    write(tmp_path)
    make(tmp_path)
    for asked_before in (False, True):
        corpus = open_corpus(tmp_path / "out")
        if asked_before:
            ask(corpus)
        (tmp_path / "out").rename(tmp_path / f"old-{asked_before}")
        make(tmp_path, FakeEncoder(recipe="classical"))
        with pytest.raises(errors.CorpusError, match=r"'echo' in the corpus and 'classical' here\. Open it again"):
            ask(corpus)
        shutil.rmtree(tmp_path / "out")
        (tmp_path / f"old-{asked_before}").rename(tmp_path / "out")


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_corpus_that_is_gone_since_it_was_opened_is_none(tmp_path, ask):
    write(tmp_path)
    make(tmp_path)
    corpus = open_corpus(tmp_path / "out")
    ask(corpus)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(errors.CorpusError, match="is not a corpus"):
        ask(corpus)


def test_a_corpus_is_not_open_while_its_first_build_runs_and_open_while_the_next_ones_do(tmp_path):
    class Watched(FakeEncoder):
        def encode(self, prompts):
            try:
                seen.append(len(open_corpus(tmp_path / "out").search_vector(VECTOR_D, 99)))
            except errors.CorpusError as error:
                seen.append(str(error))
            return super().encode(prompts)

    seen = []
    write(tmp_path)
    make(tmp_path, Watched())
    write(tmp_path, [*YEARS, 2030])
    make(tmp_path, Watched())
    assert "or still runs" in seen[0]
    assert seen[1] == len(YEARS)
    assert len(open_corpus(tmp_path / "out")) == len(YEARS) + 1


VALUES = {
    "dimension": 9,
    "kind": 7,
    "load": [1],
    "inputs": 5,
    "rejected": "none",
    "shards": [],
    "keep": [["year", "int"], ["year", "text"]],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_manifest_with_a_value_that_no_version_writes_is_damaged_and_repaired(tmp_path, name):
    write(tmp_path)
    make(tmp_path)
    for file in (notes.MANIFEST, notes.BACKUP):
        path = tmp_path / "out" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), name: VALUES[name]}))
    with pytest.raises(errors.CorpusError, match=f"is damaged: it is no manifest .its '{name}' is "):
        open_corpus(tmp_path / "out")
    make(tmp_path)
    assert len(open_corpus(tmp_path / "out")) == len(YEARS)


def test_a_shard_named_twice_or_with_other_rows_is_damage(tmp_path):
    write(tmp_path)
    make(tmp_path)
    path = tmp_path / "out" / notes.MANIFEST
    plain = json.loads(path.read_text())
    (tmp_path / "out" / notes.BACKUP).unlink()
    [shard] = plain["shards"]
    for shards in ([shard, shard], [{**shard, "rows": 99}]):
        path.write_text(json.dumps({**plain, "shards": shards}))
        with pytest.raises(errors.CorpusError, match="is damaged"):
            open_corpus(tmp_path / "out").search_vector(VECTOR_D, 1)
