"""mteb's own tasks, with data put in where mteb would fetch them."""

import pytest

from echoembed.evaluation import benchmarks
from echoembed.evaluation.benchmarks import find_tasks
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate


def with_data(task, data):
    task.dataset, task.data_loaded = {"default": data}, True


def test_a_task_of_mteb_scores_as_the_same_data_from_a_file(model, made):
    (local,), (task,) = local_tasks(made, ["sts"]), find_tasks(["STS12"])
    with_data(task.load(), local.load().dataset["default"])
    theirs, ours = evaluate(model, [task, local])
    assert theirs.metric == "cosine_spearman"
    assert theirs.score == pytest.approx(ours.score, abs=1e-6)
    assert theirs.identity["data"].startswith("mteb/sts12-sts@")
    assert task.load().dataset is None, "data are let go of when a task is done"


def test_a_task_of_several_parts_scores_their_mean(model, made):
    (local,), (task,) = local_tasks(made, ["retrieval"]), find_tasks(["CQADupstackRetrieval"])
    for part in task.load().tasks:
        with_data(part, local.load().dataset["default"])
    theirs, ours = evaluate(model, [task, local])
    assert theirs.kind == "Retrieval"
    assert theirs.score == pytest.approx(ours.score, abs=1e-6)
    assert theirs.identity["data"].count("@") == 13


def test_a_task_whose_data_cannot_be_fetched_is_told(model):
    from echoembed import errors

    with pytest.raises(errors.EvaluationError, match=r"1 of 1 tasks failed \(SciFact: "):
        evaluate(model, find_tasks(["SciFact"]))


def test_no_task_of_mteb_is_taken_for_a_wrong_name_before_mteb_is_imported():
    import mteb

    names = [task.metadata.name for task in mteb.get_tasks(languages=["eng"])]
    benchmarks._check_names(names[::15], {})
    assert len(names) > 300
