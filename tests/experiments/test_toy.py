"""The toy grammar makes what section 3.1 asks for, and accuracy is the share it says it is."""

from pathlib import Path

import pytest

from echoembed import errors
from echoembed.experiments import figure2
from echoembed.experiments.toy import STRUCTURES, make_triples, read_triples, shared_words

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "toy.jsonl"
TRIPLES = make_triples(300, seed=42)
EARLY, LATE, PREFIX = STRUCTURES


def of(structure):
    return [triple for triple in TRIPLES if triple.structure == structure]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_there_are_300_different_triples_of_each_structure(structure):
    found = of(structure)
    assert len(found) == 300
    assert len({triple.query for triple in found}) == 300
    for triple in found:
        assert len({triple.query, triple.positive, triple.negative}) == 3


def test_a_seed_makes_the_same_triples_and_another_seed_others():
    assert make_triples(20, 7) == make_triples(20, 7)
    assert make_triples(20, 7) != make_triples(20, 8)


@pytest.mark.parametrize("triple", [of(name)[place] for name in STRUCTURES for place in (0, 150, 299)], ids=str)
def test_first_parts_are_what_the_sentences_begin_with(triple):
    for text, first in zip((triple.query, triple.positive, triple.negative), triple.firsts, strict=True):
        assert text.startswith(first + ", ")


def test_what_must_be_equal_is_equal_and_what_must_differ_differs():
    for triple in TRIPLES:
        query, positive, negative = triple.firsts
        rests = [
            text.removeprefix(first)
            for text, first in zip((triple.query, triple.positive, triple.negative), triple.firsts, strict=True)
        ]
        if triple.structure == EARLY:
            assert len({query, positive, negative}) == 3
            assert rests[0] == rests[2] != rests[1]
        else:
            assert query == negative
            assert len(set(rests)) == 3
            assert (positive == query) == (triple.structure == PREFIX)


def test_triples_of_a_file_know_the_prefix_they_share(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.write_text(
        '{"structure": "late_discriminatory_shared_prefix", "query": "He runs home, glad and warm", '
        '"positive": "He runs home, happy", "negative": "He runs home, but sad"}\n'
        '{"structure": "early_discriminatory", "query": "a b", "positive": "c b", "negative": "d b"}\n'
    )
    shared, early = read_triples(path)
    assert shared.firsts == ("He runs home",) * 3
    assert early.firsts is None


def test_a_file_with_an_unknown_structure_is_refused(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.write_text('{"structure": "middle", "query": "a", "positive": "b", "negative": "c"}\n')
    with pytest.raises(errors.DataError, match="line 1"):
        read_triples(path)


def test_shared_words_are_whole_words():
    assert shared_words(("the catalogue is old", "the cat is old", "the cat sat")) == "the"
    assert shared_words(("a b", "c d")) == ""


def test_the_papers_triples_are_read():
    if not SHARED.is_file():
        pytest.skip(f"the paper's triples are not at {SHARED}")
    triples = read_triples(SHARED)
    assert len(triples) == 28
    assert sum(triple.firsts is not None for triple in triples) >= 10


def test_accuracy_is_that_of_a_plain_loop():
    rows = [{"positive": p, "negative": n} for p, n in [(0.5, 0.4), (0.2, 0.9), (0.3, 0.3), (0.8, 0.1)]]
    right = 0
    for row in rows:
        if row["positive"] > row["negative"]:
            right += 1
    assert figure2.accuracy(rows) == right / len(rows) == 0.5


def test_the_tokens_of_a_first_part_are_those_it_shares_with_the_text():
    assert figure2.shared_tokens([5, 6, 7, 8], [5, 6]) == 2
    assert figure2.shared_tokens([5, 6, 7, 8], [5, 9]) == 1
    assert figure2.shared_tokens([5, 6], [9]) == 1


def test_a_blank_sentence_is_refused_with_its_line(tmp_path):
    path = tmp_path / "toy.jsonl"
    path.write_text('{"structure": "late_discriminatory", "query": " ", "positive": "b", "negative": "c"}\n')
    with pytest.raises(errors.DataError, match=r"line 1 of .*query = ' '.*not blank"):
        read_triples(path)
