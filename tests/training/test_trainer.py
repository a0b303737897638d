"""What the model reads in training, what the log says, and how a run ends before its time."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from transformers import AutoTokenizer, TrainerCallback

import echoembed
import tiny_models
import training_runs as runs
from echoembed import errors, versions
from echoembed.training import curves, run
from echoembed.training.config import AdapterConfig, CheckpointConfig, DataConfig, OptimiserConfig
from echoembed.training.trainer import Collator

pytest.importorskip("peft")


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw", lambda _folder: [])  # takes as long as a run, and is tested elsewhere
        yield


class Reads(TrainerCallback):
    """Notes the ids of every text that reaches the language model."""

    def __init__(self, model):
        self.seen = []
        model[0].model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module, _args, kwargs):
        if torch.is_grad_enabled():  # the chunks are read without gradients first
            rows = zip(kwargs["input_ids"].tolist(), kwargs["attention_mask"].tolist(), strict=True)
            self.seen[-1].extend(tuple(i for i, m in zip(ids, mask, strict=True) if m) for ids, mask in rows)

    def on_step_begin(self, *_, **__):
        self.seen.append([])


def test_every_column_is_read_under_its_own_template(tmp_path):
    """Against the prompts written out and tokenised whole, for both data sets, an instruction each, step by step."""
    config = runs.small(tmp_path, checkpoint=CheckpointConfig(every=100))
    config = replace(config, optimiser=replace(config.optimiser, steps=8, forward="padded"))
    heard = []
    run.train(config, callbacks=[lambda model: heard.append(Reads(model)) or heard[0]])

    tokenizer = AutoTokenizer.from_pretrained(config.model)

    def ids(prompt):
        found = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return (tokenizer.bos_token_id, *found, tokenizer.eos_token_id)

    def query(instruction, text):
        return ids(f"Instruct: {instruction} Query: {text} Query again: {text}")

    def document(_instruction, text):
        return ids(f"Document: {text} Document again: {text}")

    prompts = {}  # data set → of each row, the ids of its query, positive and negative
    for data, other in zip(config.data, (document, query), strict=True):
        rows = [json.loads(line) for line in Path(data.path).read_text().splitlines()]
        prompts[data.name] = [
            (
                query(data.instruction, row["query"]),
                other(data.instruction, row["positive"]),
                other(data.instruction, row["negatives"][0]),
            )
            for row in rows
        ]
    log = runs.log(tmp_path / "run")
    assert {line["data_set"] for line in log} == set(prompts)
    for line, seen in zip(log, heard[0].seen, strict=True):
        rows = prompts[line["data_set"]]
        batch = [row for row in rows if row[0] in seen]
        assert len(batch) == 4
        assert sorted(seen) == sorted(text for row in batch for text in row)
        assert line["rows"] == 4
        assert line["tokens"] == sum(map(len, seen))


def test_of_several_instructions_each_batch_is_given_one(tmp_path):
    config = runs.small(tmp_path, checkpoint=CheckpointConfig(every=100))
    data = replace(config.data[0], instruction=("Find one", "Seek the other"))
    config = replace(config, data=(data,), optimiser=replace(config.optimiser, steps=8, forward="padded"))
    heard = []
    run.train(config, callbacks=[lambda model: heard.append(Reads(model)) or heard[0]])
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    given = []
    for seen in heard[0].seen:
        texts = [text for text in tokenizer.batch_decode(seen) if "Query" in text]
        assert len(texts) == 4
        given.append({wording for wording in data.instruction for text in texts if wording in text})
    assert all(len(found) == 1 for found in given)
    assert set.union(*given) == set(data.instruction)


def test_the_log_has_a_line_per_step_and_the_rate_rises_and_falls_in_straight_lines(tmp_path):
    config = runs.small(tmp_path)
    run.train(config)
    log = runs.log(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    wanted = [0.01 * min(step / 2, (6 - step) / 4) for step in range(6)]
    assert [line["learning_rate"] for line in log] == pytest.approx(wanted)
    assert all(line["seconds"] > 0 and line["gradient_norm"] > 0 for line in log)


class Poison(TrainerCallback):
    """Spoils the third step: a weight, or a gradient alone."""

    def __init__(self, model, what):
        self.weight = next(weight for name, weight in model.named_parameters() if "lora_A" in name)
        self.what = what

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2 and self.what == "loss":
            with torch.no_grad():
                self.weight.fill_(float("inf"))
        if state.global_step == 2 and self.what == "gradient":
            self.weight.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_ends_the_run_before_it_reaches_the_weights(tmp_path, what):
    models = []
    config = runs.small(tmp_path)
    config = replace(config, data=config.data[1:])
    with pytest.raises(errors.TrainingError, match=rf"The {what} of step 3 is not finite.*'alike'.*step-2\."):
        run.train(config, callbacks=[lambda model: models.append(model) or Poison(model, what)])
    saved = runs.weights(tmp_path / "run")
    spoilt = next(name for name, _ in models[0].named_parameters() if "lora_A" in name)
    for name, weight in models[0].named_parameters():
        if name in saved and (what == "gradient" or name != spoilt):
            assert torch.equal(weight, saved[name])
    assert len(runs.log(tmp_path / "run")) == 2


class LoseTheLog(TrainerCallback):
    """Puts something in the log's place in the third step."""

    def __init__(self, folder):
        self.path = folder / "log.jsonl"

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            self.path.unlink()
            self.path.mkdir()


