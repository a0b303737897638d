"""Keeping scores, failing tasks, names and errors."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

import echoembed
from echoembed import errors
from echoembed.evaluation import run
from echoembed.evaluation.benchmarks import MINI, MTEB, benchmark_tasks, find_tasks
from echoembed.evaluation.local import local_tasks
from echoembed.evaluation.run import evaluate
from echoembed.evaluation.store import Score, Store
from echoembed.evaluation.table import averages, columns, table_rows


@pytest.fixture
def small(tmp_path):
    """A folder with one small data set that a test may change."""
    path = tmp_path / "data/sts/small/test.jsonl"
    path.parent.mkdir(parents=True)
    rows = [("A cat sat.", "A dog sat.", 3), ("It rains.", "The tax is high.", 0), ("It rains.", "It is raining.", 5)]
    path.write_text("".join(json.dumps({"sentence1": a, "sentence2": b, "score": s}) + "\n" for a, b, s in rows))
    return tmp_path / "data"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def scored(model, folder, store, **options):
    return evaluate(model, local_tasks(folder, **options), store=store)[0]


def test_a_kept_score_is_not_made_again(model, small, store, monkeypatch):
    first = scored(model, small, store)
    assert not first.reused
    monkeypatch.setattr(model, "encode", None)
    again = scored(model, small, store)
    assert again.reused
    assert again == first
    assert store.all() == [first]


def test_a_file_per_model_recipe_and_task(model, small, store):
    score = scored(model, small, store)
    (path,) = store.folder.rglob("*.json")
    fingerprint = echoembed.fingerprint(model)
    assert path.name == "small.json"
    assert path.parent.name == f"echo-{fingerprint[:8]}"
    saved = json.loads(path.read_text())
    assert saved["fingerprint"] == fingerprint == score.fingerprint
    assert saved["details"]["versions"]["mteb"]
    assert saved["details"]["seconds"] > 0
    assert saved["identity"]["seed"] == 42


def test_another_model_is_never_given_this_ones_score(model, small, store):
    other = echoembed.load("tiny", recipe="echo", budget=25, layer=2)
    one, two = scored(model, small, store), scored(other, small, store)
    assert not two.reused
    assert one.fingerprint != two.fingerprint
    assert len(list(store.folder.rglob("*.json"))) == 2


@pytest.mark.parametrize("change", ["data", "metrics", "fingerprint", "sample"])
def test_a_score_under_another_identity_is_made_again(change, model, small, store, monkeypatch):
    scored(model, small, store)
    (path,) = store.folder.rglob("*.json")
    options = {}
    if change == "data":
        file = small / "sts/small/test.jsonl"
        file.write_text(file.read_text().replace("A cat sat.", "A cow sat."))
    elif change == "metrics":
        monkeypatch.setattr(run, "METRICS_VERSION", 0)
    elif change == "fingerprint":
        path.write_text(path.read_text().replace(echoembed.fingerprint(model), "0" * 16))
    else:
        options = {"max_texts": 1000}
    assert not scored(model, small, store, **options).reused


@pytest.mark.parametrize("content", ["", "{", "[]", '{"score": 1}'])
def test_a_broken_file_is_made_again(content, model, small, store):
    scored(model, small, store)
    (path,) = store.folder.rglob("*.json")
    path.write_text(content)
    assert store.all() == []
    assert not scored(model, small, store).reused
    assert scored(model, small, store).reused


def test_a_score_is_written_whole_or_not_at_all(model, small, store, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.FileError, match="No space left"):
        scored(model, small, store)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_a_failing_task_does_not_lose_the_others(model, made, small, store):
    def fails():
        raise RuntimeError("out of luck")

    good = local_tasks(made, ["sts", "pair"])
    bad = replace(good[0], name="bad", load=fails)
    with pytest.raises(
        errors.EvaluationError, match=r"1 of 3 tasks failed \(bad: RuntimeError: out of luck\)"
    ) as caught:
        evaluate(model, [good[0], bad, good[1]], store=store)
    assert [score.task for score in caught.value.scores] == ["made", "couples"]
    assert list(caught.value.failures) == ["bad"]
    assert len(store.all()) == 2


def test_an_interruption_keeps_what_is_done(model, made, store):
    def interrupted():
        raise KeyboardInterrupt

    tasks = local_tasks(made, ["sts", "pair"])
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, [tasks[0], replace(tasks[1], load=interrupted)], store=store)
    assert [score.reused for score in evaluate(model, tasks, store=store)] == [True, False]


def test_progress_is_told_of_every_task(model, made):
    told = []

    class Told:
        def start(self, task):
            told.append(("start", task.name))

        def advance(self, characters):
            assert characters > 0
            told.append("advance")

        def finish(self, task, score):
            told.append(("finish", task.name, score is not None))

    evaluate(model, local_tasks(made, ["sts"]), progress=Told())
    assert told[0] == ("start", "made")
    assert told[-1] == ("finish", "made", True)
    assert "advance" in told


def test_names_of_tasks(made):
    assert [task.name for task in find_tasks(["pair", "sts/made", "made"], folder=made)] == ["couples", "made"]
    assert len(find_tasks(["local"], folder=made)) == 6
    assert len(find_tasks([MTEB])) == 56
    assert len(find_tasks([MINI])) == len(set(benchmark_tasks(MINI))) == 26
    assert [task.kind for task in find_tasks(["STS12", "SciFact"])] == ["STS", "Retrieval"]
    kinds = [task.kind for task in benchmark_tasks(MTEB)]
    assert [kinds.count(kind) for kind in ("Classification", "Clustering", "PairClassification", "Reranking")] == [
        12,
        11,
        3,
        4,
    ]
    assert [kinds.count(kind) for kind in ("Retrieval", "STS", "Summarization")] == [15, 10, 1]


def test_of_two_data_sets_of_one_name_the_kind_says_which(tmp_path):
    for kind in ("sts", "pair"):
        (tmp_path / kind / "same").mkdir(parents=True)
        (tmp_path / kind / "same/test.jsonl").write_text("{}\n")
    assert [task.name for task in local_tasks(tmp_path)] == ["sts/same", "pair/same"]
    assert len(local_tasks(tmp_path, ["pair/same"])) == 1


def test_errors_of_names(made, tmp_path):
    with pytest.raises(errors.EvaluationError, match=r"no task 'mad'.*Did you mean 'made'"):
        find_tasks(["mad"], folder=made)
    with pytest.raises(errors.EvaluationError, match=r"no task 'STS112'.*Did you mean 'STS12'"):
        find_tasks(["STS112"])
    with pytest.raises(errors.EvaluationError, match=r"no task 'mteb-min'.*Did you mean 'mteb-mini'"):
        find_tasks(["mteb-min"])
    with pytest.raises(errors.EvaluationError, match="max-texts"):
        find_tasks(["STS12"], max_texts=5)
    with pytest.raises(errors.EvaluationError, match="max_texts = 0"):
        local_tasks(made, max_texts=0)
    with pytest.raises(errors.DataError, match="--data"):
        find_tasks(["local"])
    with pytest.raises(errors.DataError, match=f"no folder '{tmp_path}/none'"):
        local_tasks(tmp_path / "none")
    with pytest.raises(errors.DataError, match=r"Found no data set in .*looked for KIND/NAME/"):
        local_tasks(tmp_path)


def test_a_data_set_without_its_files_says_where_it_was_looked_for(tmp_path):
    folder = tmp_path / "classification/half"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(errors.DataError, match=rf"'half' lacks a file: looked in '{folder}' for train.jsonl and test"):
        local_tasks(tmp_path)


@pytest.mark.parametrize(
    ("kind", "line", "said"),
    [
        ("sts", "{", "line 2 of {path} is no JSON"),
        ("sts", "[1]", "line 2 of {path} is no JSON object"),
        ("sts", '{"sentence1": "a", "sentence2": "b"}', "line 2 of {path} has no 'score'; it has sentence1, sentence2"),
        (
            "sts",
            '{"sentence1": "a", "sentence2": 3, "score": 1}',
            "line 2 of {path} has sentence2 = 3. It must be a string",
        ),
        ("sts", '{"sentence1": "a", "sentence2": "b", "score": NaN}', "score = nan. It must be a finite number"),
        ("sts", f'{{"sentence1": "a", "sentence2": "b", "score": 1{"0" * 400}}}', "It must be a finite number"),
        ("pair", '{"sentence1": "a", "sentence2": "b", "label": 2}', "label = 2. It must be 0 or 1"),
        ("clustering", '{"text": "a", "label": null}', "label = None. It must be a string or a whole number"),
        ("reranking", '{"query": "a", "positive": [], "negative": ["b"]}', "It must be a list of at least one string"),
    ],
)
def test_malformed_rows_name_file_and_line(kind, line, said, model, made, tmp_path):
    good = {
        "sts": {"sentence1": "a", "sentence2": "b", "score": 1},
        "pair": {"sentence1": "a", "sentence2": "b", "label": 1},
        "clustering": {"text": "a", "label": "x"},
        "reranking": {"query": "a", "positive": ["b"], "negative": ["c"]},
    }
    path = tmp_path / kind / "bad/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(f"{json.dumps(good[kind])}\n{line}\n")
    with pytest.raises(errors.EvaluationError) as caught:
        evaluate(model, [*local_tasks(tmp_path), *local_tasks(made, ["sts"])])
    assert said.format(path=path) in str(caught.value)
    assert len(caught.value.scores) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q0\td1", "It must be query-id, corpus-id and score, with tabs between"),
        ("q99\td1\t1", "query-id = 'q99'. It must be the _id of one of the 6 rows there"),
        ("q0\td999\t1", "corpus-id = 'd999'"),
        ("q0\td1\tgood", "score = 'good'. It must be a whole number"),
    ],
)
def test_malformed_judgements_name_file_and_line(line, said, made, tmp_path):
    import shutil

    shutil.copytree(made / "retrieval", tmp_path / "retrieval")
    path = tmp_path / "retrieval/made_ir/qrels/test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq0\td0\t1\n{line}\n")
    with pytest.raises(errors.DataError) as caught:
        local_tasks(tmp_path)[0].load()
    assert str(caught.value).startswith(f"line 3 of {path} has ")
    assert said in str(caught.value)


@pytest.mark.parametrize("score", [1, 2])
def test_data_that_can_show_nothing_are_refused(score, tmp_path):
    path = tmp_path / "sts/flat/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(f'{{"sentence1": "a", "sentence2": "b", "score": {score}}}\n' * 3)
    with pytest.raises(errors.DataError, match=f"all 3 pairs have the score {score}"):
        local_tasks(tmp_path)[0].load()


def score(task, kind, value, recipe="echo", fingerprint="f" * 16):
    return Score(
        model="m", recipe=recipe, fingerprint=fingerprint, task=task, kind=kind, metric="x", score=value, identity={}
    )


def test_averages_are_those_of_tasks_and_of_categories():
    means = averages([score("a", "STS", 0.2), score("b", "STS", 0.4), score("c", "Classification", 0.9)])
    assert list(means.kinds) == ["Classification", "STS"]
    assert means.kinds["STS"] == pytest.approx(0.3)
    assert means.tasks == pytest.approx(0.5)
    assert means.categories == pytest.approx(0.6)


def test_table_has_categories_in_the_papers_order_and_marks_partial_means():
    scores = [score("b", "STS", 0.4), score("c", "Classification", 0.9), score("b", "STS", 0.5, "classical")]
    assert list(columns(scores)) == ["echo", "classical"]
    assert table_rows(scores) == [
        ["Classification (1)", "mean", "90.00", "-"],
        ["  c", "x", "90.00", "-"],
        ["STS (1)", "mean", "40.00", "50.00"],
        ["  b", "x", "40.00", "50.00"],
        ["All tasks (2)", "mean", "65.00", "50.00*"],
        ["All categories (2)", "mean", "65.00", "50.00*"],
    ]


def test_recipes_of_one_name_are_told_apart():
    assert list(columns([score("a", "STS", 1), score("a", "STS", 0, fingerprint="0" * 16)])) == [
        "echo ffff",
        "echo 0000",
    ]


def test_names_cannot_leave_the_folder(tmp_path):
    store = Store(tmp_path)
    path = store.path("../../x/Y", "re/cipe", {"fingerprint": "0" * 16, "task": "../t"})
    assert path.resolve().is_relative_to(tmp_path)
    assert len(path.relative_to(tmp_path).parts) == 3
    assert Path(store.path("org/name", "echo", {"fingerprint": "0" * 16, "task": "t"})).parts[-3] == "org_name"
