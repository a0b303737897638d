"""The command line as its users meet it: results on standard output, a line for each trouble, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import echoembed
import tiny_models
from echoembed.cli import app

VERBS = ["embed", "similarity", "compare", "recipes", "info"]
SENTENCES = ["A cat sat on the mat.", "A feline rested on the rug.", "Stocks fell sharply on Monday."]
HEAVY = {"torch", "transformers", "sentence_transformers", "numpy", "pyarrow", "matplotlib", "huggingface_hub"}


@pytest.fixture(scope="module")
def model():
    return echoembed.load("tiny")


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs a command in an empty folder and gives its result."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentences.txt").write_text("".join(sentence + "\n" for sentence in SENTENCES))

    def run(*args: object, stdin: str | None = None, code: int = 0):
        result = CliRunner().invoke(app, small(args), input=stdin)
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return run


def small(args: tuple[object, ...]) -> list[str]:
    """The arguments, with the small model where a verb takes one and none is named."""
    words = [str(arg) for arg in args]
    named = {"-m", "--model", "--adapter", "--help"}.intersection(words)
    takes_one = (len(words) > 1 and words[0] in {"embed", "similarity", "compare", "info"}) or words == ["info"]
    return [*words, "-m", "tiny"] if takes_one and not named else words


def command(*args: object) -> list[str]:
    """The console script, run by this interpreter."""
    return [sys.executable, "-c", "from echoembed.cli import main; main()", *small(args)]


def one_line(text: str, start: str) -> str:
    """The single line that ``text`` is, which begins with ``start``."""
    assert text.startswith(start), text
    assert text.count("\n") == 1, text
    return text.strip()


# Help.


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_shows_examples_and_imports_nothing_heavy(verb):
    """So that help comes at once; ``benchmarks/startup.py`` measures how soon."""
    words = ["echoembed", *([verb] if verb else []), "--help"]
    code = f"""
import sys
from echoembed.cli import main
sys.argv = {words}
try:
    main()
finally:
    print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples" in done.stdout
    assert f"echoembed {verb or 'embed'}" in done.stdout
    assert HEAVY.isdisjoint(done.stderr.split())


def test_exit_codes_are_in_the_help(cli):
    shown = cli("--help").stdout
    assert all(f"{code} " in shown for code in ("0", "1", "2", "130"))


def test_the_version_is_the_packages(cli):
    assert cli("--version").stdout == f"echoembed {echoembed.__version__}\n"


@pytest.mark.parametrize("verb", [None, "embed", "similarity", "compare"])
def test_a_verb_that_needs_something_shows_its_help_without_it(cli, verb):
    result = cli(*([verb] if verb else []), code=2)
    assert "Usage:" in result.output


# embed.


def test_embed_writes_the_models_vectors_as_json_lines_and_nothing_else_to_stdout(cli, model):
    result = cli("embed", *SENTENCES)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == SENTENCES
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    assert {row["fingerprint"] for row in rows} == {echoembed.fingerprint(model)}
    np.testing.assert_allclose([row["vector"] for row in rows], model.encode(SENTENCES), atol=1e-5)
    one_line(result.stderr, "embedded 3 texts in ")


