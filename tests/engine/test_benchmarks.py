"""What the benchmarks count and compare is what they say."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import echoembed
import tiny_models

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXTS = ["the cat sat on a mat", "rain", "boats on the river", "nobody waits near the old town", "a", "the harbour"]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_can_be_imported():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def module(name):
    return importlib.import_module(name)


def test_slices_are_made_of_the_batches_of_one_call(monkeypatch):
    texts = ["x" * (7 * number % 40 + 1) + str(number) for number in range(50)]
    model = echoembed.load(tiny_models.folder("llama"), device="cpu")
    batches = []
    before = model[0].preprocess
    monkeypatch.setattr(
        model[0], "preprocess", lambda inputs, **rest: (batches.append(inputs), before(inputs, **rest))[1]
    )
    model.encode(texts, batch_size=8)
    parts = module("measure").slices(texts, 3, 8)
    assert sorted(text for part in parts for text in part) == sorted(texts)
    lengths = [sorted(map(len, batch)) for batch in batches]
    ours = [sorted(map(len, part[start : start + 8])) for part in parts for start in range(0, len(part), 8)]
    assert sorted(ours) == sorted(lengths)


def test_a_system_sits_out_what_it_has_no_time_for_and_is_compared_on_the_rest(monkeypatch):
    measure = module("measure")
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure.time, "process_time", lambda: clock[0])

    def system(seconds):
        return lambda part: clock.__setitem__(0, clock[0] + seconds * len(part))

    parts = [["a"], ["a", "b"], ["a"], ["a"], ["a"]]
    times = measure.take_turns({"quick": system(1.0), "slow": system(3.0)}, parts, allowance=13.0)
    assert times["quick"].cpu == [1, 2, 1, 1, 1]
    assert times["slow"].cpu == [3, 6]  # a third slice would end after 13 seconds or more
    ratio = measure.ratio(times["slow"].cpu, times["quick"].cpu)
    assert (ratio.median, ratio.least, ratio.greatest, ratio.slices) == (3, 3, 3, 2)
    assert measure.ratio([1, 2, 9], [1, 1, 3]).median == 2


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_operations_are_those_that_torch_counts(family):
    model = echoembed.load(tiny_models.folder(family), device="cpu", engine="padded")
    text = "the cat sat on a mat while rain fell"
    counted = FlopCounterMode(display=False)
    with counted:
        model.encode(text)
    found = counted.get_flop_counts()["Global"]
    attention = sum(flops for name, flops in found.items() if "attention" in str(name))
    linear = sum(found.values()) - attention
    work = module("measure").work(model, [text])
    config = model[0].model.config
    count = work.tokens
    square = config.num_hidden_layers * 2 * config.num_attention_heads * config.head_dim * count**2
    assert work.plain - square == linear
    assert work.needed < work.plain
    if attention:
        assert square == attention / 2  # torch counts what the causal mask hides


def test_tokens_are_those_that_go_through_the_model():
    model = echoembed.load(tiny_models.folder("llama"), device="cpu", engine="padded")
    tokens = []
    hook = (
        model[0].model.get_input_embeddings().register_forward_hook(lambda _, args, __: tokens.append(args[0].numel()))
    )
    for text in TEXTS:
        model.encode(text)
    hook.remove()
    work = module("measure").work(model, TEXTS)
    assert (work.texts, work.tokens) == (len(TEXTS), sum(tokens))


def test_the_bundled_model_with_a_longer_context_gives_the_same_vectors(tmp_path):
    folder = module("models").make("bundled", tmp_path / "model")
    model = echoembed.load(folder, device="cpu")
    assert model[0].context > 1024
    assert np.array_equal(model.encode(TEXTS), echoembed.load("tiny", device="cpu").encode(TEXTS))


@pytest.mark.parametrize("name", ["llama-100m", "0.6b", "mistral-7b"])
def test_random_models_load_in_every_way_a_gpu_would_run_them(name, tmp_path, monkeypatch):
    models, systems, measure = module("models"), module("systems"), module("measure")
    small = {**models._SHAPES[name], "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    monkeypatch.setitem(models._SHAPES, name, {**small, "num_attention_heads": 4, "num_key_value_heads": 2})
    folder = models.make(name, tmp_path / "model", dtype=torch.bfloat16)
    monkeypatch.setattr(measure.torch.cuda, "synchronize", lambda: None)
    # What decides between the two is the name of the device alone: "cpu:0" is none of the CPU's branches.
    found, skipped = systems.load_all(folder, tmp_path, batch_size=4, device="cpu:0", sample=TEXTS)
    assert set(skipped) == {systems.INT8, systems.LLAMA_CPP, systems.LLAMA_CPP_Q8, systems.OPENVINO}
    assert next(found[systems.OURS].counted.parameters()).dtype == torch.bfloat16
    times = measure.take_turns(
        {name: system.encode for name, system in found.items()}, [TEXTS], allowance=1.0, device="cpu:0"
    )
    assert all(len(own.wall) == 1 for own in times.values())
    assert found[systems.OURS].counted[0].selector.choice(found[systems.OURS].counted[0].model).engine is not None
    assert measure.work(found[systems.OURS].counted, TEXTS).needed > 0


def test_main_writes_results_and_says_what_it_left_out(tmp_path, monkeypatch):
    models, engine = module("models"), module("engine")
    small = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    monkeypatch.setitem(models._SHAPES, "llama-100m", {**small, **heads})
    for missing in ("llama_cpp", "gguf", "openvino"):
        monkeypatch.setitem(sys.modules, missing, None)
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS))
    monkeypatch.setattr(engine.measure, "ceiling", lambda *_: 100.0)
    arguments = ["--model", "llama-100m", "--texts", str(lines), "--out", str(tmp_path), "--slices", "2"]
    monkeypatch.setattr(sys, "argv", ["engine.py", *arguments, "--batch-size", "2"])
    engine.main()
    results = json.loads((tmp_path / "engine-llama-100m.json").read_text())
    assert set(results["facts"]["left out"]) == {engine.LLAMA_CPP, engine.LLAMA_CPP_Q8, engine.OPENVINO}
    cell = results["cells"]["texts.txt"]
    assert cell["texts"] == len(TEXTS)
    for system in (engine.LIBRARY, engine.OURS, engine.INT8, engine.CLASSICAL):
        assert cell["systems"][system]["tokens_per_s"] > 0
    assert cell["systems"][engine.LIBRARY]["ratio"]["median"] == 1
    assert cell["ratios"][f"{engine.LIBRARY} / {engine.OURS}"]["slices"] == 2
    assert (tmp_path / "engine-llama-100m.png").stat().st_size > 1000


def test_rotation_of_neighbours_is_that_of_halves_with_rows_in_another_order():
    peer = module("llama_cpp_peer")
    heads, head, width = 2, 6, 5
    weight, states = np.random.default_rng(0).normal(size=(heads * head, width)), np.ones(width)
    angle = np.arange(head // 2) + 0.3

    def rotated(first, second):
        return first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)

    halves = (weight @ states).reshape(heads, 2, head // 2)
    neighbours = (peer._neighbouring_halves(weight, heads) @ states).reshape(heads, head // 2, 2)
    for one, other in zip(halves, neighbours, strict=True):
        wanted, got = rotated(one[0], one[1]), rotated(other[:, 0], other[:, 1])
        np.testing.assert_allclose(got, wanted)


def test_llama_cpp_gives_our_vectors(tmp_path):
    for name in ("llama_cpp", "gguf"):
        pytest.importorskip(name)
    model = echoembed.load("tiny", device="cpu")
    peer = module("llama_cpp_peer")
    for quantized, limit in ((False, 0.9999), (True, 0.99)):
        llama_cpp = peer.LlamaCpp(model, tmp_path, quantized=quantized)
        for settings in (peer.Settings(), peer.Settings(sequences=2, tokens=64, flash=False)):
            llama_cpp.use(settings)
            assert llama_cpp.check(model, TEXTS) > limit


def test_openvino_gives_our_vectors():
    pytest.importorskip("openvino")
    model = echoembed.load("tiny", device="cpu", engine="padded")
    assert module("openvino_peer").OpenVino(model, 3).check(model, TEXTS) > 0.9999
