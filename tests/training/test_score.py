"""Scores and progress on the way tell how the run goes, and change nothing of it."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import spearmanr
from transformers import TrainerControl, TrainerState

import echoembed
import tiny_models
from echoembed import errors
from echoembed.model.transformer import transformer_of
from echoembed.training import curves
from echoembed.training.adapter import add_adapter
from echoembed.training.config import AdapterConfig, MaskingConfig, ScoreConfig
from echoembed.training.mntp import MntpLoss, plain_text
from echoembed.training.progress import TrainingProgress
from echoembed.training.score import Scores, undisturbed
from echoembed.training.simcse import prepare

pytest.importorskip("peft")
pytest.importorskip("mteb")

TEXTS = ["the cat sat on a mat while rain fell", "the river carried its boats to harbour", "nobody waits", "old town"]


@pytest.fixture
def data(tmp_path):
    """A folder with one data set of similarities."""
    draw = random.Random(0)
    folder = tmp_path / "data" / "sts" / "made"
    folder.mkdir(parents=True)
    pairs = [[" ".join(draw.choices(tiny_models.WORDS, k=6)) for _ in range(2)] for _ in range(12)]
    rows = [{"sentence1": one, "sentence2": two, "score": draw.random() * 5} for one, two in pairs]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def load(recipe="classical-bidirectional"):
    model = echoembed.load(tiny_models.folder("llama"), recipe=recipe, engine="padded", device="cpu")
    add_adapter(model, AdapterConfig(rank=4), seed=0)
    prepare(model, 0.3)
    return model


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def states(at, of):
    state = TrainerState(max_steps=of)
    state.global_step = at
    return state


def run(steps, model, scores=None):
    """Training with dropout and masks drawn at random, as the trainer calls what listens."""
    loss = MntpLoss(model, MaskingConfig(rate=0.5))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=0.01)
    control = TrainerControl()
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    model.train()
    losses = []
    reading = plain_text(model)
    if scores:
        scores.on_train_begin(None, states(0, steps), control)
    for step in range(1, steps + 1):
        value = loss([reading.preprocess(TEXTS)])
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(value.item())
        assert all(module.training for module in model.modules())
        if scores:
            scores.on_step_end(None, states(step, steps), control)
    drawn = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    return losses, [weight.detach().clone() for weight in weights], drawn


def test_a_run_with_scores_ends_with_the_same_bits_as_one_without(data, tmp_path):
    model = load()
    scores = Scores(model, ScoreConfig(data=str(data), every=1), tmp_path)
    losses, weights, drawn = run(3, model, scores)
    alone_losses, alone_weights, alone_drawn = run(3, load())
    assert len(set(losses)) == 3
    assert losses == alone_losses
    assert drawn == alone_drawn
    for one, other in zip(weights, alone_weights, strict=True):
        assert torch.equal(one, other)
    assert [line["step"] for line in read(tmp_path / "scores.jsonl")] == [0, 1, 2, 3]


@pytest.mark.parametrize(("every", "expected"), [(0, [0, 5]), (2, [0, 2, 4, 5]), (5, [0, 5]), (9, [0, 5])])
def test_scores_are_made_when_they_are_due(every, expected, data, tmp_path):
    scores = Scores(load(), ScoreConfig(data=str(data), every=every), tmp_path)
    scores.on_train_begin(None, states(0, 5), None)
    for step in range(1, 6):
        scores.on_step_end(None, states(step, 5), None)
    assert [line["step"] for line in read(tmp_path / "scores.jsonl")] == expected


def test_a_score_is_that_of_the_recipe_outside_training(data, tmp_path):
    """Against scipy, on a model in training."""
    model = load()
    rows = read(data / "sts" / "made" / "test.jsonl")
    model.eval()
    left, right = (model.encode([row[key] for row in rows]) for key in ("sentence1", "sentence2"))
    expected = spearmanr((left * right).sum(axis=1), [row["score"] for row in rows]).statistic
    model.train()
    scores = Scores(model, ScoreConfig(data=str(data)), tmp_path)
    scores.on_train_begin(None, states(0, 5), None)
    [line] = read(tmp_path / "scores.jsonl")
    assert line == {"step": 0, "task": "made", "kind": "STS", "score": pytest.approx(expected, abs=1e-6)}
    assert scores.last[0].score == line["score"]


def test_a_resumed_run_does_not_score_its_beginning_again(data, tmp_path):
    scores = Scores(load(), ScoreConfig(data=str(data), every=2), tmp_path)
    scores.on_train_begin(None, states(2, 5), None)
    assert not (tmp_path / "scores.jsonl").exists()


def test_only_the_first_process_scores(data, tmp_path):
    scores = Scores(load(), ScoreConfig(data=str(data)), tmp_path)
    state = states(0, 5)
    state.is_world_process_zero = False
    scores.on_train_begin(None, state, None)
    assert not (tmp_path / "scores.jsonl").exists()


def test_tasks_that_are_not_there_are_told_before_the_first_step(data, tmp_path):
    with pytest.raises(errors.EvaluationError, match="no task 'retrieval'"):
        Scores(load(), ScoreConfig(data=str(data), tasks=("retrieval",)), tmp_path)


def test_a_sample_is_scored_where_there_are_more_rows(data, tmp_path):
    scores = Scores(load(), ScoreConfig(data=str(data), sample=6), tmp_path)
    scores.on_train_begin(None, states(0, 5), None)
    assert scores.last[0].details["texts"] <= 12


def test_what_scoring_changes_is_put_back_when_it_fails():
    model = load()
    transformer = transformer_of(model)
    model.train()
    transformer.model.layers[0].eval()  # whoever froze it meant to
    before = (torch.get_rng_state(), [module.training for module in model.modules()])

    def fail():
        with undisturbed(model):
            model.encode(TEXTS)
            torch.rand(9)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert [module.training for module in model.modules()] == before[1]


# Progress


def steps_of(progress, count, console, *, main=True):
    state = states(0, count)
    state.is_world_process_zero = main
    progress.on_train_begin(None, state, None)
    for step in range(1, count + 1):
        state = states(step, count)
        state.is_world_process_zero = main
        logs = {"loss": 1 / step, "rows": 10, "tokens": 400, "seconds": 2.0}
        progress.on_log(None, state, None, logs=logs)
    progress.on_log(None, state, None, logs={"train_runtime": 3.0})
    progress.on_train_end(None, state, None)
    return console.file.getvalue()


def test_without_a_terminal_there_is_a_line_now_and_then():
    console = Console(file=io.StringIO(), width=40)
    lines = steps_of(TrainingProgress(console), 1000, console).splitlines()
    assert len(lines) == 20
    assert lines[0] == "step 50 of 1,000, loss 0.0200, 5.0 rows/s, 200 tokens/s, 0:31:40 left"
    assert lines[-1] == "step 1,000 of 1,000, loss 0.0010, 5.0 rows/s, 200 tokens/s, 0:00:00 left"


def test_a_terminal_has_a_bar_which_goes_when_the_run_ends():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    shown = steps_of(TrainingProgress(console), 10, console)
    assert "step 5 of 10, loss 0.2000, 5.0 rows/s, 200 tokens/s, 0:00:10 left" in shown
    assert "50%" in shown
    assert "\x1b[2K" in shown[-40:]  # the line is erased


@pytest.mark.parametrize("terminal", [True, False])
def test_other_processes_are_silent(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert steps_of(TrainingProgress(console), 30, console, main=False) == ""


# Curves


def test_curves_are_drawn_of_what_there_is(tmp_path):
    pytest.importorskip("matplotlib")
    assert curves.draw(tmp_path) == []
    line = {"step": 1, "loss": 2.0, "gradient_norm": 0.0, "data_set": "one", "rows": 1, "tokens": 1, "seconds": 1}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert curves.draw(tmp_path) == [tmp_path / "loss.png"]
    once = (tmp_path / "loss.png").read_bytes()
    curves.draw(tmp_path)
    assert (tmp_path / "loss.png").read_bytes() == once


def test_curves_show_the_numbers_of_the_logs():
    pytest.importorskip("matplotlib")
    log = [
        {"step": step, "loss": 10.0 - step, "gradient_norm": 1.0, "data_set": "ab"[step % 2]} for step in range(1, 9)
    ]
    figure = curves.loss_figure(log)
    figure.draw_without_rendering()
    labels = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels(which="both")]
    assert any(labels)
    assert not any("$" in label for label in labels)
    top = figure.axes[0]
    dots = {line.get_label(): line for line in top.lines[1::2]}
    assert list(dots) == ["b", "a"]
    assert top.lines[0].get_xydata().tolist() == [[step, 10.0 - step] for step in (1, 3, 5, 7)]
    # A straight line is its own mean.
    np.testing.assert_allclose(dots["a"].get_ydata(), [8, 6, 4, 2])
    scores = [
        {"step": step, "task": task, "score": value} for step in (0, 4) for task, value in (("x", 0.2), ("y", 0.4))
    ]
    [axis] = curves.scores_figure(scores).axes
    assert [line.get_label() for line in axis.lines] == ["x", "y", "mean"]
    np.testing.assert_allclose(axis.lines[2].get_xydata(), [[0, 30], [4, 30]])
