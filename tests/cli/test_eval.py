"""``echoembed eval`` from its command line."""

import json
import warnings

import pytest
from typer.testing import CliRunner

from echoembed.cli import app

SMALL = ["--layer", "2", "--budget", "24"]


@pytest.fixture(autouse=True)
def own_warnings():
    """The command line replaces how warnings are shown; not for other tests."""
    with warnings.catch_warnings():
        yield


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_json_has_a_row_per_recipe_and_task(made, tmp_path):
    recipes = ["-r", "echo", "--recipe", "classical"]
    result = run(*SMALL, *recipes, "--benchmark", "sts", "--benchmark", "couples", "--data", made, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["recipe"], row["task"], row["kind"], row["metric"]) for row in rows] == [
        ("echo", "made", "STS", "cosine_spearman"),
        ("echo", "couples", "PairClassification", "cosine_ap"),
        ("classical", "made", "STS", "cosine_spearman"),
        ("classical", "couples", "PairClassification", "cosine_ap"),
    ]
    assert all(-1 <= row["score"] <= 1 for row in rows)
    assert rows[0]["score"] != rows[2]["score"]
    assert "1/4 echo: made cosine_spearman" in result.stderr


def test_an_interrupted_run_goes_on(made, tmp_path):
    arguments = [*SMALL, "--data", made, "--out", tmp_path / "results"]
    run(*arguments, "-b", "sts")
    result = run(*arguments, "-b", "sts", "-b", "pair")
    assert result.exit_code == 0
    assert "(kept)" in result.stderr
    assert "1 of 2 scores are new" in result.stderr
    assert "PairClassification (1)" in result.stdout
    assert len(list((tmp_path / "results").rglob("*.json"))) == 2


def test_a_failing_task_is_told_at_the_end(made, tmp_path):
    for kind, text in (("sts", (made / "sts/made/test.jsonl").read_text()), ("pair", "{}\n")):
        (tmp_path / kind / kind).mkdir(parents=True)
        (tmp_path / kind / kind / "test.jsonl").write_text(text)
    result = run(*SMALL, "--data", tmp_path, "--json", "--quiet")
    assert result.exit_code == 1
    assert [row["task"] for row in json.loads(result.stdout)] == ["sts"]
    (said,) = result.stderr.splitlines()
    assert said.startswith("error: echo: 1 of 2 tasks failed (pair: DataError: line 1 of ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--recipe", "ecko", "--data", "DATA"], 1, "Did you mean 'echo"),
        (["--data", "DATA", "--benchmark", "coupels"], 1, "Did you mean 'couples'?"),
        (["--data", "/nowhere"], 1, "There is no folder '/nowhere'"),
        ([], 1, "Give one with --data"),
        (["one", "-m", "two", "--data", "DATA"], 2, "got two models"),
        (["--data", "DATA", "--max-texts", "0"], 2, "max-texts"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(arguments, code, said, made):
    result = run(*(made if argument == "DATA" else argument for argument in arguments))
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", "").split())
    assert result.stdout == ""