def test_a_log_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    with pytest.raises(errors.EchoembedError, match=r"log\.jsonl"):
        run.train(runs.small(tmp_path), callbacks=[lambda _model: LoseTheLog(tmp_path / "run")])


class Signal(TrainerCallback):
    """Sends this process a signal within the third step, once or twice."""

    def __init__(self, number, times):
        self.number, self.times = number, times

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_run_goes_on_as_if_it_had_not(tmp_path, number):
    run.train(runs.small(tmp_path / "whole"))
    config = runs.small(tmp_path / "stopped")
    before = signal.getsignal(number)
    with pytest.raises(errors.TrainingStoppedError, match=r"after step 3 of 6.*step-3.*--resume"):
        run.train(config, callbacks=[lambda _model: Signal(number, 1)])
    assert signal.getsignal(number) is before
    assert len(runs.log(tmp_path / "stopped/run")) == 3
    run.train(config, resume=True)
    whole, stopped = runs.weights(tmp_path / "whole/run"), runs.weights(tmp_path / "stopped/run")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run.train(runs.small(tmp_path), callbacks=[lambda model: Signal(signal.SIGINT, 2)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(runs.log(tmp_path / "run")) == 2


def test_padded_bfloat16_computes_the_forward_in_it_and_keeps_the_weights(tmp_path):
    kinds = []

    def watch(model):
        layer = model[0].model.layers[0].mlp.down_proj.base_layer
        layer.register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
        return TrainerCallback()

    config = runs.small(tmp_path)
    optimiser = replace(config.optimiser, steps=2, precision="bfloat16", forward="padded")
    run.train(replace(config, optimiser=optimiser), callbacks=[watch])
    assert set(kinds) == {torch.bfloat16}
    assert {weight.dtype for weight in runs.weights(tmp_path / "run").values()} == {torch.float32}


@pytest.mark.parametrize("how", [{"gradient_checkpointing": True}, {"gradient_cache": False}])
def test_recomputed_states_give_the_same_weights(tmp_path, how):
    """Without dropout, for the library draws it in another order where it has no gradient cache."""
    still = {
        "model": str(tiny_models.folder("llama", num_hidden_layers=2)),
        "adapter": AdapterConfig(rank=4),
    }
    kept, again = runs.small(tmp_path / "kept", **still), runs.small(tmp_path / "again", **still)
    run.train(kept)
    run.train(replace(again, optimiser=replace(again.optimiser, **how)))
    one, other = runs.weights(tmp_path / "kept/run"), runs.weights(tmp_path / "again/run")
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_tensorboards_files_hold_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.train(runs.small(tmp_path, tensorboard=True))
    found = EventAccumulator(str(tmp_path / "run/logs"))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in runs.log(tmp_path / "run")]


def test_tensorboard_is_asked_for_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "_installed", lambda library: None)
    monkeypatch.setattr(versions, "find_spec", lambda name: None)
    with pytest.raises(errors.LibraryError, match=r"echoembed\[tensorboard\]"):
        run.train(runs.small(tmp_path, tensorboard=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("objective", "given", "wanted"),
    [("contrastive", None, 0.02), ("simcse", None, 0.05), ("contrastive", 0.1, 0.1), ("simcse", 0.1, 0.1)],
)
def test_the_temperature_is_the_objectives_own_unless_it_is_given(tmp_path, objective, given, wanted):
    optimiser = OptimiserConfig(steps=1, batch_size=4, warmup_steps=0, temperature=given)
    config = runs.small(tmp_path, adapter=AdapterConfig(rank=4))
    config = replace(config, objective=objective, optimiser=optimiser, data=config.data[:1])
    loss = run._loss(echoembed.load("tiny", engine="padded"), config, PartialState(cpu=True))
    assert getattr(loss, "loss", loss).scale == pytest.approx(1 / wanted)


def test_rows_of_like_length_stand_beside_each_other(tmp_path):
    """A chunk of a batch is then padded less."""
    model = echoembed.load(tiny_models.folder("llama"), engine="padded", device="cpu")
    rows = [{"dataset_name": "d", "query": "word " * n, "positive": "a"} for n in (7, 1, 12, 3)]
    collator = Collator(preprocess_fn=model.preprocess, router_mapping={}, prompts={})
    batch = collator(rows)
    lengths = batch["query_attention_mask"].sum(dim=1).tolist()
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 4


def test_any_number_of_hard_negatives_is_taken(tmp_path):
    """None, and two."""
    for negatives in (0, 2):
        folder = tmp_path / str(negatives)
        folder.mkdir()
        path = runs.write_rows(folder / "rows.jsonl", 8, seed=5, negatives=negatives)
        data = (DataConfig(path=str(path), instruction="Find it", negatives=negatives),)
        config = runs.small(folder, data=data, optimiser=OptimiserConfig(steps=2, batch_size=4, warmup_steps=0))
        run.train(config)
        assert len(runs.log(folder / "run")) == 2
