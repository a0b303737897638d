"""Rows of retrieval data: what is there twice is refused with its place, as one of the two would be lost."""

import json

import pytest

from echoembed import errors
from echoembed.evaluation.rows import read_qrels
from echoembed.experiments import selection


@pytest.fixture
def folder(tmp_path):
    """A retrieval set of two queries and two passages."""
    root = tmp_path / "retrieval" / "small"
    (root / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        rows = [{"_id": f"{name[0]}{number}", "text": f"text {number}"} for number in (1, 2)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tc1\t1\n")
    return root


def by_eval(folder):
    from echoembed.evaluation.mteb_tasks import BUILDERS

    return BUILDERS["retrieval"](
        [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels/test.tsv"], None, 1
    )


def by_experiments(folder):
    return selection.searches(folder.parents[1])


@pytest.mark.parametrize("name", ["corpus", "queries"])
@pytest.mark.parametrize("read", [by_eval, by_experiments])
def test_an_id_that_two_rows_have_is_refused_with_both_lines(folder, name, read):
    path = folder / f"{name}.jsonl"
    path.write_text(path.read_text() + "\n" + json.dumps({"_id": f"{name[0]}1", "text": "another text"}) + "\n")
    with pytest.raises(errors.DataError, match=rf"line 4 of .*{name}\.jsonl has _id = '{name[0]}1'.* line 1 has it"):
        read(folder)


def judged(folder, *lines):
    path = folder / "qrels/test.tsv"
    path.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return read_qrels(path, {"query-id": {"q1": ""}, "corpus-id": {"c1": "", "c2": ""}})


def test_a_pair_with_two_grades_is_refused_with_both_lines_and_a_grade_twice_is_one(folder):
    assert judged(folder, "q1\tc1\t1", "q1\tc1\t1") == {"q1": {"c1": 1}}
    with pytest.raises(errors.DataError, match=r"line 3 of .*test\.tsv has score = 2.* 1, which line 2 gives"):
        judged(folder, "q1\tc1\t1", "q1\tc1\t2")


@pytest.mark.parametrize("grade", ["²", "--1", "1-", "-", "9" * 5000])
def test_a_grade_that_is_no_whole_number_is_refused_with_its_line(folder, grade):
    with pytest.raises(errors.DataError, match=r"line 3 of .*test\.tsv has score = .*whole number"):
        judged(folder, "q1\tc1\t-1", f"q1\tc2\t{grade}")
