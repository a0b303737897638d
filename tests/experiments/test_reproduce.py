"""Every experiment runs and draws on small data, is not run again, and is run again when what decides it changes."""

import json
import re
import resource
import shutil
import warnings
from ast import literal_eval
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import echoembed
from echoembed import errors, plots
from echoembed.cli import app
from echoembed.evaluation import peers
from echoembed.evaluation.store import Score, Store
from echoembed.experiments import copies, cost, figure2, figure3, figure4, figure13, interval, reproduce, selection
from echoembed.experiments.experiment import Bench, Plan, Setting, planned_work
from echoembed.experiments.interval import difference
from echoembed.experiments.paper import paper_table
from echoembed.experiments.report import write_report
from echoembed.experiments.results import read_rows
from echoembed.progress import Work, shown_time
from echoembed.recipe import recipes

NOT_RUN = {"figure5", "figure13"}


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure2, "_PER_STRUCTURE", {True: 3, False: 3})
        patch.setattr(figure3, "_LISTED", 1)
        patch.setattr(figure3, "_SAMPLED", 1)
        patch.setattr(figure4, "BUDGETS", (4, 8))
        patch.setattr(interval, "DRAWS", 20)
        patch.setattr(cost, "TEXTS", 4)
        patch.setattr(cost, "ROUNDS", 1)
        patch.setattr(peers, "find_spec", lambda _: None)
        yield


@pytest.fixture(scope="module")
def setting(data, tmp_path_factory):
    return Setting(out=tmp_path_factory.mktemp("out"), data=data, models=("tiny",))


@pytest.fixture(scope="module")
def results(setting):
    said = []
    found = {result.experiment.name: result for result in reproduce.reproduce(["all"], setting, say=said.append)}
    assert any("table1" in line for line in said)
    return found


@pytest.mark.parametrize("name", sorted(set(reproduce.EXPERIMENTS) - NOT_RUN))
def test_every_experiment_keeps_rows_and_draws(results, setting, name):
    result = results[name]
    assert result.error is None
    assert not result.missing
    rows, about = read_rows(setting.out / f"{name}.parquet")
    assert len(rows) == pq.read_table(setting.out / f"{name}.parquet").num_rows > 0
    assert {"key", "machine", "versions", "seed", "seconds"} <= set(about)
    assert (setting.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (setting.out / f"{name}.svg").read_text()
    assert all(len(row) == len(result.summary.columns) for row in result.summary.rows)
    assert result.summary.notes


@pytest.mark.parametrize("name", sorted(set(reproduce.EXPERIMENTS) - NOT_RUN))
def test_every_experiment_names_each_set_that_it_used_and_how_much_of_it(results, name):
    tasks = results[name].about["tasks"]
    line = next((note for note in results[name].summary.notes if "Sets: " in note), "")
    said = re.findall(r"(all|at most [\d,]+ texts) of (?:each of )?([^;.]+)", line.partition("Sets: ")[2])
    assert {set_: size for size, sets in said for set_ in sets.split(", ")} == {
        name: f"at most {dict(map(literal_eval, options))['max_texts']} texts" if options else "all"
        for name, (_, *options) in tasks.items()
    }


@pytest.mark.parametrize("name", ["interval", "figure6", "layers"])
def test_an_experiment_on_sts_alone_does_all_the_work_that_it_announced(setting, tmp_path, name):
    bench = Bench(replace(setting, out=tmp_path, models=("tiny", "tiny")))
    done = []
    bench.progress.done = lambda work, _: done.append(work)
    experiment = reproduce.EXPERIMENTS[name]
    plan = experiment.plan(bench)
    experiment.run(bench, plan)
    assert sum(done) == pytest.approx(planned_work(plan))
    assert len(done) > 1


@pytest.mark.parametrize("name", sorted(NOT_RUN))
def test_what_cannot_run_says_what_it_needs(results, name):
    assert "--checkpoints" in results[name].missing


def test_what_is_finished_is_not_run_again(results, setting, monkeypatch):
    def never(*_, **__):
        raise AssertionError("run again")

    monkeypatch.setattr("echoembed.experiments.experiment.evaluate", never)
    monkeypatch.setattr("echoembed.evaluation.cache.VectorCache.encode", never)
    monkeypatch.setattr("echoembed.experiments.figure2.token_vectors", never)
    again = reproduce.reproduce(["all"], setting)
    assert all(result.reused for result in again if not result.missing)
    assert [result.summary for result in again if result.summary] == [
        result.summary for result in results.values() if result.summary
    ]


def test_a_changed_recipe_is_run_again(results, setting, monkeypatch):
    changed = {**copies.TEMPLATES, 2: "{bos}Again: {text} {text:pool}"}
    monkeypatch.setattr(copies, "TEMPLATES", changed)
    (result,) = reproduce.reproduce(["copies"], setting)
    assert not result.reused
    assert result.about["key"] != results["copies"].about["key"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"dtype": "bfloat16"}], ids=str)
