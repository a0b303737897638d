"""``echoembed train``: a configuration in, a model's folder out, and a line for each trouble."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny_models
from echoembed import errors
from echoembed.cli import app
from echoembed.training import run
from echoembed.training.config import TrainConfig

ROWS = "".join(
    json.dumps({"query": f"where is town {n}", "positive": f"town {n} is by the river", "negative": f"boat {n}"}) + "\n"
    for n in range(8)
)
CONFIG = """
output = "out"
model = "{model}"
recipe = "{recipe}"
{more}
[[data]]
path = "rows.jsonl"
{data}
[optimiser]
steps = 2
batch_size = 4
warmup_steps = 0
"""


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS)

    def configure(*, recipe="echo", more="", data=""):
        text = CONFIG.format(model=tiny_models.folder("llama"), recipe=recipe, more=more, data=data)
        (tmp_path / "run.toml").write_text(text)

    def call(*args, code=0):
        result = CliRunner().invoke(app, ["train", *map(str, args)])
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    configure()
    call.configure = configure
    return call


@pytest.fixture
def begun(monkeypatch):
    """What ``run.train`` was asked for; it is not run."""
    calls = []

    def train(config, *, resume=False, console=None):
        calls.append((config, resume, console))
        return Path(config.output) / "model"

    monkeypatch.setattr(run, "train", train)
    return calls


def test_a_run_is_begun_as_configured_and_the_models_folder_is_printed(cli, begun, tmp_path):
    result = cli("run.toml")
    assert result.stdout == f"{tmp_path}/out/model\n"
    [(config, resume, console)] = begun
    assert (config.output, config.optimiser.steps, resume) == (str(tmp_path / "out"), 2, False)
    assert console.stderr
    assert json.loads(cli("run.toml", "--json", "-q").stdout) == {"model": str(tmp_path / "out" / "model")}
    assert begun[1][2] is None


def test_options_go_before_the_file(cli, begun, tmp_path):
    cli("run.toml", "--resume", "--seed", 7, "--output", "elsewhere")
    [(config, resume, _)] = begun
    assert (config.output, config.seed, resume) == (str(tmp_path / "elsewhere"), 7, True)


def test_a_stopped_run_says_how_to_go_on_and_has_the_code_of_an_interruption(cli, monkeypatch):
    def train(config, **_):
        raise errors.training_stopped(1, 2, "out/checkpoints/step-1")

    monkeypatch.setattr(run, "train", train)
    result = cli("run.toml", code=130)
    assert result.stderr.startswith("error: ")
    assert "--resume" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda cli, folder: (folder / "run.toml").unlink(),
            "'run.toml' cannot be read as a configuration: No such file",
        ),
        (
            lambda cli, folder: (folder / "run.toml").write_text("output ="),
            "'run.toml' cannot be read as a configuration",
        ),
        (lambda cli, folder: cli.configure(more="seeds = 3"), "field 'seeds' in the configuration"),
        (lambda cli, folder: cli.configure(recipe="echo-finetuned-last"), "'rows' has no instruction"),
        (lambda cli, folder: (folder / "rows.jsonl").unlink(), "Found no rows to train on at"),
        (lambda cli, folder: (folder / "rows.jsonl").write_text(ROWS + "{\n"), "line 9 of "),
        (lambda cli, folder: (folder / "rows.jsonl").write_text(ROWS.splitlines()[0]), "'rows' has 1 rows"),
        (lambda cli, folder: cli.configure(data="negatives = 2"), "it has 1 hard negatives, and 2 are configured"),
    ],
)
@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_a_fault_is_one_line_and_nothing_has_been_started(cli, tmp_path, make, message, option):
    make(cli, tmp_path)
    result = cli("run.toml", *option, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_plan_and_starts_nothing(cli, begun, tmp_path):
    result = cli("run.toml", "--dry-run")
    for part in ("rows in all    8", "of LoRA", "activations", "rows", "negative_1", "100.0%"):
        assert part in result.stdout, part
    plan = json.loads(cli("run.toml", "--dry-run", "--json").stdout)
    assert (plan["steps"], plan["data"][0]["rows"], plan["data"][0]["batches"]) == (2, 8, 2.0)
    assert begun == []
    assert not (tmp_path / "out").exists()


def test_warnings_of_the_plan_are_lines_on_standard_error(cli, tmp_path):
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text().replace("steps = 2", "steps = 40"))
    assert "warning: the rows of 'rows' will be trained on 20 times" in cli("run.toml", "--dry-run").stderr


def test_every_field_can_be_printed(cli):
    shown = json.loads(cli("--fields", "--json").stdout)
    names = {(field["table"], field["name"]) for field in shown}
    assert {
        ("", entry.name) for entry in dataclasses.fields(TrainConfig) if isinstance(entry.default, (str, int))
    } < names
    text = cli("--fields").stdout
    for field in shown:
        assert field["name"] in text
        assert field["meaning"].replace("``", "").split(".")[0] in text


def test_help_shows_a_configuration(cli):
    text = cli("--help").stdout
    for part in ("[[data]]", "[optimiser]", "--dry-run", "echoembed train run.toml --resume", '"positive"'):
        assert part in text, part


def test_no_file_is_wrong_usage(cli):
    assert "CONFIG" in cli("--json", code=2).stderr


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from echoembed.cli import app\n"
        "try: app(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy', 'peft'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_a_run_whole(cli, tmp_path):
    """From the file to vectors, with the options of a user."""
    folder = Path(cli("run.toml", "-q").stdout.strip())
    assert folder == tmp_path / "out" / "model"
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 2
    result = CliRunner().invoke(app, ["similarity", "-m", str(folder), "the cat sat", "a boat", "--json"])
    assert result.exit_code == 0, result.output
