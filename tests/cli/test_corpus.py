"""``echoembed corpus``, ``search`` and ``export`` as users meet them: exit codes, lines, JSON."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import echoembed
from echoembed.cli import app
from echoembed.corpus import plain_load

TINY = str(Path(echoembed.__file__).parent / "tiny")


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs a command in a folder with two notes and some rows."""
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    Path("notes/bread.md").write_text("# Bread\n\nA baker makes bread before dawn.")
    Path("notes/money.md").write_text("# Money\n\nStocks fell sharply on Monday.")
    Path("rows.jsonl").write_text('{"text": "one", "year": 2020}\nbad\n{"text": "two", "year": 2021}\n')

    def run(*args: object, code: int = 0):
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return run


def test_build_search_and_build_again(cli):
    built = cli("corpus", "build", "notes", "--out", "out", "-m", TINY)
    assert built.stderr.startswith("2 texts in 1 shard → out: embedded 2 in ")
    [hit] = json.loads(cli("search", "out", "bread", "-k", 1, "--json").stdout)
    assert set(hit) == {"id", "score", "text", "chunk", "start", "end"}
    table = cli("search", "out", "bread", "--hybrid", "--where", "id LIKE '%bread%'").stdout
    assert "notes/bread.md" in table
    assert "cosine" in table  # the order is that of both ranks
    assert "unchanged 2" in cli("corpus", "build", "notes", "--out", "out", "-m", TINY).stderr
    facts = json.loads(cli("corpus", "info", "out", "--json").stdout)
    assert (facts["texts"], facts["recipe"], facts["dtype"]) == (2, "echo", "float32")


def test_rows_set_aside_show_in_the_exit_code(cli):
    built = cli("corpus", "build", "rows.jsonl", "--out", "out", "-m", TINY, "--keep", "year:int", "-q", code=3)
    assert built.stderr == "warning: 1 text set aside: out/rejected.jsonl has each with its reason.\n"
    hits = json.loads(cli("search", "out", "one", "--where", "year > 2020", "--json").stdout)
    assert [(hit["text"], hit["year"]) for hit in hits] == [("two", 2021)]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["corpus", "build", "missing.md", "--out", "out"], "There is no 'missing.md'"),
        (["corpus", "build", "notes", "--out", "notes"], "which is no part of a corpus"),
        (["corpus", "build", "notes", "--out", "out", "--keep", "a:date"], "TYPE one of"),
        (["corpus", "build", "-", "--out", "out"], "cannot be built from standard input"),
        (["corpus", "build", "rows.jsonl", "--out", "out", "--chunk-tokens", 50], "Got --chunk-tokens, which none"),
        (["corpus", "build", "rows.jsonl", "--out", "out", "--delimiter", ";"], "Got --delimiter, which none"),
        (["corpus", "build", "notes/bread.md", "--out", "out", "--column", "body"], "Got --column, which none"),
        (["corpus", "build", "notes/bread.md", "--out", "out", "--id-column", "key"], "Got --id-column, which none"),
        (["corpus", "build", "notes/bread.md", "--out", "out", "--keep", "year:int"], "Got --keep, which none"),
        (["embed", "some words", "--column", "body"], "Got column 'body'"),
        (["corpus", "info", "notes"], "is not a corpus"),
        (["search", "nowhere", "bread"], "is not a corpus"),
    ],
)
def test_what_cannot_be_done_is_one_line(cli, command, said):
    result = cli(*command, *(["-m", TINY] if "build" in command else []), code=1)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_recipe_is_refused_with_the_difference(cli):
    cli("corpus", "build", "notes", "--out", "out", "-m", TINY)
    for command in (["corpus", "build", "notes", "--out", "out"], ["search", "out", "bread"]):
        result = cli(*command, "-m", TINY, "-r", "classical", code=1)
        assert "recipe is 'echo' in the corpus and 'classical' here" in result.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [(["--budget", 100], "budget is 512 in the corpus and 100 here"), (["--layer", 1], "layers is ")],
)
def test_another_budget_or_layer_is_refused_by_its_name(cli, option, said):
    cli("corpus", "build", "notes", "--out", "out", "-m", TINY)
    for command in (["corpus", "build", "notes", "--out", "out", "-m", TINY], ["search", "out", "bread"]):
        assert said in cli(*command, *option, code=1).stderr


def test_workers_without_their_engine_are_refused(cli):
    result = cli("corpus", "build", "notes", "--out", "out", "-m", TINY, "--workers", 3, code=2)
    assert "--engine ray" in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize("option", [["--device", "cpu"], ["--dtype", "float32"], ["--engine", "padded"], []])
def test_options_of_a_search_change_only_what_they_name(cli, option):
    cli("corpus", "build", "notes", "--out", "out", "-m", TINY, "-r", "classical", "--layer", 2, "--budget", 90)
    [hit] = json.loads(cli("search", "out", "bread", "-k", 1, "--json", *option).stdout)
    assert hit["score"] > 0
    assert "recipe is 'classical'" in cli("search", "out", "bread", *option, "-r", "echo", code=1).stderr


@pytest.mark.parametrize("option", [["--device", "cpu"], []])
def test_a_query_that_is_cut_is_said_to_be(cli, option):
    cli("corpus", "build", "notes", "--out", "out", "-m", TINY)
    assert "warning: " in cli("search", "out", "word " * 700, *option).stderr


def test_a_model_in_a_folder_is_found_from_every_other_folder(cli, monkeypatch, tmp_path):
    shutil.copytree(TINY, "model", ignore=shutil.ignore_patterns("adapters"))
    cli("corpus", "build", "notes", "--out", "out", "-m", "model")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert json.loads(cli("search", "../out", "bread", "-k", 1, "--json").stdout)


def test_only_folders_and_files_are_stored_with_their_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "tiny", "org/model"):
        Path(name).mkdir(parents=True)
    Path("model.gguf").touch()
    recipe = replace(echoembed.recipes["echo"], checkpoint="./model", adapters=("org/name", "org/model"))
    for name in ("model", "./model", "org/model", "model.gguf"):
        assert plain_load({"model": name, "adapter": name, "device": None}) == dict.fromkeys(
            ("model", "adapter"), str(tmp_path / name)
        )
    for name in ("tiny", "smollm2-135m", "org/name"):
        assert plain_load({"model": name}) == {"model": name}
    stored = plain_load({"recipe": recipe})["recipe"]
    assert (stored["checkpoint"], stored["adapters"]) == (
        str(tmp_path / "model"),
        ["org/name", str(tmp_path / "org" / "model")],
    )


def test_an_export_says_where_it_is_and_replaces_nothing(cli):
    cli("export", TINY, "model", "--self-contained")
    assert Path("model/code/echoembed/recipe.py").exists()
    assert "exists" in cli("export", TINY, "model", code=1).stderr