def test_another_seed_or_other_weights_are_run_again(results, setting, change):
    (result,) = reproduce.reproduce(["figure2"], replace(setting, **change))
    assert not result.reused
    (back,) = reproduce.reproduce(["figure2"], setting)
    assert back.about["key"] == results["figure2"].about["key"]


def test_another_data_set_is_run_again(results, setting, data, tmp_path):
    path = tmp_path / "sts" / "one" / "test.jsonl"
    path.parent.mkdir(parents=True)
    lines = (data / "sts/one/test.jsonl").read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    (result,) = reproduce.reproduce(["interval"], replace(setting, data=tmp_path))
    assert not result.reused


def test_scores_are_those_of_a_model_loaded_by_itself(setting, results):
    from echoembed.evaluation.local import local_tasks
    from echoembed.evaluation.run import evaluate

    rows, _ = read_rows(setting.out / "table1.parquet")
    (expected,) = evaluate(echoembed.load("tiny", recipe="echo"), local_tasks(setting.data, ["sts/one"]))
    (row,) = [row for row in rows if (row["recipe"], row["task"]) == ("echo", "one")]
    assert row["score"] == pytest.approx(expected.score, abs=1e-4)
    assert row["fingerprint"] == expected.fingerprint


def test_the_experiment_that_fails_stops_no_other(setting, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no")

    broken = replace(copies.EXPERIMENT, run=fail)
    monkeypatch.setitem(reproduce.EXPERIMENTS, "copies", broken)
    found = reproduce.reproduce(["copies", "table5"], replace(setting, out=tmp_path))
    assert isinstance(found[0].error, ValueError)
    assert found[1].summary is not None


def test_without_data_an_experiment_that_needs_them_says_so(tmp_path):
    (result,) = reproduce.reproduce(["table1"], Setting(out=tmp_path))
    assert "--data" in result.missing


def test_a_later_figure_of_the_paper_is_found_by_its_name():
    assert [found.name for found in reproduce.find_experiments(["figure9", "figure3"])] == ["figure3"]
    with pytest.raises(errors.ExperimentError, match="figure2"):
        reproduce.find_experiments(["figure22"])


def test_scores_of_several_models_are_rows_of_their_own(tmp_path):
    def keep(folder, recipe, fingerprint, score):
        Store(tmp_path / "kept" / folder).save(
            Score(
                model="m",
                recipe=recipe,
                fingerprint=fingerprint,
                metric="accuracy",
                task="trec",
                kind="Classification",
                score=score,
                identity={"fingerprint": fingerprint, "task": "trec"},
            )
        )

    keep("mine, mean", "echo", "a" * 16, 0.5)
    keep("mine, last", "echo", "b" * 16, 0.25)
    keep("", "classical", "c" * 16, 0.1)
    keep("", "classical", "d" * 16, 0.2)
    (result,) = reproduce.reproduce(["table5"], Setting(out=tmp_path / "out", scores=tmp_path / "kept"))
    ours = {row[0]: row[2] for row in result.summary.rows if row[1] == "ours"}
    assert ours == {
        "mine, mean, m": "50.00",
        "mine, last, m": "25.00",
        f"classical {'c' * 8}, m": "10.00",
        f"classical {'d' * 8}, m": "20.00",
    }


def test_figure_5_reads_each_model_under_its_own_recipe_at_every_budget(setting, data, tmp_path, monkeypatch):
    from echoembed.evaluation.run import evaluate

    monkeypatch.setattr(figure4, "QUICK_BUDGETS", (4, 8))
    template = "{bos}Say: {text}\nAgain: {text:pool}"
    twice = replace(recipes["echo"], name="any", query_template=template, document_template="", trained=True)
    echoembed.save(echoembed.load("tiny", recipe=twice), tmp_path / "models" / "echo")
    echoembed.save(echoembed.load("tiny", recipe="classical"), tmp_path / "models" / "my classical")
    changed = replace(setting, out=tmp_path, checkpoints=tmp_path / "models")
    with warnings.catch_warnings():
        warnings.simplefilter("error", echoembed.RecipeWarning)  # as it would be under another recipe
        (result,) = reproduce.reproduce(["figure5"], changed)
    assert result.error is None
    assert [row[0] for row in result.summary.rows] == ["echo", "my classical"]  # a folder's name is no recipe
    rows, _ = read_rows(tmp_path / "figure5.parquet")
    tasks = selection.long_tasks(data, quick=True, seed=setting.seed)
    model = echoembed.load(tmp_path / "models" / "echo", budget=4, overflow="ignore")
    for expected in evaluate(model, tasks):
        (row,) = [row for row in rows if (row["method"], row["budget"], row["task"]) == ("echo", 8, expected.task)]
        assert row["score"] == pytest.approx(expected.score, abs=2e-3)


def test_checkpoints_are_scored_in_order_of_steps(setting, data, tmp_path):
    shutil.copytree(data / "sts/one", tmp_path / "data/sts/one")
    model = echoembed.load("tiny", recipe="classical")
    for step in (20, 3):
        echoembed.save(model, tmp_path / "run" / f"step-{step}")
    (result,) = reproduce.reproduce(
        ["figure13"], replace(setting, out=tmp_path, data=tmp_path / "data", checkpoints=tmp_path / "run")
    )
    assert result.error is None
    assert [row[0] for row in result.summary.rows] == ["3", "20"]


def test_layers_cost_what_they_run(results, setting):
    rows, _ = read_rows(setting.out / "layers.parquet")
    costs = {(row["method"], row["layer"]): row["cost"] for row in rows}
    last = max(layer for _, layer in costs)
    assert costs["classical", last] == 1
    assert costs["echo", last] == 2
    assert costs["echo", 0] == 0


def test_sentences_of_the_data_stay_out_of_the_rows(results, setting):
    rows, _ = read_rows(setting.out / "figure6.parquet")
    assert not any("cat" in str(value) for row in rows for value in row.values())
    kept = json.loads((setting.out / "table11" / "one.json").read_text())
    assert set(kept) == {"most improved", "least improved"}


def test_the_bootstrap_difference_is_one_of_correlations():
    gold = np.asarray([1.0, 2, 3, 4])
    assert difference(gold, -gold, gold) == pytest.approx(2)


def test_the_papers_numbers_are_there():
    assert paper_table("table1").find(system="Echo (Ours)")["sts"] == 73.74
    assert len(paper_table("table18").rows) == 56
    assert paper_table("table4").model == "Mistral-7B-Instruct-v0.1"


def test_the_report_holds_every_experiment_and_its_picture(results, setting, tmp_path):
    page = tmp_path / "docs" / "results.md"
    write_report(page, list(results.values()), setting, "echoembed reproduce all")
    text = page.read_text()
    assert all(f"## {name}: " in text for name in reproduce.EXPERIMENTS)
    assert "a few million parameters" in text
    assert "**Echo minus classical on STS" in text
    assert str(setting.data) not in text
    assert (tmp_path / "docs/pictures/results/table1.png").is_file()
    assert "Not run: needs --checkpoints" in text


def test_a_page_that_the_disk_does_not_take_leaves_the_old_one_whole(setting, tmp_path):
    page = tmp_path / "results.md"
    page.write_text("the old page")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))  # the system itself refuses to let a file grow further
    try:
        with pytest.raises(errors.FileError, match="File too large"):
            write_report(page, [], setting, "echoembed reproduce all")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert page.read_text() == "the old page"
    assert not list(tmp_path.rglob("*.part"))


