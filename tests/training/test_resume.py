"""A run that was cut off ends as if it had not been; checkpoints are whole or not there; other runs are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

import training_runs as runs
from echoembed import errors
from echoembed.engine import padded_batch
from echoembed.training import checkpoint, curves, plan, resume, rows, run
from echoembed.training.config import CheckpointConfig, ScoreConfig
from echoembed.training.tables import TeacherConfig

pytest.importorskip("peft")


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda _folder: [])  # takes as long as a run, and is tested elsewhere
        yield


# Killed when the checkpoints were: none; those of steps 2 and 4; that of step 2 and half of step 4's.
KILLS = {"early": {"kill_in_step": 2}, "late": {"kill_in_step": 6}, "saving": {"kill_in_checkpoint": 4}}
LARGEST_FILE = 40_000
"""Bytes: the weights are smaller, the optimiser's two numbers per weight are not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, no_pictures):
    """A whole run, and runs in processes of their own that were killed on the way, or had no room for a checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    model = runs.small(folder).model  # which writes the data, too

    def entry(name, says="", **settings):
        config = runs.small(folder, model=model, output=str(folder / name)).as_dict()
        return {"config": config, "settings": settings, "says": str(folder / f"{says or name}.txt")}

    plan = [entry(name, **settings) for name, settings in KILLS.items()]
    plan += [entry("full", "before", kill_in_step=6), entry("full", resume=True, largest_file=LARGEST_FILE)]
    (folder / "plan.json").write_text(json.dumps(plan))
    process = subprocess.Popen([sys.executable, runs.__file__, folder / "plan.json"], stderr=subprocess.PIPE, text=True)
    run.train(runs.small(folder, output=str(folder / "whole")))
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    for name in (*KILLS, "before"):
        said = (folder / f"{name}.txt").read_text()
        assert said.endswith("ended with -9\n"), said
    return folder


def begun(folder, tmp_path, name="late"):
    """A copy of a run that was killed, and its configuration."""
    shutil.copytree(folder / name, tmp_path / "run")
    return runs.small(folder, output=str(tmp_path / "run"))


def steps(path, kind="checkpoints"):
    return sorted(entry.name for entry in (path / kind).iterdir())


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_ends_bit_for_bit_as_if_it_had_not_been(folder, tmp_path, name):
    config = begun(folder, tmp_path, name)
    left = {"early": None, "late": ["step-2", "step-4"], "saving": ["step-2"]}[name]
    if left is None:
        assert not (tmp_path / "run/checkpoints").exists()
    else:
        assert [entry for entry in steps(tmp_path / "run") if not entry.startswith(".")] == left
    if name == "saving":
        assert len(steps(tmp_path / "run")) == 2, "the process was not killed within a checkpoint"
    run.train(config, resume=True)

    whole, resumed = folder / "whole", tmp_path / "run"
    assert steps(resumed) == steps(whole) == ["step-4", "step-6"]
    wanted, found = runs.weights(whole), runs.weights(resumed)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[weight], found[weight]) for weight in wanted)
    for file in ("optimizer.pt", "scheduler.pt"):
        states = [torch.load(path / "checkpoints/step-6" / file) for path in (whole, resumed)]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    said = ("step", "loss", "learning_rate", "gradient_norm", "data_set", "tokens")
    logs = [[[line[key] for key in said] for line in runs.log(path)] for path in (whole, resumed)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("fails", "its states or gradients differ"),
        ("checkpointing", "gradient_checkpointing needs it"),
        ("padded", ""),
        ("packed", ""),
    ],
)
def test_a_run_through_the_padded_forward_says_why(tmp_path, monkeypatch, case, reason):
    """A slower run must not look like any other; one whose settings name the padded forward has nothing to say."""
    config = runs.small(tmp_path)
    forward = "padded" if case == "padded" else "packed"
    settings = {"forward": forward, "gradient_checkpointing": case == "checkpointing"}
    optimiser = replace(config.optimiser, steps=1, warmup_steps=0, **settings)
    if case == "fails":
        backward = padded_batch._Pad.backward
        half = lambda ctx, gradient: (backward(ctx, gradient)[0] / 2, None, None, None)  # noqa: E731
        monkeypatch.setattr(padded_batch._Pad, "backward", half)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.train(replace(config, optimiser=optimiser))
    said = [str(one.message) for one in caught if issubclass(one.category, run.TrainingWarning)]
    assert bool(said) == bool(reason), said
    assert not reason or f"Training runs the model's own padded forward, which is slower: {reason}" in said[0]


def test_the_environment_does_not_decide_the_precision(tmp_path, monkeypatch):
    """accelerate's launcher sets this variable by its own configuration."""
    losses = []
    for precision in ("no", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        for forward in ("packed", "padded"):
            config = runs.small(tmp_path, output=str(tmp_path / f"{precision}-{forward}"))
            run.train(replace(config, optimiser=replace(config.optimiser, steps=1, warmup_steps=0, forward=forward)))
            losses.append(json.loads((Path(config.output) / "log.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[:2] == losses[2:]


def test_a_model_that_a_kill_kept_from_being_saved_is_saved_by_the_resumed_run(folder, tmp_path):
    config = replace(begun(folder, tmp_path), checkpoint=CheckpointConfig(every=2, keep=2, models=True))
    assert not (tmp_path / "run/models").exists()
    run.train(config, resume=True)
    assert steps(tmp_path / "run", "models") == ["step-4", "step-6"]


def test_another_number_of_processes_is_named(folder, tmp_path):
    config = begun(folder, tmp_path)
    left = tmp_path / "run/checkpoints/step-4"
    for number in range(2):
        shutil.copy(left / "rng_state.pth", left / f"rng_state_{number}.pth")
    with pytest.warns(resume.ResumeWarning, match="started with 2 processes and goes on with 1"):
        run.train(config, resume=True)


def test_dropout_and_the_order_of_rows_are_really_at_work(folder, tmp_path):
    """Else the test above would hold for a run that forgets its random state."""
    config = begun(folder, tmp_path)
    for path in (tmp_path / "run/checkpoints").glob("*/rng_state.pth"):
        states = torch.load(path, weights_only=False)
        torch.save({**states, "cpu": torch.Generator().manual_seed(99).get_state()}, path)
        record = json.loads((path.parent / "record.json").read_text())
        del record["files"]  # as an earlier version wrote it: with hashes, the changed state would be refused
        (path.parent / "record.json").write_text(json.dumps(record))
    run.train(config, resume=True)
    wanted, found = runs.weights(folder / "whole"), runs.weights(tmp_path / "run")
    assert any(not torch.equal(wanted[weight], found[weight]) for weight in wanted)


def test_a_whole_checkpoint_of_a_finished_run_trains_no_further(folder, tmp_path):
    config = begun(folder, tmp_path, "whole")
    before = runs.weights(tmp_path / "run")
    run.train(config, resume=True)
    after = runs.weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(runs.log(tmp_path / "run")) == 6


def test_no_run_is_written_over(folder, tmp_path):
    config = begun(folder, tmp_path)
    with pytest.raises(errors.TrainingError, match=r"There is a run in .* already.*--resume"):
        run.train(config)


def test_another_configuration_is_refused_with_the_differences(folder, tmp_path):
    config = begun(folder, tmp_path)
    other = replace(config, seed=4, optimiser=replace(config.optimiser, learning_rate=0.5))
    with pytest.raises(errors.TrainingError) as found:
        run.train(other, resume=True)
    for words in ("seed was 3 and is 4", "optimiser.learning_rate was 0.01 and is 0.5"):
        assert words in str(found.value)
    assert "budget" not in str(found.value)


def test_other_data_is_refused_and_the_same_data_elsewhere_is_not(folder, tmp_path):
    config = begun(folder, tmp_path)
    moved = shutil.copy(config.data[1].path, str(tmp_path / "alike.jsonl"))
    config = replace(config, data=(config.data[0], replace(config.data[1], path=moved)))
    content = Path(moved).read_text()
    Path(moved).write_text(content.replace('"query": "', '"query": "Now ', 1))
    with pytest.raises(errors.TrainingError, match="files of the data set 'alike' hold something else"):
        run.train(config, resume=True)
    Path(moved).write_text(content)
    run.train(config, resume=True)
    wanted, found = runs.weights(folder / "whole"), runs.weights(tmp_path / "run")
    assert all(torch.equal(wanted[weight], found[weight]) for weight in wanted)


def test_other_weights_of_the_model_are_refused(folder, tmp_path):
    config = begun(folder, tmp_path)
    model = shutil.copytree(config.model, tmp_path / "model")
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    for path in tmp_path.glob("run/checkpoints/*/record.json"):  # only the weights differ, not their place
        path.write_text(path.read_text().replace(config.model, str(model)))
    with pytest.raises(errors.TrainingError, match=r"the model's revision was .*, and is"):
        run.train(replace(config, model=str(model)), resume=True)


@pytest.mark.parametrize("change", ["every", "save"])
def test_what_does_not_change_the_weights_may_be_otherwise(folder, tmp_path, change):
    config = begun(folder, tmp_path)
    new = {"every": {"checkpoint": CheckpointConfig(every=1, keep=1)}, "save": {"save": "merged"}}[change]
    run.train(replace(config, **new), resume=True)
    wanted, found = runs.weights(folder / "whole"), runs.weights(tmp_path / "run")
    assert all(torch.equal(wanted[weight], found[weight]) for weight in wanted)


def test_the_newest_are_kept_and_half_written_ones_are_ignored(folder, tmp_path):
    config = replace(begun(folder, tmp_path), checkpoint=CheckpointConfig(every=1, keep=3))
    left = tmp_path / "run/checkpoints"
    shutil.copytree(left / "step-4", left / "step-5")
    (left / "step-5/optimizer.pt").unlink()
    assert checkpoint.newest(tmp_path / "run") == left / "step-4"
    run.train(config, resume=True)
    assert steps(tmp_path / "run") == ["step-4", "step-5", "step-6"]
    assert (left / "step-5/optimizer.pt").exists()


def test_no_file_is_ever_written_in_a_checkpoints_own_folder(folder, tmp_path):
    """It gets its name when it is whole, so that whatever happens, what has the name is whole."""
    written = []

    def note(event, arguments):
        if event == "open" and isinstance(arguments[0], (str, Path)):
            path, flags = str(arguments[0]), arguments[2]
            if path.startswith(str(tmp_path)) and flags & (os.O_WRONLY | os.O_RDWR):
                written.append(Path(path).parent.name)

    sys.addaudithook(note)  # for good: it notes nothing outside this test's folder
    run.train(runs.small(folder, output=str(tmp_path / "run")))
    assert any(name.startswith(".step-") and name.endswith(".part") for name in written), "what is written is not seen"
    assert not [name for name in written if name.startswith("step-")]


def test_a_full_disk_leaves_the_last_good_checkpoint(folder, tmp_path):
    """The system itself refuses to write large files, as a full disk would: the optimiser's, of the last checkpoint."""
    said = (folder / "full.txt").read_text()
    assert said.endswith("ended with 1\n")
    assert "TrainingError: The checkpoint of step 6 could not be written" in said
    assert f"The last good checkpoint is {folder}/full/checkpoints/step-4." in said
    left = [path.relative_to(folder / "full") for path in sorted((folder / "full/checkpoints").rglob("*"))]
    assert left == [path.relative_to(folder / "late") for path in sorted((folder / "late/checkpoints").rglob("*"))]
    for path in left:
        if path.suffix in (".safetensors", ".pt", ".pth"):
            assert (folder / "full" / path).read_bytes() == (folder / "late" / path).read_bytes()
    assert (folder / "late/checkpoints/step-4/weights.safetensors").stat().st_size < LARGEST_FILE
    assert (folder / "late/checkpoints/step-4/optimizer.pt").stat().st_size > LARGEST_FILE

    run.train(begun(folder, tmp_path, "full"), resume=True)
    wanted, found = runs.weights(folder / "whole"), runs.weights(tmp_path / "run")
    assert all(torch.equal(wanted[weight], found[weight]) for weight in wanted)


def test_a_damaged_checkpoint_is_named(folder, tmp_path):
    config = begun(folder, tmp_path)
    path = tmp_path / "run/checkpoints/step-4/weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.TrainingError, match=r"step-4 cannot be read.*from the one before"):
        run.train(config, resume=True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "record.json"])
def test_a_changed_byte_in_any_file_of_a_checkpoint_is_refused(folder, tmp_path, name):
    """Also where the file could still be read, and the run would go on from another state."""
    config = begun(folder, tmp_path)
    path = tmp_path / "run/checkpoints/step-4" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(errors.TrainingError, match=r"step-4.*cannot be read.*from the one before"):
        run.train(config, resume=True)


def test_damaged_lines_of_the_logs_are_left_out(folder, tmp_path):
    config = begun(folder, tmp_path)
    with (tmp_path / "run/log.jsonl").open("ab") as log:
        log.write(b'5\n{"step": "3"}\n[1]\n\xff\xfe\n{"step": 4}\n{"st')
    run.train(config, resume=True)
    assert [line["step"] for line in runs.log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "model", "models", "checkpoints", "logs", "loss.png"])
@pytest.mark.parametrize("resume", [False, True])
def test_somebody_elses_folder_is_left_as_it_is(folder, tmp_path, name, resume):
    """A run would overwrite what has the name of a file of its own."""
    path = tmp_path / "run" / name
    path.parent.mkdir()
    if "." in name:
        path.write_text('{"step": 1, "model_type": "llama"}\n')
    else:
        (path / "step-2").mkdir(parents=True)
        (path / "step-2" / "theirs").write_text("theirs")
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(errors.TrainingError, match=rf"holds no run of echoembed, but {name}, which.*nothing is overwr"):
        run.train(runs.small(folder, output=str(tmp_path / "run")), resume=resume)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_two_processes_never_train_in_one_folder(folder, tmp_path):
    config = begun(folder, tmp_path)
    before = (tmp_path / "run/log.jsonl").read_bytes()
    holder = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'ab')\nfcntl.flock(file, fcntl.LOCK_EX)\nprint(flush=True)"
    )
    command = [sys.executable, "-c", holder + "\ntime.sleep(60)", str(tmp_path / "run/log.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(errors.TrainingError, match="Another process is training in"):
                run.train(config, resume=True)
        finally:
            other.kill()
    assert (tmp_path / "run/log.jsonl").read_bytes() == before
    run.train(config, resume=True)  # once the other has ended


def test_a_run_holds_its_folder_until_it_ends(folder, tmp_path):
    import fcntl

    class Attempt(TrainerCallback):
        held: list[bool] = []  # noqa: RUF012

        def on_step_end(self, *_, **__):
            with (tmp_path / "run/log.jsonl").open("ab") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self.held.append(True)
                else:
                    self.held.append(False)

    run.train(begun(folder, tmp_path), resume=True, callbacks=[lambda _model: Attempt()])
    assert Attempt.held == [True, True]
    with (tmp_path / "run/log.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_other_libraries_are_named_and_the_run_goes_on(folder, tmp_path):
    config = begun(folder, tmp_path)
    path = tmp_path / "run/checkpoints/step-4/record.json"
    record = json.loads(path.read_text())
    record["libraries"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    with pytest.warns(resume.ResumeWarning, match=r"torch was 1\.0 and is"):
        run.train(config, resume=True)


def test_the_same_model_in_another_folder_is_the_same_model(folder, tmp_path):
    config = begun(folder, tmp_path)
    moved = shutil.copytree(config.model, tmp_path / "model")
    run.train(replace(config, model=str(moved)), resume=True)
    wanted, found = runs.weights(folder / "whole"), runs.weights(tmp_path / "run")
    assert all(torch.equal(wanted[weight], found[weight]) for weight in wanted)


def test_data_that_change_while_they_are_read_are_refused(folder, tmp_path, monkeypatch):
    """Else the record would hold the hash of rows that were never trained on."""
    shutil.copytree(folder / "data", tmp_path / "data")
    config = runs.small(tmp_path)
    usual = rows.read_all

    def read(*arguments, **named):
        data = usual(*arguments, **named)
        with (tmp_path / "data/alike.jsonl").open("a") as file:
            file.write(json.dumps({"query": "a", "positive": "b", "negative": "c"}) + "\n")
        return data

    monkeypatch.setattr(rows, "read_all", read)
    with pytest.raises(errors.TrainingError, match="files of 'alike' changed while they were read"):
        run.train(config)
    assert not (tmp_path / "run").exists()


def test_a_refused_start_leaves_no_folder_that_looks_like_a_run(folder, tmp_path):
    """After the mistake is corrected, the same command starts the run."""
    config = runs.small(folder, output=str(tmp_path / "run"))
    for wrong in (
        replace(config, score=ScoreConfig(data=str(tmp_path / "none"))),
        replace(config, objective="mntp", attention="bidirectional", layer=1, pooling="", data=plain(config)),
        replace(
            config, objective="distil", teacher=TeacherConfig(vectors=str(tmp_path / "none.jsonl")), data=plain(config)
        ),
    ):
        with pytest.raises(errors.EchoembedError):
            run.train(wrong)
        assert not (tmp_path / "run").exists()


def plain(config):
    return tuple(replace(entry, instruction="", symmetric=False) for entry in config.data)


@pytest.mark.parametrize("inside", ["", "run"])
def test_an_output_that_is_a_file_is_refused_before_a_model_is_loaded(folder, tmp_path, monkeypatch, inside):
    monkeypatch.setattr(run, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "file").write_text("mine")
    config = runs.small(folder, output=str(tmp_path / "file" / inside))
    for start in (run.train, plan.make):
        with pytest.raises(errors.FileError, match=r"Nothing can be written to .*file is a file"):
            start(config)
    assert (tmp_path / "file").read_text() == "mine"
