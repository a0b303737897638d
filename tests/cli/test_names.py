"""Wrong names are told before anything heavy is imported, with the names near them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from typer.testing import CliRunner

from echoembed.cli import app, groups
from echoembed.experiments import NAMES, check_names

HEAVY = {"torch", "transformers", "sentence_transformers", "pyarrow", "matplotlib", "mteb", "sklearn", "datasets"}
WRONG = [
    (["embed", "a", "-r", "ecko"], "Did you mean 'echo"),
    (["similarity", "a", "b", "-r", "classicl"], "Did you mean 'classical"),
    (["compare", "a", "b", "-r", "echo", "-r", "ecko"], "Did you mean 'echo"),
    (["info", "-r", "ecko"], "Did you mean 'echo"),
    (["eval", "-r", "ecko"], "Did you mean 'echo"),
    (["recipes", "ecko"], "Did you mean 'echo"),
    (["embed", "a", "--recipes-file", "own.toml", "-r", "mien"], "Did you mean 'mine'"),
    (["embed", "a", "-m", "./models/smal"], "Did you mean 'models/small'"),
    (["info", "-m", "models/smal/"], "Did you mean 'models/small'"),
    (["eval", "./models/smal"], "Did you mean 'models/small'"),
    (["embed", "a", "-m", "models/small"], "config.json"),
    (["embed", "a", "-m", "/nowhere/at/all"], "does not exist"),
    (["similarity", "a", "b", "-m", "nobody/nothing"], "nobody/nothing"),
    (["recipes", "echo", "-m", "./models/smal"], "Did you mean 'models/small'"),
    (["embed", "a", "-m", "smolm2-135m"], "Did you mean 'smollm2-135m'"),
    (["embed", "a", "--adapter", "tiny-eco"], "Did you mean 'tiny-echo'"),
    (["info", "--adapter", "./models/smal"], "Did you mean 'models/small'"),
    (["reproduce", "figur2"], "Did you mean 'figure2'"),
    (["reproduce", "figure2", "tabel1"], "Did you mean 'table1'"),
    (["reproduce", "figure2", "-m", "./models/smal"], "Did you mean 'models/small'"),
    (["reproduce", "figure2", "--report", "nowhere/page.md"], "its folder does not exist"),
    (["embed", "a", "-o", "v.jsnl"], "Did you mean"),
    (["embed", "a", "-o", "nowhere/v.npy"], "its folder does not exist"),
    (["embed", "x.txt", "-o", "x.txt.jsonl", "--delimiter", ";"], "is read as txt"),
    (["embed", "x.jsonl", "-o", "x.jsonl", "--overwrite"], "is the input"),
    (["compare", "x.txt", "--heatmap", "x.pgn"], "Did you mean"),
    (["embed", "missing.txt"], "There is no file"),
    (["eval", "-b", "STS112"], "Did you mean 'STS12'"),
    (["eval", "-b", "STS12", "-b", "mteb-min"], "Did you mean 'mteb-mini'"),
    (["corpus", "build", "missing.txt", "--out", "c"], "missing.txt"),
    (["corpus", "build", "x.txt", "--out", "c", "-r", "ecko"], "Did you mean 'echo"),
    (["corpus", "build", "x.txt", "--out", "c", "-m", "./models/smal"], "Did you mean 'models/small'"),
    (["search", "nowhere", "a"], "nowhere"),
    (["export", "./models/smal", "e"], "Did you mean 'models/small'"),
    (["serve", "./models/smal"], "Did you mean 'models/small'"),
    (["serve", "-r", "ecko"], "Did you mean 'echo"),
    (["train", "missing.toml"], "missing.toml"),
    (["embed", "bad.jsonl", "-o", "v.npy"], "line 2 of bad.jsonl"),
]
CHILD = """
    import json, sys
    from typer.testing import CliRunner
    from echoembed.cli import app

    told = []
    for args in json.loads(sys.argv[1]):
        result = CliRunner().invoke(app, args)
        told.append([result.exit_code, result.stdout, result.stderr])
        told[-1].append(sorted(set(json.loads(sys.argv[2])) & set(sys.modules)))
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each command said, and which heavy modules were there afterwards."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "models" / "small").mkdir(parents=True)
    (folder / "own.toml").write_text(
        '[mine]\nquery_template = "{text:pool}"\n[other]\nquery_template = "{text:pool}"\n'
    )
    (folder / "x.txt").write_text("one\ntwo\n")
    (folder / "x.jsonl").write_text('{"text": "one"}\n')
    (folder / "bad.jsonl").write_text('{"text": "one"}\n{"text": ""}\n')
    args = [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps([case for case, _ in WRONG]), json.dumps([*HEAVY])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(args, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return {tuple(case): answer for (case, _), answer in zip(WRONG, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize(("args", "message"), WRONG)
def test_a_wrong_name_is_one_line_and_imports_nothing_heavy(told, args, message):
    code, stdout, stderr, imported = told[tuple(args)]
    assert (code, stdout) == (1, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert message in stderr
    assert imported == []


def test_the_names_of_experiments_are_those_of_the_table():
    from echoembed.experiments.reproduce import EXPERIMENTS

    aliases = [alias for experiment in EXPERIMENTS.values() for alias in experiment.aliases]
    assert sorted(NAMES) == sorted(["all", *EXPERIMENTS, *aliases])
    check_names(NAMES)


@pytest.mark.parametrize("verb", ["embed", "similarity", "compare", "info", "eval", "reproduce"])
def test_every_verb_that_loads_a_model_takes_every_way_to_compute(verb):
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).stdout
    for option in (
        "--device",
        "--dtype",
        "auto|float32|bfloat16|float16|int8",
        "--engine",
        "packed|padded",
        "--deterministic",
    ):
        assert option in shown


def test_a_group_of_options_reaches_the_verb_whole():
    seen = []

    def verb(model: groups.ModelOptions, number: int = 3) -> None:
        seen.append((model, number))

    flat = groups.with_options(verb)
    given = dict.fromkeys(vars(groups.ModelOptions()))
    flat(**{**given, "dtype": "int8", "deterministic": True}, number=4)
    assert seen == [(groups.ModelOptions(dtype="int8", deterministic=True), 4)]