def test_the_command_line_prints_ours_and_the_papers(results, setting):
    arguments = ["reproduce", "table4", "--data", str(setting.data), "--out", str(setting.out)]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert "48.64" in run.stdout
    assert "Mistral-7B" in run.stdout
    as_json = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--quiet"]).stdout)
    assert as_json[0]["reused"] is True


def test_an_unknown_experiment_is_an_error_line(tmp_path):
    run = CliRunner().invoke(app, ["reproduce", "table99", "--out", str(tmp_path)])
    assert run.exit_code == 1
    assert run.stderr.startswith("error: Got experiment 'table99'")


def test_progress_says_what_is_left(monkeypatch):
    said = []
    now = [0.0]
    monkeypatch.setattr("echoembed.progress.time.monotonic", lambda: now[0])
    progress = Work(said.append)
    progress.expect(10)
    now[0] = 60.0
    progress.done(5, "half")
    assert said == [" 50 %  half, about 1 min 0 s left"]
    assert shown_time(7300) == "2 h 1 min"


def test_models_of_a_plan_are_part_of_the_key(setting):
    bench = Bench(setting)
    experiment = copies.EXPERIMENT
    assert bench.key(experiment, Plan())["key"] != bench.key(experiment, Plan(models=("tiny",)))["key"]