def test_embed_writes_every_format(cli, model):
    expected = model.encode(SENTENCES)
    for name in ("v.npy", "v.jsonl", "v.parquet"):
        result = cli("embed", "sentences.txt", "-o", name)
        assert result.stdout == ""
        assert result.stderr.endswith(f"→ {name}\n")
    np.testing.assert_allclose(np.load("v.npy"), expected, atol=1e-5)
    np.testing.assert_allclose(pq.read_table("v.parquet")["vector"].to_pylist(), expected, atol=1e-5)
    rows = [json.loads(line) for line in Path("v.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-5)
    assert json.loads(Path("v.npy.json").read_text())["fingerprint"] == echoembed.fingerprint(model)


def test_the_model_options_reach_the_model(cli, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[mine]\nquery_template = "{bos}Q: {text:pool}"\ndocument_template = "{text:pool}"\n'
    )
    rows = echoembed.load_recipes(tmp_path / "mine.toml")
    expected = echoembed.load("tiny", recipe=rows["mine"], layer=3, budget=4)
    options = ["--recipes-file", "mine.toml", "--layer", 3, "--budget", 4, "--device", "cpu", "--dtype", "float32"]
    for kind in ("query", "document"):
        cli("embed", "sentences.txt", "-o", f"{kind}.npy", "-q", "-r", "mine", "--kind", kind, *options)
        np.testing.assert_allclose(np.load(f"{kind}.npy"), expected.encode(SENTENCES, task=kind), atol=1e-5)
    assert json.loads(Path("query.npy.json").read_text())["recipe"] == "mine"
    assert not np.allclose(np.load("query.npy"), np.load("document.npy"), atol=1e-3)
    # The only recipe of a file need not be named.
    cli("embed", "sentences.txt", "-o", "only.npy", "-q", *options)
    np.testing.assert_allclose(np.load("only.npy"), np.load("query.npy"), atol=1e-5)


def test_an_instruction_has_its_place_or_is_refused(cli):
    result = cli("embed", "a", "--instruction", "Find it", code=1)
    assert "{instruction}" in one_line(result.stderr, "error: ")


def test_columns_and_ids_are_taken_from_standard_input(cli):
    lines = "".join(json.dumps({"key": f"k{n}", "body": text}) + "\n" for n, text in enumerate(SENTENCES))
    options = ["--format", "jsonl", "--column", "body", "--id-column", "key", "-q"]
    rows = [json.loads(line) for line in cli("embed", "-", *options, stdin=lines).stdout.splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [(f"k{n}", text) for n, text in enumerate(SENTENCES)]


def test_texts_that_were_cut_are_told_once_or_refused_or_ignored(cli):
    long = "word " * 50
    told = cli("embed", long, long, "-q", "--budget", 10).stderr
    one_line(told, "warning: 2 texts were over the budget: ")
    assert cli("embed", long, "-q", "--budget", 10, "--on-overflow", "ignore").stderr == ""
    refused = cli("embed", long, "-o", "v.npy", "--budget", 10, "--on-overflow", "error", code=1)
    assert "over the limit of 10" in one_line(refused.stderr, "error: argument 1 is ")
    assert "--on-overflow warn" in refused.stderr
    assert not list(Path().glob("*v.npy*"))


def test_bad_texts_stop_the_work_or_are_left_out_and_told(cli):
    Path("bad.txt").write_text("one\n\ntwo\n \nthree\n")
    stopped = cli("embed", "bad.txt", "-o", "v.npy", code=1)
    assert "line 2 of bad.txt is empty" in one_line(stopped.stderr, "error: ")
    assert not list(Path().glob("*v.*"))
    skipped = cli("embed", "bad.txt", "-q", "--on-bad-text", "skip")
    assert [json.loads(line)["id"] for line in skipped.stdout.splitlines()] == ["0", "2", "4"]
    assert "left out 2 of 5 texts: line 2 of bad.txt" in one_line(skipped.stderr, "warning: ")
    rows = cli("embed", "bad.txt", "-q", "--on-bad-text", "skip", "-o", "v.npy").stderr
    assert "rows of the array" in rows
    assert [json.loads(line) for line in Path("v.npy.jsonl").read_text().splitlines()] == [
        {"id": id_, "text": text} for id_, text in (("0", "one"), ("2", "two"), ("4", "three"))
    ]


EMPTY_TO_BERT = "\u200b"
BERT = ["-m", "bert", "-r", "bert-large"]


@pytest.fixture
def bert(cli):
    """A folder with a model whose tokenizer makes nothing of ``EMPTY_TO_BERT``."""
    Path("bert").symlink_to(tiny_models.folder("bert"))
    Path("bad.txt").write_text(f"one\n{EMPTY_TO_BERT}\ntwo\n\n{EMPTY_TO_BERT}\n" + "word " * 50)


@pytest.mark.usefixtures("bert")
def test_texts_that_only_the_tokenizer_finds_empty_are_bad_texts_too(cli):
    Path("two.txt").write_text(f"one\n{EMPTY_TO_BERT}\n")
    for verb in (["embed", "-o", "v.npy"], ["similarity"]):
        stopped = cli(*verb, "two.txt", *BERT, code=1)
        assert "no tokens" in one_line(stopped.stderr, "error: line 2 of two.txt: ")
    assert not list(Path().glob("*v.*"))
    options = [*BERT, "--on-bad-text", "skip"]
    skipped = cli("embed", "bad.txt", "-q", *options, "--budget", 10, "--batch-size", 1)
    assert [json.loads(line)["id"] for line in skipped.stdout.splitlines()] == ["0", "2", "5"]
    told, cut = skipped.stderr.splitlines()
    assert told.startswith("warning: left out 3 of 6 texts: line 4 of bad.txt is empty")
    assert "line 2 of bad.txt: " in told
    assert cut.startswith("warning: 1 text was over the budget")  # once, although its batch was made twice
    none = cli("embed", EMPTY_TO_BERT, *options, code=1)
    assert "only 1 that cannot be embedded" in one_line(none.stderr, "error: ")


@pytest.mark.usefixtures("bert")
def test_every_pair_is_shown_of_the_texts_that_are_left(cli):
    options = ["-m", "bert", "--on-bad-text", "skip", "--json"]
    texts = ["one", EMPTY_TO_BERT, "two"]
    shown = json.loads(cli("similarity", *texts, *options, "-r", "bert-large").stdout)
    assert (shown["texts"], len(shown["matrix"])) == (["one", "two"], 2)
    shown = json.loads(cli("compare", *texts, *options, "-r", "bert-large", "-r", "uae-large-v1").stdout)
    assert shown["texts"] == ["one", "two"]
    assert [len(recipe["matrix"]) for recipe in shown["recipes"].values()] == [2, 2]


@pytest.mark.usefixtures("bert")
def test_what_is_no_fault_of_a_bad_text_is_not_skipped(cli):
    skip = ["--on-bad-text", "skip"]
    long = cli("embed", "bad.txt", *BERT, *skip, "--budget", 10, "--on-overflow", "error", code=1)
    assert "tokens over the limit of 10" in one_line(long.stderr, "error: line 6 of bad.txt is ")
    unused = cli("embed", "one", "two", *BERT, *skip, "--instruction", "Find it", code=1)
    assert "{instruction}" in one_line(unused.stderr, "error: Recipe ")


def test_vectors_say_which_template_and_instruction_they_are_of(cli):
    Path("mine.toml").write_text(
        '[mine]\nquery_template = "{bos}{instruction}: {text:pool}"\ndocument_template = "{text:pool}"\n'
        'instruction = "Its own"\n'
    )
    named = ["-q", "--recipes-file", "mine.toml"]
    cases = {"q": ("query", "Find ß"), "own": ("query", None), "d": ("document", None)}
    found = {}
    for name, (kind, instruction) in cases.items():
        given = ["--instruction", instruction] if instruction else []
        for suffix in ("npy", "parquet"):
            cli("embed", "a text", "-o", f"{name}.{suffix}", *named, "--kind", kind, *given)
        metadata = pq.read_schema(f"{name}.parquet").metadata
        notes = json.loads(Path(f"{name}.npy.json").read_text())
        found[name] = notes["kind"], notes["instruction"]
        assert found[name] == tuple(metadata[f"echoembed.{key}".encode()].decode() for key in ("kind", "instruction"))
    assert found == {"q": ("query", "Find ß"), "own": ("query", "Its own"), "d": ("document", "")}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["embed", "missing.txt"], "There is no file 'missing.txt'"),
        (["embed", "a", "-o", "v.csv"], "does not tell a format to write"),
        (["embed", "a", "-o", "sentences.jsonl"], "exists already"),
        (["embed", "a", "-r", "ecko"], "Did you mean 'echo'"),
        (["embed", "a", "-m", "./no/model"], "no/model"),
        (["embed", "a", "--layer", "99"], "layer 99"),
        (["embed", "a", "--recipes-file", "none.toml"], "none.toml"),
        (["similarity", ""], "argument 1 is empty"),
        (["compare", "alone"], "at least 2"),
        (["compare", "a", "b", "--heatmap", "x.txt"], "Allowed: .png, .svg, .pdf"),
        (["recipes", "ecko"], "Did you mean 'echo'"),
        (["info", "-m", "./no/model"], "no/model"),
    ],
)
def test_a_fault_of_input_or_model_is_one_line_and_code_1(cli, args, message):
    Path("sentences.jsonl").write_text("precious")
    result = cli(*args, code=1)
    assert result.stdout == ""
    assert message in one_line(result.stderr, "error: ")
    assert Path("sentences.jsonl").read_text() == "precious"


