"""``echoembed calibrate`` saves what ``echoembed.calibrate`` gives, and nothing where something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import echoembed
from echoembed.cli import app
from echoembed.model.calibrate import sentences
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


def test_a_recipes_own_calibration_is_fitted_on_the_texts_alone(run, monkeypatch):
    monkeypatch.setattr("echoembed.model.calibrate.sentences", lambda: pytest.fail("fitted on the package's sentences"))
    args = ("tiny", "texts.jsonl", "--column", "body", "--on-bad-text", "skip", "-r", "echo-deep", "--budget", "9")
    told = run(*args, "-o", "model")
    assert "calibrated (components-8) on 40 texts" in told.stderr
    assert "texts were over the budget" in told.stderr
