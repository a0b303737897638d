"""The plan says what the run does: tokens as the model renders them, parameters as the adapter trains them."""

from __future__ import annotations

import json
from functools import cache
from statistics import mean

import pytest
import torch

import echoembed
import fake_hub
import tiny_models
from echoembed.errors import ModelError, TrainingError
from echoembed.model.transformer import transformer_of
from echoembed.training import adapter, footprint, plan
from echoembed.training.config import AdapterConfig, DataConfig, OptimiserConfig, ScoreConfig, TrainConfig, recipe_of

QUERIES = ["where does the cat sit", "who sings", "when does rain fall over the old town", "what"]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"query": f"{query} {n}", "positive": f"the mat {n} " * (n + 1), "negative": f"a boat {n}"})
            + "\n"
            for n, query in enumerate(QUERIES * 3)
        )
    )
    return path


def run(rows, *, steps=10, batch_size=4, **settings):
    data = {"path": str(rows), "instruction": "Find it", **settings.pop("data", {})}
    optimiser = OptimiserConfig(steps=steps, batch_size=batch_size, warmup_steps=0, **settings.pop("optimiser", {}))
    base = {"output": "out", "model": str(tiny_models.folder("llama")), "recipe": "echo-finetuned-last", **settings}
    return TrainConfig(data=[DataConfig(**data)], optimiser=optimiser, **base)


@cache
def loaded(name, recipe):
    return echoembed.load(name or None, recipe=recipe, device="cpu", engine="padded")


@pytest.mark.parametrize("symmetric", [False, True])
def test_tokens_are_those_of_the_models_own_prompts(rows, symmetric):
    config = run(rows, data={"symmetric": symmetric})
    found = plan.make(config)
    transformer = transformer_of(loaded(config.model, recipe_of(config)))
    texts = [json.loads(line) for line in rows.read_text().splitlines()]
    total = 0.0
    for column, key in (("query", "query"), ("positive", "positive"), ("negative_1", "negative")):
        as_query = column == "query" or symmetric
        kind, prompt = ("query", "Find it") if as_query else ("document", None)
        counts = [
            len(one.ids)
            for one in transformer.reader.render([row[key] for row in texts], instruction=prompt, task=kind)
        ]
        lengths = found.data[0].columns[column]
        assert (lengths.mean, lengths.longest, lengths.cut) == (pytest.approx(mean(counts)), max(counts), 0)
        total += mean(counts)
    assert found.tokens == round(10 * 4 * total)


def test_batches_and_rounds_follow_from_the_shares(rows):
    config = run(rows, steps=30)
    config = TrainConfig(
        **{**vars(config), "data": (*config.data, DataConfig(path=str(rows), name="again", instruction="Do", rows=4))}
    )
    asked, again = plan.make(config).data
    assert (asked.rows, again.rows) == (12, 4)
    assert (asked.share, again.share) == (0.75, 0.25)
    assert (asked.batches, again.batches) == (22.5, 7.5)
    assert (asked.rounds, again.rounds) == (22.5 * 4 / 12, 7.5)


def test_cut_texts_are_counted(rows):
    found = plan.make(run(rows, budget=8))
    assert found.data[0].columns["negative_1"].cut == 0
    assert 0.1 < found.data[0].columns["positive"].cut < 1
    assert any("'positive' of 'rows' are over the budget" in warning for warning in found.warnings)


def test_what_is_seen_too_often_and_what_is_left_out_is_said(rows):
    with rows.open("a") as file:
        file.write('{"query": ""}\n')
    found = plan.make(run(rows, steps=100, data={"bad_rows": "skip"}))
    assert found.data[0].skipped == 1
    assert any("trained on 33 times" in warning for warning in found.warnings)
    assert any("1 rows of 'rows' are left out" in warning for warning in found.warnings)
    assert plan.make(run(rows, steps=3, data={"rows": 12})).warnings == ()


def test_compute_matched_is_planned_as_it_will_run(rows):
    whole = plan.make(run(rows, steps=10))
    half = plan.make(run(rows, steps=10, optimiser={"compute_matched": True}))
    assert (half.steps, half.budget) == (whole.steps // 2, whole.budget // 2)


def test_plain_texts_are_read_twice_by_simcse_and_without_a_template_by_mntp(rows):
    simcse = plan.make(run(rows, objective="simcse", data={"instruction": ""}))
    lengths = simcse.data[0].columns["text"]
    assert simcse.tokens == round(2 * 40 * lengths.mean)
    mntp = plan.make(run(rows, objective="mntp", attention="bidirectional", recipe="echo", data={"instruction": ""}))
    transformer = transformer_of(loaded(str(tiny_models.folder("llama")), "classical"))
    texts = [json.loads(line) for line in rows.read_text().splitlines()]
    bare = max(len(transformer.pieces.encode([row["positive"]])[0].ids) for row in texts)
    assert bare <= mntp.data[0].columns["text"].longest <= bare + 2


# What is trained


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"rank": 3, "end_token": False}, {"end_token": True}, {"rank": 0}],
    ids=["usual", "no end token", "end token", "whole"],
)
def test_parameters_are_those_that_the_adapter_trains(rows, family, settings):
    config = run(rows, model=str(tiny_models.folder(family)), adapter=AdapterConfig(**settings), save="merged")
    bones = footprint.build(config, recipe_of(config))
    model = echoembed.load(config.model, recipe=recipe_of(config), device="cpu", engine="padded")
    assert bones.parameters == sum(weight.numel() for weight in transformer_of(model).model.parameters())
    adapter.add_adapter(model, config.adapter)
    assert bones.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert all(weight.device.type == "meta" for weight in bones.model.parameters())


