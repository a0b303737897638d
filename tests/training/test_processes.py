"""Several processes train what one would on the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import training_runs as runs
from echoembed.training import curves, run
from echoembed.training.config import AdapterConfig

pytest.importorskip("peft")


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda _folder: [])  # takes as long as a run, and is tested elsewhere
        yield


def config(folder, name, model, **changes):
    usual = runs.small(folder, model=model, output=str(folder / name), adapter=AdapterConfig(rank=4))
    optimiser = replace(usual.optimiser, learning_rate=1e-3, temperature=0.1, **changes)
    return replace(usual, optimiser=optimiser)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, no_pictures):
    """Runs of two processes over gloo, as torchrun starts them, and of one."""
    folder = tmp_path_factory.mktemp("runs")
    model = str(runs.tiny_models.folder("llama", num_hidden_layers=2))
    plan = [
        {"config": config(folder, "two", model).as_dict(), "settings": {"processes": 2}},
        {"config": config(folder, "odd", model, batch_size=5).as_dict(), "settings": {"processes": 2}},
        {"config": config(folder, "stopped", model).as_dict(), "settings": {"processes": 2, "stop_in_step": 3}},
        {"config": config(folder, "stopped", model).as_dict(), "settings": {"processes": 2, "resume": True}},
    ]
    plan += [{"config": distilling(folder, "distil-two").as_dict(), "settings": {"processes": 2}}]
    plan = [{**entry, "says": str(folder / f"says-{number}.txt")} for number, entry in enumerate(plan)]
    (folder / "plan.json").write_text(json.dumps(plan))
    process = subprocess.Popen([sys.executable, runs.__file__, folder / "plan.json"], stderr=subprocess.PIPE, text=True)
    run.train(config(folder, "one", model))
    run.train(distilling(folder, "distil-one"))
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    return folder


def distilling(folder, name):
    """A run of distillation, of which each process has half of every batch."""
    usual = runs.distilling(folder)
    model = str(runs.tiny_models.folder("llama", num_hidden_layers=2))
    return replace(usual, output=str(folder / name), model=model, adapter=AdapterConfig(rank=4))


def said(folder, number):
    return (folder / f"says-{number}.txt").read_text()


def test_two_processes_train_what_one_does_on_the_whole_batch(folder):
    """So the hard negatives of both are every query's candidates: fewer candidates would be a smaller loss."""
    assert said(folder, 0).endswith("ended with 0, 0\n"), said(folder, 0)
    one, two = (runs.log(folder / name) for name in ("one", "two"))
    assert len(one) == len(two) == 6
    for alone, shared in zip(one, two, strict=True):
        for key in ("step", "data_set", "rows", "tokens", "learning_rate"):
            assert alone[key] == shared[key]
        for key in ("loss", "gradient_norm"):
            assert shared[key] == pytest.approx(alone[key], rel=1e-5)
    wanted, found = (runs.weights(folder / name) for name in ("one", "two"))
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        assert (found[name] - weight).norm() <= 1e-5 * weight.norm(), name


def test_a_text_is_compared_with_the_texts_of_all_processes(folder):
    """In distillation: a process by itself would have a single other text for each, and so no loss."""
    assert said(folder, 4).endswith("ended with 0, 0\n"), said(folder, 4)
    one, two = (runs.log(folder / name) for name in ("distil-one", "distil-two"))
    for alone, shared in zip(one, two, strict=True):
        for key in ("loss", "gradient_norm"):
            assert shared[key] == pytest.approx(alone[key], rel=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(folder):
    assert said(folder, 1).endswith("ended with 1, 1\n")
    assert said(folder, 1).count("TrainingError: A batch of 5 rows cannot be shared evenly by 2 processes.") == 2
    assert not (folder / "odd").exists()


def test_a_signal_to_one_process_stops_both_and_both_go_on(folder):
    assert said(folder, 2).endswith("ended with 1, 1\n")
    assert said(folder, 2).count("TrainingStoppedError: Stopped after step 3 of 6") == 2
    assert said(folder, 3).endswith("ended with 0, 0\n"), said(folder, 3)
    assert {path.name for path in (folder / "stopped/checkpoints/step-6").iterdir()} >= {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    wanted, found = (runs.weights(folder / name) for name in ("two", "stopped"))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