@pytest.mark.parametrize("args", [["embd"], ["embed", "a", "--dtype", "int4"], ["embed", "--batch-size", "0", "a"]])
def test_wrong_usage_is_code_2(cli, args):
    assert "Usage:" in cli(*args, code=2).stderr


def test_a_fault_of_our_own_is_one_line_too(cli, monkeypatch):
    def fails(*_: object, **__: object):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("echoembed.cli.session.load", fails)
    line = one_line(cli("info", code=1).stderr, "error: ")
    assert "RuntimeError: out of memory" in line
    assert "ECHOEMBED_DEBUG=1" in line


# similarity, compare, recipes, info.


def test_similarity_is_the_cosine_of_every_pair(cli, model):
    expected = model.similarity(model.encode(SENTENCES), model.encode(SENTENCES)).numpy()
    result = json.loads(cli("similarity", *SENTENCES, "--json").stdout)
    assert result["texts"] == SENTENCES
    assert result["fingerprint"] == echoembed.fingerprint(model)
    np.testing.assert_allclose(result["matrix"], expected, atol=1e-5)
    table = cli("similarity", "sentences.txt").stdout
    assert all(sentence in table for sentence in SENTENCES)
    assert f"{expected[0, 1]:.3f}" in table


def test_every_pair_is_shown_of_few_texts_only(cli):
    Path("many.txt").write_text("text\n" * 101)
    assert "more than 100 texts" in cli("similarity", "many.txt", code=1).stderr