def test_named_targets_are_counted_and_unknown_ones_refused(rows):
    config = run(rows, model=str(tiny_models.folder("llama")), adapter=AdapterConfig(rank=4, targets=["q_proj"]))
    assert footprint.build(config, recipe_of(config)).lora == 3 * 4 * (32 + 32)
    config = run(rows, model=str(tiny_models.folder("llama")), adapter=AdapterConfig(targets="query_key_value"))
    with pytest.raises(TrainingError, match="query_key_value") as planned:
        footprint.build(config, recipe_of(config))
    with pytest.raises(TrainingError) as begun:
        adapter.add_adapter(loaded(config.model, recipe_of(config)), config.adapter)
    assert str(planned.value) == str(begun.value)


def test_a_model_that_is_not_there_is_refused(rows, tmp_path):
    with pytest.raises(ModelError):
        plan.make(run(rows, model=str(tmp_path / "none")))


def test_the_context_and_the_layer_are_the_models_own(rows):
    config = run(rows, model=str(tiny_models.folder("mistral", sliding_window=40)))
    recipe = recipe_of(config)
    bones = footprint.build(config, recipe)
    assert bones.context == transformer_of(loaded(config.model, recipe)).context == 40


# Memory


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_activations_are_what_a_real_forward_keeps(rows, family):
    """Within a tenth: buffers that do not grow with the text are left out."""
    config = run(rows, model=str(tiny_models.folder(family)))
    longest = 96
    estimated = footprint.memory(footprint.build(config, recipe_of(config)), config, longest).activations
    model = echoembed.load(config.model, recipe=recipe_of(config), device="cpu", engine="padded")
    adapter.add_adapter(model, config.adapter)
    inner = transformer_of(model).model.train()
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    ids_BT = torch.ones(4, longest, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        inner(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False)
    weights = {weight.untyped_storage().data_ptr() for weight in inner.parameters()}
    real = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    assert estimated == pytest.approx(real, rel=0.1)


def test_memory_grows_with_the_chunk_and_shrinks_with_checkpointing(rows):
    def activations(**optimiser):
        config = run(rows, batch_size=8, optimiser=optimiser)
        return footprint.memory(footprint.build(config, recipe_of(config)), config, 50).activations

    assert activations(chunk_size=8) == pytest.approx(4 * activations(chunk_size=2), rel=1e-6)
    assert activations(chunk_size=8, gradient_checkpointing=True) < activations(chunk_size=8) / 2
    assert activations(chunk_size=64) == activations(chunk_size=8)
    assert activations(chunk_size=2, gradient_cache=False) == activations(chunk_size=8)


def test_packs_on_a_cpu_keep_their_states_in_float32_whatever_the_precision(rows, monkeypatch):
    def memory(**optimiser):
        config = run(rows, optimiser=optimiser)
        return footprint.memory(footprint.build(config, recipe_of(config)), config, 50)

    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    whole, half, padded = memory(), memory(precision="bfloat16"), memory(precision="bfloat16", forward="padded")
    assert half.activations == whole.activations
    assert padded.activations < 0.7 * whole.activations
    assert half.weights == padded.weights > whole.weights  # and the copy in bfloat16
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert memory(precision="bfloat16").activations == padded.activations


def test_weights_gradients_and_moments_are_counted_in_bytes(rows):
    config = run(rows)
    bones = footprint.build(config, recipe_of(config))
    found = footprint.memory(bones, config, 50)
    assert found.weights == 4 * (bones.parameters + bones.lora)
    assert found.gradients == 4 * bones.trained
    assert found.optimiser == 8 * bones.trained
    assert found.total == found.weights + found.gradients + found.optimiser + found.activations


def test_the_plan_is_plain_values_and_starts_nothing(rows, tmp_path):
    config = run(rows, output=str(tmp_path / "out"), score=ScoreConfig())
    assert json.loads(json.dumps(plan.make(config).as_dict()))["steps"] == 10
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_there_already_is_spoken_of(rows, tmp_path):
    config = run(rows, output=str(tmp_path / "out"))
    assert not any("holds a run" in warning for warning in plan.make(config).warnings)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").write_text("{}")
    assert any("holds a run: --resume continues it" in warning for warning in plan.make(config).warnings)


def test_the_model_may_be_an_adapter_of_the_package_which_has_no_revision_to_choose(rows):
    assert plan.make(run(rows, model="tiny-echo")).parameters == plan.make(run(rows, model="tiny")).parameters
    with pytest.raises(TrainingError, match="left out for the adapter tiny-echo"):
        plan.make(run(rows, model="tiny-echo", revision="main"))


def test_a_dry_run_leaves_weights_on_the_hub_and_says_how_large_they_are(rows, tmp_path, monkeypatch):
    folder = tiny_models.folder("llama")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with fake_hub.FakeHub() as server:
        server.use(monkeypatch, tmp_path / "cache")
        server.commit("someone/model", files)
        found = plan.make(run(rows, model="someone/model"))
        assert found.download == len(files["model.safetensors"])
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
        assert "model.safetensors" not in server.downloads()
        local = plan.make(run(rows))
        assert local.download == 0
        assert (found.tokens, found.parameters, found.memory) == (local.tokens, local.parameters, local.memory)
        echoembed.load("someone/model")
        assert plan.make(run(rows, model="someone/model")).download == 0
        pickled = {"pytorch_model.bin" if name == "model.safetensors" else name: data for name, data in files.items()}
        server.commit("someone/pickled", pickled)
        with pytest.raises(ModelError, match="safetensors"):
            plan.make(run(rows, model="someone/pickled"))
