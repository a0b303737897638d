"""Which data sets and pairs experiments use: all that a full run promises, and the same pairs as an evaluation."""

import json

import pytest

from echoembed import errors
from echoembed.experiments import selection

PAIRS = [{"sentence1": f"A cat, {n}.", "sentence2": f"A dog, {n}.", "score": n} for n in range(4)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def names(tasks):
    return [task.name for task in tasks]


def few(folder):
    return names(selection.few_tasks(selection.chosen_tasks(folder, quick=True, seed=1)))


def test_a_few_tasks_are_one_of_each_category_by_name_or_else_the_first(tmp_path):
    """Data without the set that is named for a category must not leave the category out."""
    for name in ("mine", "yours"):
        write(tmp_path / f"sts/{name}/test.jsonl", PAIRS)
    labelled = [{"text": str(n), "label": n % 2} for n in range(4)]
    for name in ("another", "trec"):
        write(tmp_path / f"classification/{name}/train.jsonl", labelled)
        write(tmp_path / f"classification/{name}/test.jsonl", labelled)
    write(tmp_path / "pair/couples/test.jsonl", [{**pair, "label": n % 2} for n, pair in enumerate(PAIRS)])
    assert few(tmp_path) == ["mine", "trec"]
    write(tmp_path / "sts/stsb/test.jsonl", PAIRS)
    assert few(tmp_path) == ["stsb", "trec"]


def test_where_no_category_has_a_few_tasks_all_are_used(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"pair/{name}/test.jsonl", [{**pair, "label": n % 2} for n, pair in enumerate(PAIRS)])
    assert few(tmp_path) == ["a", "b"]


def test_a_full_run_uses_every_long_text(tmp_path):
    labelled = [{"text": str(n), "label": n % 2} for n in range(4)]
    for split in ("train", "test"):
        write(tmp_path / f"classification/mine/{split}.jsonl", labelled)
    (task,) = selection.long_tasks(tmp_path, quick=False, seed=1)
    assert task.options == {}
    (task,) = selection.long_tasks(tmp_path, quick=True, seed=1)
    assert task.options["max_texts"] < 100


@pytest.mark.parametrize("line", ["[]", '"text"', "{", '{"a": 1, "a": 2}'])
def test_a_scored_row_that_is_no_object_is_told_with_file_and_line(tmp_path, line):
    write(tmp_path / "sts/mine/test.jsonl", [*PAIRS, line])
    with pytest.raises(errors.FileError, match=r"[Ll]ine 5 of .*sts/mine/test\.jsonl"):
        selection.judged_texts(tmp_path)


def test_only_strings_of_a_list_are_texts(tmp_path):
    write(tmp_path / "reranking/mine/test.jsonl", [{"query": "a", "positive": ["b", None, 3], "negative": [["c"]]}])
    assert selection.judged_texts(tmp_path) == {"a", "b"}


def test_pairs_are_those_of_an_evaluation_also_where_a_text_is_blank(tmp_path):
    from echoembed.evaluation.encoder import PLACEHOLDER

    blank = [{"sentence1": "\x01\x02", "sentence2": "A cow.", "score": 1.5}]
    blank += [{"sentence1": "  ", "sentence2": "A\x00 cow.", "score": 2.5}]
    write(tmp_path / "sts/mine/test.jsonl", [*PAIRS, *blank])
    (pairs,) = selection.sts_pairs(tmp_path, quick=True, seed=1)
    (task,) = selection.chosen_tasks(tmp_path, quick=True, seed=1)
    assert len(pairs.gold) == len(task.load().dataset["default"]["test"]) == 6
    assert pairs.first[-2:] == [PLACEHOLDER, PLACEHOLDER]
    assert pairs.second[-1] == "A cow."