def test_compare_shows_recipes_side_by_side(cli):
    result = json.loads(cli("compare", *SENTENCES, "-r", "echo", "-r", "classical-last", "--json").stdout)
    assert list(result["recipes"]) == ["echo", "classical-last"]
    for name, shown in result["recipes"].items():
        vectors = echoembed.load("tiny", recipe=name).encode(SENTENCES)
        np.testing.assert_allclose(shown["matrix"], vectors @ vectors.T, atol=1e-5)
    table = cli("compare", *SENTENCES).stdout
    assert "classical" in table
    assert "echo" in table
    assert f"{result['recipes']['echo']['matrix'][1][2]:.3f}" in table


def test_a_heatmap_is_a_picture_that_is_not_overwritten_unasked(cli):
    pytest.importorskip("matplotlib")
    cli("compare", *SENTENCES, "$tex_$ [b]", "--heatmap", "x.png")
    picture = Path("x.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert "exists already" in cli("compare", "a", "b", "--heatmap", "x.png", code=1).stderr
    assert Path("x.png").read_bytes() == picture


def test_every_recipe_is_listed(cli):
    table = cli("recipes").stdout
    assert all(name in table for name in echoembed.recipes)
    listed = json.loads(cli("recipes", "--json").stdout)
    assert {name: row["fingerprint"] for name, row in listed.items()} == {
        name: recipe.fingerprint() for name, recipe in echoembed.recipes.items()
    }


@pytest.mark.parametrize("name", ["echo", "prompteol", "gritlm-7b", "echo-finetuned-last"])
def test_a_recipe_is_shown_on_a_text_with_its_pooled_part_and_fetches_nothing(cli, name):
    shown = json.loads(cli("recipes", name, "--text", "A [/b] text.", "--json").stdout)
    assert shown["query_template"] == echoembed.recipes[name].query_template
    assert shown["query_prompt"].count("A [/b] text.") == echoembed.recipes[name].template("query").copies
    assert shown["query_prompt"].endswith(shown["query_pooled"])
    assert "A [/b] text." in cli("recipes", name, "--text", "A [/b] text.").stdout


def test_info_is_what_the_library_describes(cli):
    expected = echoembed.describe(echoembed.load("tiny", recipe="echo-last", layer=2, device="cpu"))
    options = ["-r", "echo-last", "--layer", 2, "--device", "cpu"]
    assert json.loads(cli("info", *options, "--json").stdout) == expected
    assert expected["fingerprint"] in cli("info", *options).stdout


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"engine": "padded"}, {"deterministic": True}])
def test_the_ways_to_compute_reach_the_model(cli, options):
    expected = echoembed.load("tiny", device="cpu", **options)
    assert echoembed.describe(expected) != echoembed.describe(echoembed.load("tiny", device="cpu"))
    args = [part for name, value in options.items() for part in [f"--{name}", value][: 1 if value is True else 2]]
    assert json.loads(cli("info", "--device", "cpu", *args, "--json").stdout) == echoembed.describe(expected)
    cli("embed", *SENTENCES, "-o", "v.npy", "-q", "--device", "cpu", *args)
    np.testing.assert_allclose(np.load("v.npy"), expected.encode(SENTENCES), atol=1e-6)


