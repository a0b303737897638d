"""Ctrl-C and a request to end, in the middle of every verb that runs long: one line says what was kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_models

TEXTS = [f"text number {number} is about {tiny_models.WORDS[number % 7]}" for number in range(4000)]
TRAINING = """
output = "out"
model = "{model}"
[[data]]
path = "rows.jsonl"
[optimiser]
steps = 100000
batch_size = 4
warmup_steps = 0
[checkpoint]
every = 1
keep = 3
"""
# The words of each command, what its work leaves there (empty: it waits for its input), and what it has to say.
VERBS = {
    "similarity": ("similarity -", "", "nothing was written"),
    "compare": ("compare -", "", "nothing was written"),
    "corpus": (
        "corpus build texts.jsonl -o out --shard-rows 16",
        "out/shards/[!.]*.parquet",  # a pattern's * matches a hidden name too
        "finished shards are kept in out, and the same command continues from there",
    ),
    "eval": (
        "eval --data data -o out",
        "out/**/[!.]*.json",
        "finished scores are kept in out, and the same command continues from there",
    ),
    "reproduce": (
        "reproduce table2 --full --data data -o out",
        "out/scores/**/[!.]*.json",
        "finished work is kept in out, and the same command continues from there",
    ),
    "train": ("train run.toml -q", "out/checkpoints/step-*", "--resume"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Of each verb, its exit status and what it said."""
    root = tmp_path_factory.mktemp("verbs")
    plan = []
    for number, (name, (words, begun, _)) in enumerate(VERBS.items()):
        folder = root / name
        prepare(folder)
        model = [] if name == "train" else ["-m", "tiny"]
        sent = "SIGTERM" if number % 2 else "SIGINT"
        plan.append({"words": [*words.split(), *model], "folder": str(folder), "begun": begun, "signal": sent})
    (root / "plan.json").write_text(json.dumps(plan))
    script = Path(__file__).with_name("interrupted.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (script.parents[1], *sys.path[1:])))}
    done = subprocess.run(
        [sys.executable, script, root / "plan.json"], stdout=subprocess.PIPE, check=True, env=environment
    )
    ends = json.loads(done.stdout.splitlines()[-1])
    return {
        name: (entry["signal"], end, (root / name / "stderr.txt").read_text(), root / name)
        for name, entry, end in zip(VERBS, plan, ends, strict=True)
    }


def prepare(folder: Path) -> None:
    """More work than is done before the signal."""
    folder.mkdir()
    rows = [{"sentence1": text, "sentence2": text[::-1], "score": 1.0 + n % 5} for n, text in enumerate(TEXTS)]
    for name, some in (("first", rows[:20]), ("second", rows[20:40]), ("third", rows)):
        (folder / "data/sts" / name).mkdir(parents=True)
        (folder / "data/sts" / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    pairs = [{"query": text, "positive": f"about {text}", "negative": f"not {text}"} for text in TEXTS[:40]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "run.toml").write_text(TRAINING.format(model=tiny_models.folder("llama")))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_interrupted_says_in_one_line_what_was_kept(said, verb):
    sent, end, stderr, _ = said[verb]
    *before, last = stderr.splitlines()
    assert last.startswith("error: ")
    assert VERBS[verb][2] in last, stderr
    assert end == (130 if sent == "SIGINT" or verb == "train" else 143)
    assert not [line for line in before if "Traceback" in line or line.startswith("error")], stderr


def test_what_is_said_to_be_kept_is_there(said):
    for verb in ("corpus", "eval", "reproduce"):
        assert list(said[verb][3].glob(VERBS[verb][1])), verb
    last = said["train"][2].splitlines()[-1]
    assert any(str(step) in last for step in said["train"][3].glob("out/checkpoints/step-*")), last
    assert not [path for name in VERBS for path in said[name][3].rglob("*.part")]


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("words", ["embed a -m tiny", "--help"])
@pytest.mark.parametrize("module", ["typer", "echoembed.cli.tune", "rich"])
def test_an_interrupt_of_the_imports_is_one_line_too(sent, code, words, module):
    """The signal comes when a module is looked for, as Ctrl-C in the first second does."""
    script = f"""
import os, signal, sys

class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == "{module}":
            os.kill(os.getpid(), signal.{sent})

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
sys.argv = ["echoembed", *{words.split()}]
from echoembed.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    word = {130: "interrupted", 143: "terminated"}[code]
    assert (done.stdout, done.stderr) == ("", f"error: {word}: nothing was written\n")
    assert done.returncode == code
