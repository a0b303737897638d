"""The page: its pictures are of its numbers, its command makes it, and its facts are those of its rows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from echoembed.cli import app
from echoembed.cli.reproduce import _command
from echoembed.experiments import overview, reproduce
from echoembed.experiments.experiment import Experiment, Plan, Setting, Summary
from echoembed.experiments.report import write_report
from echoembed.experiments.reproduce import Result
from echoembed.experiments.results import write_rows


def made_up(name="copies", **changes):
    parts = {
        "plan": lambda bench: Plan(settings={"seed": bench.setting.seed}),
        "run": lambda bench, _: [{"number": bench.setting.seed}],
        "summary": lambda rows: Summary(["number"], [[str(rows[0]["number"])]]),
        "plot": lambda rows: rows[0]["number"],
    }
    return Experiment(name=name, title=name, source="nowhere", **{**parts, **changes})


def test_an_old_picture_never_stands_beside_new_numbers(tmp_path, monkeypatch):
    """Also if drawing was interrupted or failed, and if the numbers are then finished before."""

    def save(drawn, stem):
        if fails:
            raise KeyboardInterrupt
        paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
        for path in paths:
            path.write_text(str(drawn))
        return paths

    monkeypatch.setattr(reproduce.plots, "save", save)
    monkeypatch.setitem(reproduce.EXPERIMENTS, "copies", made_up())
    setting = Setting(out=tmp_path, seed=1)
    fails = False
    reproduce.reproduce(["copies"], setting)
    assert (tmp_path / "copies.png").read_text() == "1"
    fails = True
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(["copies"], replace(setting, seed=2))
    assert not list(tmp_path.glob("copies.*g"))
    fails = False
    (result,) = reproduce.reproduce(["copies"], replace(setting, seed=2))
    assert result.reused
    assert [path.read_text() for path in result.pictures] == ["2", "2"]


def test_fingerprints_are_those_of_the_rows_and_not_of_another_prompt_named_alike(tmp_path):
    """Figure 2 has a template of its own under the name echo, and a checkpoint may have been saved as echo."""

    def result(name, rows, **about):
        write_rows(tmp_path / f"{name}.parquet", rows, about)
        return Result(made_up(name), Summary(["a"], [["b"]]), {"key": "k", **about})

    row = {"model": "tiny", "recipe": "echo", "fingerprint": "of echo", "task": "one", "kind": "STS", "score": 0.5}
    models = {"models": ["tiny 0 float32 64"]}
    results = [
        result("copies", [row, {**row, "model": "other", "fingerprint": "of another model"}], **models),
        result("figure2", [{"model": "tiny"}], **models, recipes={"echo": "of figure 2"}),
        result("figure13", [{**row, "fingerprint": "of a checkpoint"}], recipes={}),
    ]
    write_report(tmp_path / "page.md", results, Setting(out=tmp_path, models=("tiny",)), "any")
    assert "| fingerprints | echo `of echo` |" in (tmp_path / "page.md").read_text()


def test_the_command_on_the_page_has_every_option_that_decides_a_number_and_no_path(tmp_path):
    plain = Setting(out=tmp_path)
    assert _command(["all"], plain) == "echoembed reproduce all"
    full = Setting(
        out=tmp_path,
        data=tmp_path,
        models=("owner/model", str(tmp_path / "mine"), "./file.gguf"),
        quick=False,
        whole_sts=True,
        seed=7,
        toy=tmp_path / "toy.jsonl",
        llm2vec=(Path("/a/b/runs/simcse/model"),),
        peers=False,
        further=(str(tmp_path / "peer"), "owner/peer"),
        splitter="owner/splitter",
        checkpoints=tmp_path / "checkpoints",
        scores=tmp_path / "scores",
        device="cpu",
        dtype="bfloat16",
        engine="padded",
        deterministic=True,
        batch_size=8,
    )
    command = _command(["figure2"], full)
    assert command == (
        "echoembed reproduce figure2 --full --whole-sts --data DATA -m owner/model -m mine -m file.gguf "
        "--llm2vec runs/simcse/model --no-peers --peer peer --peer owner/peer --splitter owner/splitter "
        "--toy toy.jsonl --checkpoints checkpoints --scores scores --seed 7 --device cpu --dtype bfloat16 "
        "--engine padded --batch-size 8 --deterministic"
    )
    filled = _command(["table5"], replace(plain, scores=tmp_path / "mteb"), mteb=True)
    assert filled == "echoembed reproduce table5 --mteb"


@pytest.mark.parametrize(
    ("echo", "classical", "verdict"),
    [((0.6, 0.62), (0.3, 0.32), "yes"), ((0.3, 0.32), (0.6, 0.62), "no"), ((0.3, 0.7), (0.35, 0.6), "uncertain")],
)
def test_the_verdict_on_prompts_has_the_same_rule_for_both_signs(echo, classical, verdict):
    rows = [
        {"model": "tiny", "method": f"{method} mean", "prompt": str(prompt), "score": score, "task": "one"}
        for method, scores in (("echo", echo), ("classical", classical))
        for prompt, score in enumerate(scores)
    ]
    (row,) = overview.overview({"figure3": rows}).rows
    assert row[-1] == verdict


def test_the_verdict_on_prompts_names_the_sets_on_which_it_does_not_hold():
    rows = [
        {
            "model": "tiny",
            "method": f"{method} mean",
            "prompt": str(prompt),
            "score": score + prompt / 100,
            "task": task,
        }
        for method, task, score in (
            ("echo", "a", 0.9),
            ("classical", "a", 0.3),
            ("echo", "b", 0.5),
            ("classical", "b", 0.5),
        )
        for prompt in range(3)
    ]
    (row,) = overview.overview({"figure3": rows}).rows
    assert row[-1] == "on average, but not on b"


def test_the_page_lists_the_sets_of_every_result_with_every_size(tmp_path):
    results = [
        Result(made_up(name), Summary(["a"], [["b"]]), {"key": "k", "tasks": tasks})
        for name, tasks in {
            "copies": {"stsb": ["1234567890", "('max_texts', 400)", "('sample_seed', 42)"]},
            "interval": {"stsb": ["1234567890"], "imdb": ["abcdefghij"]},
        }.items()
    ]
    write_report(tmp_path / "page.md", results, Setting(out=tmp_path, models=("tiny",)), "any")
    assert "| data | stsb `12345678` (at most 400 texts or all), imdb `abcdefgh` (all) |" in (
        tmp_path / "page.md"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("objective", "allowed"), [("contrastive", False), ("distil", False), ("simcse", True), ("mntp", True)]
)
@pytest.mark.parametrize("place", ["model", "models/step-3"])
def test_a_model_of_another_objective_is_not_called_llm2vec(tmp_path, objective, allowed, place):
    (tmp_path / "run" / place).mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": {"objective": objective}}))
    command = [
        "reproduce",
        "table3",
        "--llm2vec",
        str(tmp_path / "run" / place),
        "-o",
        str(tmp_path / "out"),
        "-m",
        "tiny",
    ]
    run = CliRunner().invoke(app, command)
    assert (run.exit_code == 0) == allowed
    assert allowed or f"that of this one was {objective}" in run.stderr


def test_folders_of_results_are_those_that_were_tried_and_a_mistake_leaves_none(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(reproduce, "reproduce", lambda _, setting, **__: seen.append(setting.out) or [])
    CliRunner().invoke(app, ["reproduce", "figure2", "-m", "tiny", "--out", "~/res"])
    assert seen == [tmp_path / "home" / "res"]
    assert seen[0].is_dir()
    run = CliRunner().invoke(app, ["reproduce", "figure2", "-m", "tiny", "--out", "new", "--report", "new/page.md"])
    assert run.exit_code == 0
    seen.clear()
    for _ in range(2):  # a name that no file can have, in a folder that is made, and in one that is there
        run = CliRunner().invoke(app, ["reproduce", "figure2", "--out", "new2", "--report", f"new2/{'x' * 300}"])
        assert "cannot be written: File name too long" in run.stderr
    assert not seen
    unknown = CliRunner().invoke(app, ["reproduce", "figure2", "-m", "tiny", "--out", "~nobody-at-all/x"])
    assert "RuntimeError" not in unknown.stderr
    for wrong in (["--data", "none"], ["--data", str(data), "-b", "nosuch"]):
        assert CliRunner().invoke(app, ["eval", "-m", "tiny", "--out", "sc", *wrong]).exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "new", "new2"]


def test_a_report_replaces_no_other_file_than_an_earlier_report(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: pytest.fail("begun"))
    toy, notes, page = tmp_path / "toy.jsonl", tmp_path / "notes.md", tmp_path / "page.md"
    for path, text in (
        (toy, "{}"),
        (notes, "# Results of mine"),
        (page, "# Results\n\nMade by `echoembed reproduce all`; old"),
    ):
        path.write_text(text)
    command = ["reproduce", "figure2", "-m", "tiny", "--toy", str(toy), "-o", str(tmp_path / "out"), "--report"]
    assert "is the input" in CliRunner().invoke(app, [*command, str(toy)]).stderr
    assert "is not a page of results" in CliRunner().invoke(app, [*command, str(notes)]).stderr
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: [])
    assert CliRunner().invoke(app, [*command, str(page)]).exit_code == 0
    assert (toy.read_text(), notes.read_text()) == ("{}", "# Results of mine")
    assert page.read_text("utf-8").startswith("# Results of the bundled model")


@pytest.mark.parametrize("verb", [["reproduce", "figure2"], ["eval", "-b", "sts"]])
def test_a_folder_of_results_that_cannot_be_made_is_refused_before_anything_is_computed(
    verb, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr("echoembed.cli.session.load", lambda *_, **__: pytest.fail("begun"))
    run = CliRunner().invoke(app, [*verb, "-m", "tiny", "--data", str(data), "--out", "/proc/none"])
    assert run.exit_code == 1
    assert "'/proc/none' cannot be written" in run.stderr
    assert "Choose a folder" in run.stderr


def test_scores_of_a_folder_are_not_dropped_for_those_of_mteb(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr("echoembed.experiments.mteb.run", lambda *_, **__: pytest.fail("begun"))
    run = CliRunner().invoke(app, ["reproduce", "table5", "--mteb", "--scores", str(tmp_path), "-o", str(tmp_path)])
    assert run.exit_code == 2
    assert "--scores" in run.stderr


def test_scores_into_a_file_are_refused_before_anything_is_scored(data, tmp_path, monkeypatch):
    monkeypatch.setattr("echoembed.cli.session.load", lambda *_, **__: pytest.fail("begun"))
    target = tmp_path / "scores.json"
    target.write_text(json.dumps({}))
    run = CliRunner().invoke(app, ["eval", "-m", "tiny", "--data", str(data), "--out", str(target)])
    assert run.exit_code == 1
    assert run.stderr.startswith("error: ")
    assert "scores.json" in run.stderr
