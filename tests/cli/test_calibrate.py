"""``echoembed calibrate`` saves what ``echoembed.calibrate`` gives, and nothing where something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import echoembed
from echoembed.cli import app
from echoembed.model.calibrate import sentences
from echoembed.model.moments import Moments, map_of
from loaded import TEXTS

FITTED_ON = [text for text in sentences() if len(text) < 200][:40]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"body": text} for text in FITTED_ON] + [{"body": " "}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*args, code=0):
        result = CliRunner().invoke(app, ["calibrate", *map(str, args)])
        assert result.exit_code == code, result.output
        return result

    return run


def test_the_folder_holds_the_calibrated_model(run):
    told = run("tiny", "texts.jsonl", "--column", "body", "--on-bad-text", "skip", "-o", "model", "-r", "classical")
    assert "calibrated (z-score) on 40 texts in " in told.stderr
    assert "left out 1 of 41 texts" in told.stderr
    expected = echoembed.calibrate(echoembed.load("tiny", recipe="classical"), FITTED_ON)
    found = echoembed.load("model")
    assert np.array_equal(found.encode(TEXTS), expected.encode(TEXTS))
    assert found[0].recipe.name == "classical"


def test_nothing_is_left_where_something_is_wrong(run, tmp_path):
    for args, problem in (
        (["texts.jsonl", "--column", "body"], "line 41 of texts.jsonl"),
        (["-t", "one"], "was to be fitted on 1 texts"),
        (["-t", "one", "--calibration", "max"], "has calibration = 'max'"),
        (["-t", "one", "--dtype", "int8"], "Got dtype = 'int8'"),
    ):
        assert problem in run("tiny", *args, "-o", "model", code=1).stderr
        assert not (tmp_path / "model").exists()
    (tmp_path / "model").mkdir()
    assert "exists already" in run("tiny", "-t", "one", "-o", "model", code=1).stderr


def test_nothing_but_a_model_is_replaced(run, tmp_path):
    for target, said in (("texts.jsonl", "is a file"), (".", "is a folder of other things"), ("a" * 300, "too long")):
        problem = run("tiny", "texts.jsonl", "--column", "body", "-o", target, "--overwrite", code=1).stderr
        assert said in problem
        assert len(problem.strip().splitlines()) == 1
    args = ("--column", "body", "--on-bad-text", "skip", "--overwrite")
    run("tiny", "texts.jsonl", *args, "-o", "model")
    run("tiny", "texts.jsonl", *args, "-o", "model", "--calibration", "mean")
    assert echoembed.load("model")[0].recipe.calibration == "mean"
    (tmp_path / "texts.jsonl").rename(tmp_path / "model" / "texts.jsonl")
    assert "would be lost" in run("tiny", "model/texts.jsonl", *args, "-o", "model", code=1).stderr
    assert (tmp_path / "model" / "texts.jsonl").is_file()


def test_each_prompt_gets_the_calibration_that_the_recipe_names(run, monkeypatch):
    monkeypatch.setattr("echoembed.model.calibrate.sentences", lambda: pytest.fail("fitted on the package's sentences"))
    args = ("tiny", "texts.jsonl", "--column", "body", "--on-bad-text", "skip", "-r", "echo-tuned")
    assert "calibrated (z-score, components-8) on 40 texts" in run(*args, "-o", "model").stderr
    found = echoembed.load("model")
    assert [prompt.calibration for prompt in found[0].recipe.prompts] == ["z-score", "components-8"]
    assert [part.fitted.texts for part in (found[2], *found[3].fitted())] == [40, 40]
    run(*args, "-o", "other", "--calibration", "mean")
    assert [prompt.calibration for prompt in echoembed.load("other")[0].recipe.prompts] == ["mean", "mean"]


def test_a_recipe_whose_calibration_reads_no_texts_needs_none(run, tmp_path):
    recipe = '[spectral]\nquery_template = "{bos}{text:pool}"\ncalibration = "spectrum-2"\n'
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    assert "calibrated (spectrum-2) in" in run("tiny", "--recipes-file", "mine.toml", "-o", "model").stderr
    assert echoembed.load("model").encode("a text").shape == (128,)


def test_a_recipes_own_calibration_is_fitted_on_the_texts_alone(run, monkeypatch):
    monkeypatch.setattr("echoembed.model.calibrate.sentences", lambda: pytest.fail("fitted on the package's sentences"))
    args = ("tiny", "texts.jsonl", "--column", "body", "--on-bad-text", "skip", "-r", "echo-deep", "--budget", "9")
    told = run(*args, "-o", "model")
    assert "calibrated (components-8) on 40 texts" in told.stderr
    assert "texts were over the budget" in told.stderr


def test_a_remedy_for_equal_numbers_is_one_that_helps(run, tmp_path):
    """Where all texts are alike, a mean helps no more than a deviation; and what cut them is said before."""
    (tmp_path / "alike.txt").write_text("".join(f"A cat sat on mat number {number}.\n" for number in range(20)))
    for kind in ("z-score", "mean", "whiten-4"):
        told = run("tiny", "alike.txt", "--budget", "3", "--calibration", kind, "-o", "model", code=1).stderr
        warning, error = told.strip().splitlines()
        assert warning.startswith("warning: 20 texts were over the budget"), kind
        assert error.startswith("error: The calibration")
        assert error.endswith("Add texts that differ."), kind
    assert not (tmp_path / "model").exists()


def test_what_was_left_out_is_said_though_too_few_texts_remain(run):
    told = run("tiny", "-t", "one", "-t", " ", "-t", " ", "--on-bad-text", "skip", "-o", "model", code=1).stderr
    warning, error = told.strip().splitlines()
    assert warning.startswith("warning: left out 2 of 3 texts")
    assert "was to be fitted on 1 texts" in error


@pytest.mark.parametrize("kind", ["z-score", "z-components-1"])
def test_a_mean_is_offered_where_some_numbers_differ(kind):
    moments = Moments(full=True)
    moments.add(np.random.default_rng(0).normal(size=(20, 4)) * [1, 1, 0, 1])
    with pytest.raises(echoembed.errors.ModelError, match="choose calibration='mean'"):
        map_of(kind, moments)
    assert list(map_of("mean", moments)) == ["shift_D"]
