"""``echoembed corpus``, ``search`` and ``export`` as users meet them: exit codes, lines, JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import echoembed
from echoembed.cli import app

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


def test_an_export_says_where_it_is_and_replaces_nothing(cli):
    cli("export", TINY, "model", "--self-contained")
    assert Path("model/code/echoembed/recipe.py").exists()
    assert "exists" in cli("export", TINY, "model", code=1).stderr
