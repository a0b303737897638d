"""What the benchmarks count and compare is what they say."""

import json
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import echoembed
import tiny_models
from scripts import importing

TEXTS = ["the cat sat on a mat", "rain", "boats on the river", "nobody waits near the old town", "a", "the harbour"]


@pytest.fixture(scope="module")
def module():
    with importing("benchmarks") as script:
        yield script


def test_slices_are_made_of_the_batches_of_one_call(monkeypatch, module):
    texts = ["x" * (7 * number % 40 + 1) + str(number) for number in range(50)]
    model = echoembed.load(tiny_models.folder("llama"), device="cpu", engine="padded")
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


def test_a_system_sits_out_what_it_has_no_time_for_and_is_compared_on_the_rest(monkeypatch, module):
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
def test_operations_are_those_that_torch_counts(family, module):
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


def test_tokens_are_those_that_go_through_the_model(module):
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


def test_the_bundled_model_with_a_longer_context_gives_the_same_vectors(tmp_path, module):
    folder = module("models").make("bundled", tmp_path / "model")
    model = echoembed.load(folder, device="cpu")
    assert model[0].context > 1024
    assert np.array_equal(model.encode(TEXTS), echoembed.load("tiny", device="cpu").encode(TEXTS))


@pytest.mark.parametrize("name", ["llama-100m", "0.6b", "mistral-7b"])
def test_random_models_load_in_every_way_a_gpu_would_run_them(name, tmp_path, monkeypatch, module):
    models, systems, measure = module("models"), module("systems"), module("measure")
    small = {**models._SHAPES[name], "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    monkeypatch.setitem(models._SHAPES, name, {**small, "num_attention_heads": 4, "num_key_value_heads": 2})
    folder = models.make(name, tmp_path / "model", dtype=torch.bfloat16)
    monkeypatch.setattr(measure.torch.cuda, "synchronize", lambda: None)
    # What decides between the two is the name of the device alone: "cpu:0" is none of the CPU's branches.
    found, skipped = systems.load_all(folder, tmp_path, batch_size=4, device="cpu:0", sample=TEXTS)
    assert set(skipped) == {systems.DEPTH, systems.BFLOAT16, systems.INT8, systems.DETERMINISTIC, *systems.PEERS}
    assert next(found[systems.OURS].counted.parameters()).dtype == torch.bfloat16
    times = measure.take_turns(
        {name: system.encode for name, system in found.items()}, [TEXTS], allowance=1.0, device="cpu:0"
    )
    assert all(len(own.wall) == 1 for own in times.values())
    assert found[systems.OURS].counted[0].selector.choice(found[systems.OURS].counted[0].model).engine is not None
    assert measure.work(found[systems.OURS].counted, TEXTS).needed > 0


def test_main_writes_results_and_says_what_it_left_out(tmp_path, monkeypatch, module):
    models, engine = module("models"), module("engine")
    small = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    monkeypatch.setitem(models._SHAPES, "llama-100m", {**small, **heads})
    for missing in ("llama_cpp", "gguf", "openvino", "optimum"):
        monkeypatch.setitem(sys.modules, missing, None)
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS))
    monkeypatch.setattr(engine.measure, "ceiling", lambda *_: 100.0)
    arguments = ["--model", "llama-100m", "--texts", str(lines), "--out", str(tmp_path), "--slices", "2"]
    monkeypatch.setattr(sys, "argv", ["engine.py", *arguments, "--batch-size", "2"])
    engine.main()
    (file,) = tmp_path.glob("engine-llama-100m-*.json")
    results = json.loads(file.read_text())
    assert set(results["facts"]["left out"]) == set(module("systems").PEERS) - {engine.LLAMA_CPP_FILE}
    assert results["facts"]["processor"] == module("measure").processor()
    cell = results["cells"]["texts.txt"]
    assert cell["texts"] == len(TEXTS)
    for system in (engine.LIBRARY, engine.OURS, engine.INT8, engine.BFLOAT16, engine.CLASSICAL):
        assert cell["systems"][system]["tokens_per_s"] > 0
        assert cell["systems"][system]["cosine"] > 0.99
    assert cell["systems"][engine.CLASSICAL]["ratio"]["median"] == 1
    assert engine.LIBRARY in module("table").table(tmp_path)
    assert cell["ratios"][f"{engine.LIBRARY} / {engine.OURS}"]["slices"] == 2
    assert file.with_suffix(".png").stat().st_size > 1000