def test_tables_and_their_delimiters_are_read(cli, model):
    Path("x.csv").write_text("id;text\na;one\nb;two\n")
    assert "add --delimiter ';'" in one_line(cli("embed", "x.csv", code=1).stderr, "error: ")
    rows = [json.loads(line) for line in cli("embed", "x.csv", "--delimiter", ";", "-q").stdout.splitlines()]
    np.testing.assert_allclose([row["vector"] for row in rows], model.encode(["one", "two"]), atol=1e-5)


def test_an_input_is_never_replaced(cli):
    Path("x.jsonl").write_text('{"text": "one"}\n')
    refused = cli("embed", "x.jsonl", "-o", "x.jsonl", "--overwrite", code=1)
    assert "is the input" in one_line(refused.stderr, "error: ")
    assert Path("x.jsonl").read_text() == '{"text": "one"}\n'


# As a process.


def test_the_package_itself_is_the_command_line():
    """People type ``python -m echoembed``; importing its module runs nothing."""
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    assert run([sys.executable, "-m", "echoembed", "--version"]).stdout == f"echoembed {echoembed.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "echoembed", "embed", "no.txt"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert run([sys.executable, "-c", "import echoembed.__main__"]).stdout == ""


def test_as_a_process_stdout_is_pure_and_stderr_quiet():
    done = subprocess.run(command("embed", "a text", "-q"), capture_output=True, check=True)
    assert json.loads(done.stdout)["text"] == "a text"
    assert done.stderr == b""


def test_text_of_any_script_passes_whatever_the_locale(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    for args in (["similarity", "ß三🙂", "b"], ["similarity", "ß三🙂", "b", "--json"], ["embed", "ß三🙂"]):
        done = subprocess.run(command(*args), capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_is_no_error():
    lines = "".join(f"this is text number {number}\n" for number in range(400)).encode()
    process = subprocess.Popen(
        command("embed", "-", "-q"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(lines)
    process.stdin.close()
    assert json.loads(process.stdout.readline())["id"] == "0"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk_is_an_error():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command("embed", "a text"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "No space left on device" in one_line(done.stderr, "error: ")
    assert "with --output" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(tmp_path, sent, code):
    process = subprocess.Popen(
        command("embed", "-", "-o", "v.npy"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    process.stdin.write("a line\n" * 65)
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob(".v.npy.*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(60) == code
    word = {130: "interrupted", 143: "terminated"}[code]
    assert process.stderr.read() == f"error: {word}: nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_says_that_some_was_printed_already(tmp_path):
    process = subprocess.Popen(
        command("embed", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdin.write("a line\n" * 65)
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(64)]
    assert json.loads(lines[-1])["id"] == "63"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "interrupted: the vectors that were printed are" in one_line(process.stderr.read(), "error: ")


class PanicException(BaseException):
    """What a tokenizer's Rust code raises, as it names it; no Exception."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PanicException("index out of bounds"), "The tokenizer failed on a text: index out of bounds"),
        (MemoryError(), "Memory ran out"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), "Memory ran out"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (KeyboardInterrupt(), "interrupted: nothing was written"),
    ],
)
def test_whatever_is_raised_is_one_line(cli, monkeypatch, error, message):
    def fails(*_: object, **__: object):
        raise error

    monkeypatch.setattr("echoembed.cli.session.load", fails)
    code = 130 if isinstance(error, KeyboardInterrupt) else 1
    assert message in one_line(cli("info", code=code).stderr, "error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [["recipes"], ["recipes", "--json"], ["recipes", "echo"], ["similarity", "a", "b"]])
def test_results_that_cannot_be_written_are_one_line(args):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command(*args), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "Standard output cannot be written: No space left on device" in one_line(done.stderr, "error: ")
    assert "--output" not in done.stderr  # which these verbs do not have
    assert done.returncode == 1


@pytest.mark.parametrize("args", [["recipes"], ["embed", "a text"]])
def test_a_closed_standard_output_is_one_line(args):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command(*args)], stderr=subprocess.PIPE, text=True, check=False
    )
    assert "Standard output cannot be written: it is closed" in one_line(done.stderr, "error: ")
    assert ("--output" in done.stderr) == (args[0] == "embed")
    assert done.returncode == 1