def _score(folder, score=0.5, task="STS12", fingerprint="a" * 16, max_texts=None):
    identity = {"task": task, "fingerprint": fingerprint, "max_texts": max_texts}
    names = {"model": "m", "recipe": "mine", "fingerprint": fingerprint, "task": task, "kind": "STS", "metric": "s"}
    return Store(folder).save(Score(**names, score=score, identity=identity))


def test_a_task_scored_whole_and_on_a_sample_counts_once(tmp_path):
    _score(tmp_path / "scores", 0.9)
    _score(tmp_path / "scores", 0.1, max_texts=100)
    _score(tmp_path / "scores", 0.2, task="STS13", max_texts=50)
    _score(tmp_path / "scores", 0.7, task="STS13", max_texts=100)
    (result,) = reproduce.reproduce(["table5"], Setting(out=tmp_path, scores=tmp_path / "scores"))
    assert result.summary is not None
    (line,) = [row for row in result.summary.rows if row[1] == "ours"]
    assert line[2 + list(paper_table("table5").rows[0]).index("sts") - 1] == "80.00"


@pytest.mark.parametrize("change", [{"score": "high"}, {"score": None}, {"kind": 5}, {"identity": 1}, {"task": ["a"]}])
def test_a_file_that_is_no_score_is_ignored(tmp_path, change):
    path = _score(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert Store(tmp_path).all() == []


@pytest.mark.parametrize("option", ["--checkpoints", "--scores", "--llm2vec", "--data", "--out"])
def test_a_folder_that_is_none_is_refused_before_anything_is_computed(tmp_path, option, monkeypatch):
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: pytest.fail("begun"))
    (tmp_path / "file").write_text("")
    run = CliRunner().invoke(app, ["reproduce", "figure2", "-m", "tiny", option, str(tmp_path / "file")])
    assert run.exit_code == 1
    assert run.stderr.startswith("error: ")
    assert str(tmp_path / "file") in run.stderr


def test_two_checkpoints_of_the_same_step_are_refused(tmp_path):
    for name in ("step-2", "step-10", "other-2"):
        (tmp_path / name).mkdir()
    with pytest.raises(errors.ExperimentError, match="'other-2' and 'step-2'"):
        figure13.checkpoints(tmp_path)


@pytest.mark.parametrize("scores", [[1.0] * 8, [2.0]])
def test_pairs_with_one_score_say_nothing(tmp_path, scores):
    """A correlation of 0, with an interval of no width, would look like a result."""
    path = tmp_path / "sts/mine/test.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": score} for n, score in enumerate(scores)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(errors.DataError, match=r"Nothing can be scored on .*mine"):
        selection.sts_pairs(tmp_path, quick=False, seed=1)


def test_a_picture_is_whole_or_the_one_before(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn, _ = plots.figure("A picture of $x$_{")
    paths = plots.save(drawn, tmp_path / "a")
    before = [path.read_bytes() for path in paths]
    assert before[0][:4] == b"\x89PNG"
    assert b"<svg" in before[1]

    def fail(_self, target, **_):
        target.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(errors.FileError, match="No space left"):
        plots.save(drawn, tmp_path / "a")
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)