def test_the_script_for_a_gpu_runs_every_step_on_tiny_shapes(tmp_path, monkeypatch, module):
    models, gpu = module("models"), module("gpu")
    monkeypatch.setattr(models, "_SHAPES", {name: dict(shape) for name, shape in models._SHAPES.items()})
    monkeypatch.setattr(gpu, "TESTS", tmp_path / "run elsewhere")
    monkeypatch.setattr(gpu, "PACKS", (300, 16384))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--out", str(tmp_path)])
    gpu.main()
    (file,) = tmp_path.glob("gpu-tiny-*.json")
    steps = json.loads(file.read_text())["steps"]
    assert list(steps) == ["kernel", *gpu.SHAPES]
    assert steps["kernel"]["least cosine to padded"] > 0.999
    for name in gpu.SHAPES:
        assert steps[name]["documents"]["packs of 300"]["tokens/s"] > 0
        assert steps[name]["sentences"][gpu.CLASSICAL]["texts/s"] > 0


def test_a_step_that_fails_or_has_no_time_is_named_and_the_others_are_done(tmp_path, monkeypatch, module):
    gpu = module("gpu")
    monkeypatch.setattr(gpu.measure, "ceiling", lambda *_, **__: 100.0)
    run = gpu.Run(device="cpu", tiny=False, out=tmp_path, seconds=100)
    run.step("broken", 1, lambda: 1 / 0)
    run.step("too long", 1000, dict)
    run.step("done", 1, lambda: {"found": 1})
    steps = json.loads(run.path.read_text())["steps"]
    assert steps["broken"]["failed"] == "ZeroDivisionError: division by zero"
    assert "left, it takes 1000 s" in steps["too long"]["left out"]
    assert steps["done"]["found"] == 1


def test_scores_of_timed_vectors_are_those_of_a_plain_computation(module):
    scores = module("scores")
    vectors = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0]}
    exact, rough = scores.Kept(lambda texts: [vectors[text] for text in texts]), scores.Kept(lambda texts: [[2.0, 0.0]])
    exact(["a", "b"])
    exact(["c"])
    rough(["b"])
    pairs = [("a", "a", 3.0), ("a", "b", 2.0), ("a", "c", 1.0), ("b", "c", 1.5)] * 3
    found = scores.quality({"float32": exact, "float32 rough": rough}, pairs, {"float32": ["float32"]})
    assert found["float32 rough"] == {"cosine": pytest.approx(0.8)}
    assert found["float32"]["cosine"] == pytest.approx(1)
    assert found["float32"]["sts"] == pytest.approx(100)  # 1, 0.8, 0 and 0.6: as the grades go
    assert found["float32"]["pairs"] == 12


def test_rotation_of_neighbours_is_that_of_halves_with_rows_in_another_order(module):
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


def test_llama_cpp_gives_our_vectors(tmp_path, module):
    for name in ("llama_cpp", "gguf"):
        pytest.importorskip(name)
    model = echoembed.load("tiny", device="cpu")
    peer = module("llama_cpp_peer")
    for quantized, limit in ((False, 0.9999), (True, 0.99)):
        llama_cpp = peer.LlamaCpp(model, tmp_path, quantized=quantized)
        for settings in (peer.Settings(), peer.Settings(sequences=2, tokens=64, flash=False)):
            llama_cpp.use(settings)
            assert llama_cpp.check(model, TEXTS) > limit


def test_openvino_gives_our_vectors(module):
    pytest.importorskip("openvino")
    model = echoembed.load("tiny", device="cpu", engine="padded")
    assert module("openvino_peer").OpenVino(model, 3).check(model, TEXTS) > 0.9999
