"""An option that a command cannot use is refused or does not exist; none is taken and passed over."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import echoembed
from echoembed.cli import app

ROWS = '[mine]\nquery_template = "{bos}{text:pool}"\n[other]\nquery_template = "{bos}Say: {text:pool}"\n'


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text(ROWS)
    (tmp_path / "one.toml").write_text(ROWS.partition("[other]")[0])
    (tmp_path / "none.toml").write_text("")
    (tmp_path / "texts.txt").write_text("a cat\na dog\nthe sea\n")

    def run(words, code=0):
        result = CliRunner().invoke(app, words.split(), env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.mark.parametrize(
    "words",
    [
        "embed a -m tiny",
        "similarity a b -m tiny",
        "info -m tiny",
        "eval tiny",
        "serve tiny",
        "calibrate tiny texts.txt -o made",
        "export tiny made",
        "corpus build texts.txt --out made -m tiny",
    ],
)
def test_one_of_several_recipes_of_a_file_must_be_named(run, words, tmp_path):
    told = run(f"{words} --recipes-file two.toml", code=2).stderr
    assert "two.toml has the recipes mine, other; name one with --recipe" in told
    assert "none.toml has no recipe; name one with --recipe" in run(f"{words} --recipes-file none.toml", code=2).stderr
    assert not (tmp_path / "made").exists()


def test_the_only_recipe_of_a_file_need_not_be_named(run):
    assert json.loads(run("info -m tiny --json --recipes-file one.toml").stdout)["recipe"] == "mine"
    assert json.loads(run("info -m tiny --json --recipes-file two.toml -r other").stdout)["recipe"] == "other"


def test_recipes_of_a_file_are_compared_unless_others_are_named(run):
    shown = json.loads(run("compare a b -m tiny --json --recipes-file two.toml").stdout)
    assert list(shown["recipes"]) == ["mine", "other"]
    for name, recipe in echoembed.load_recipes("two.toml").items():
        vectors = echoembed.load("tiny", recipe=recipe).encode(["a", "b"])
        np.testing.assert_allclose(shown["recipes"][name]["matrix"], vectors @ vectors.T, atol=1e-5)
    shown = json.loads(run("compare a b -m tiny --json --recipes-file two.toml -r echo -r mine").stdout)
    assert list(shown["recipes"]) == ["echo", "mine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export tiny made --gguf --bare document", "--bare"),
        ("export tiny made --engine padded", "No such option"),
        ("export tiny made --deterministic", "No such option"),
        ("export tiny made --pack-tokens 50", "No such option"),
        ("recipes -m nosuchmodel", "--model"),
        ("recipes -t x", "--text"),
        ("recipes --json -t x -m tiny", "--model and --text"),
        ("calibrate tiny texts.txt -o made --calibration spectrum-2", "spectrum-2 reads no texts"),
        ("calibrate tiny -t x -o made --calibration spectrum-2", "spectrum-2 reads no texts"),
        ("compare a b -m tiny --recipes-file none.toml", "none.toml has no recipe"),
    ],
)
def test_what_would_be_ignored_is_refused(run, words, said, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert said in run(words, code=2).stderr
    assert sorted(tmp_path.iterdir()) == before


def test_an_exported_model_keeps_what_the_options_chose(run):
    run("export tiny made -r classical --layer 2 --budget 7 --bare document --device cpu")
    model = echoembed.load("made")
    facts = echoembed.describe(model)
    assert (facts["recipe"], facts["layers"], facts["budget"]) == ("classical", 2, 7)
    assert model.default_prompt_name == "document"
