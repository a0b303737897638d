"""No verb replaces what it reads: an output that is also an input, by any name or link, is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import echoembed
from echoembed.cli import app
from echoembed.sources.adapters import BUNDLED, FILE

ROW = '[mine]\nquery_template = "{bos}{text:pool}"\n'
LOSING = [
    "export model model",
    "export model ./sub/../model --gguf",
    "export model link --self-contained",
    "export link model --stock",
    "export tiny adapter --adapter adapter",
    "export adapter adapter",
    "export smaller base",
    "export tiny model --recipes-file model/mine.toml",
    "export tiny adapter --recipes-file merging.toml",
    "calibrate model texts.txt -o model",
    "calibrate tiny texts.txt -o adapter --adapter adapter",
    "calibrate tiny texts.txt -o base --adapter smaller",
    "calibrate tiny model/texts.txt -o model",
    "calibrate tiny texts.txt -o model --recipes-file model/mine.toml",
    "tune model --texts texts.txt -o model",
    "tune adapter --texts texts.txt -o adapter",
    "tune --adapter smaller --texts texts.txt -o base",
    "tune tiny --texts model/texts.txt -o model",
    "embed a -m tiny --recipes-file mine.jsonl -o mine.jsonl",
    "compare a b -m tiny --recipes-file mine.png --heatmap mine.png",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, an adapter, one on a folder's weights, texts and recipes."""
    folder = tmp_path_factory.mktemp("place")
    echoembed.save(echoembed.load("tiny", recipe="prompteol"), folder / "model")
    (folder / "link").symlink_to("model")
    (folder / "sub").mkdir()
    for name in ("adapter", "smaller"):
        shutil.copytree(BUNDLED / "tiny-echo", folder / name)
    shutil.copytree(folder / "model", folder / "base")
    settings = json.loads((folder / "smaller" / FILE).read_text())
    settings["base"] |= {"model": str(folder / "base"), "origin": "folder"}
    (folder / "smaller" / FILE).write_text(json.dumps(settings))
    for name in ("texts.txt", "model/texts.txt"):
        (folder / name).write_text("one\ntwo\nthree\n")
    for name in ("model/mine.toml", "mine.jsonl", "mine.png"):
        (folder / name).write_text(ROW)
    (folder / "merging.toml").write_text(ROW + 'adapters = ["adapter"]\n')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", LOSING)
def test_an_output_that_is_an_input_is_refused_and_all_is_as_it_was(words, place, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(place)
    before = contents(place)
    result = CliRunner().invoke(app, [*words.split(), "--overwrite"])
    assert contents(place) == before
    assert result.exit_code == 1, result.output
    assert "which would be lost" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_with_the_name_of_a_packaged_model_is_no_input(tmp_path, monkeypatch):
    """The name is the packaged model's, even where there is such a folder; ``./tiny`` is the folder's."""
    monkeypatch.chdir(tmp_path)
    echoembed.save(echoembed.load("tiny", recipe="echo"), "tiny")
    assert CliRunner().invoke(app, ["export", "tiny", "tiny", "--overwrite", "-r", "classical"]).exit_code == 0
    assert echoembed.load("./tiny")[0].recipe.name == "classical"
    assert CliRunner().invoke(app, ["export", "./tiny", "tiny", "--overwrite"]).exit_code == 1
