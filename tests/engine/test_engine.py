"""The packed forward gives the padded one's states, for every family, span and company."""

import gc
from dataclasses import replace

import pytest
import torch

from echoembed.engine import PackedEngine, choose
from echoembed.model.pooling import pad, unpad
from packs import LENGTHS, TOLERANCE, assert_equal, load, padded, prompts, spans_of

PACKED = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2", "gpt-neox", "opt", "phi3", "olmo2"]
WINDOWS = [("mistral", 5), ("gemma2", 5), ("gemma3", 5), ("phi3", 5)]
ATTENTIONS = ["causal", "bidirectional"]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", [*PACKED, "smollm3", "cohere", "mixtral"])
def test_family_is_packed_and_gives_the_padded_states(family, attention):
    model = load(family, attention)
    choice = choose(model, causal=attention == "causal")
    assert choice.engine is not None, choice.reason
    assert choice.engine.trim
    assert choice.engine.share_prefix == (attention == "causal")
    assert choice.difference < TOLERANCE
    for kind in ("echo", "whole"):
        batch = prompts(LENGTHS, spans_of(kind, LENGTHS))
        assert_equal(choice.engine.states(model, batch), padded(model, batch))


@pytest.mark.parametrize("family", [*PACKED, "smollm3", "cohere", "mixtral", "bert"])
def test_every_layers_states_are_those_of_transformers(family):
    """``output_hidden_states`` of each prompt alone is the oracle, the last layer after the norm."""
    attention = "bidirectional" if family == "bert" else "causal"
    model = load(family, attention)
    engine = choose(model, causal=attention == "causal").engine
    vocabulary = min(400, model.config.vocab_size)
    batch = prompts(LENGTHS, spans_of("middle", LENGTHS), vocabulary=vocabulary)
    batch.append(batch[0])  # equal prompts share one forward
    states_LBSD, mask_BS = engine.states(model, batch, layers=True)
    assert len(states_LBSD) == model.config.num_hidden_layers + 1
    assert torch.equal(states_LBSD[-1], engine.states(model, batch)[0])
    for row, prompt in enumerate(batch):
        with torch.no_grad():
            output = model(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True, use_cache=False)
        wanted_LSD = torch.stack(output.hidden_states)[:, 0, slice(*prompt.span)]
        count = wanted_LSD.shape[1]
        assert int(mask_BS[row].sum()) == count
        assert (states_LBSD[:, row, :count] - wanted_LSD).abs().max() <= 1e-5 * wanted_LSD.abs().max()
        assert not states_LBSD[:, row, count:].any()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("family", "window"), WINDOWS)
def test_texts_longer_than_the_sliding_window(family, window, attention):
    model = load(family, attention, sliding_window=window)
    choice = choose(model, causal=attention == "causal")
    assert choice.engine is not None, choice.reason
    for kind in ("echo", "middle", "last"):
        batch = prompts(LENGTHS, spans_of(kind, LENGTHS))
        wanted = padded(model, batch)
        assert_equal(choice.engine.states(model, batch), wanted)
    unlimited = load(family, attention, sliding_window=4096)
    difference = (padded(unlimited, batch)[0] - wanted[0]).abs().max()
    assert difference > 1e-2  # else the window was not at work


@pytest.mark.parametrize("family", ["bloom", "falcon", "gptj", "gpt-oss", "roberta"])
def test_family_that_packing_does_not_know_falls_back(family):
    model = load(family, "bidirectional" if family == "roberta" else "causal")
    before = model.config._attn_implementation
    choice = choose(model, causal=family != "roberta")
    assert choice.name == "padded"
    assert choice.reason
    assert model.config._attn_implementation == before  # and is left as it was
    assert not [module for module in model.modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("kind", ["echo", "middle", "last", "whole"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_prefix": False},
        {"trim": False},
        {"share_prefix": False, "trim": False},
        {"fast_linear": False},
        {"fused": False},
        {"tokens": 1},
        {"tokens": 24},
        {"solo": True},
    ],
    ids=str,
)
def test_every_setting_gives_the_padded_states(settings, attention, kind):
    model = load("llama", attention)
    engine = replace(PackedEngine(causal=attention == "causal"), **settings)
    batch = prompts(LENGTHS, spans_of(kind, LENGTHS))
    assert_equal(engine.states(model, batch), padded(model, batch))


def test_one_text_one_token_and_no_shared_beginning():
    model = load("llama")
    engine = PackedEngine(causal=True)
    for lengths in ([9], [4], [1], [1, 1, 2]):
        batch = prompts(lengths, spans_of("last", lengths))
        assert_equal(engine.states(model, batch), padded(model, batch))
        alike = [replace(prompt, prefix=0) for prompt in batch]
        assert_equal(engine.states(model, alike), padded(model, batch))


def test_prompts_that_do_not_share_the_beginning_are_not_made_to():
    model = load("llama")
    batch = prompts(LENGTHS, spans_of("echo", LENGTHS))
    batch[2] = replace(batch[2], ids=(7, 77, *batch[2].ids[2:]))
    assert_equal(PackedEngine(causal=True).states(model, batch), padded(model, batch))


def test_what_texts_happen_to_share_is_not_computed_once():
    """Only the template's own tokens are: rounding must not depend on company."""
    model = load("llama")
    batch = prompts([9, 9, 9], [(7, 9)] * 3, prefix=1)
    tokens = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: tokens.append(args[0].numel()))
    PackedEngine(causal=True).states(model, batch)
    PackedEngine(causal=True).states(model, batch[:1])
    hook.remove()
    assert tokens == [1 + 3 * 8, 1 + 8]


def test_prompts_come_back_from_padding_on_either_side():
    batch = prompts(LENGTHS, spans_of("middle", LENGTHS), prefix=0)
    parts = [pad(batch, 0)[name] for name in ("input_ids", "attention_mask", "span_mask")]
    assert unpad(*parts) == batch
    shifts = [max(LENGTHS) - length for length in LENGTHS]
    moved = [torch.stack([row.roll(shift) for row, shift in zip(part, shifts, strict=True)]) for part in parts]
    assert unpad(*moved) == batch


def test_texts_at_the_context_limit():
    model = load("llama", max_position_embeddings=64)
    lengths = [64, 64, 5]
    batch = prompts(lengths, spans_of("echo", lengths))
    assert_equal(PackedEngine(causal=True).states(model, batch), padded(model, batch))


def test_equal_texts_are_computed_once():
    model = load("llama")
    lengths = [11] * 6
    batch = prompts(lengths, spans_of("echo", lengths))
    batch[1:4] = [batch[0]] * 3
    tokens = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: tokens.append(args[0].numel()))
    states, mask = PackedEngine(causal=True).states(model, batch)
    hook.remove()
    assert sum(tokens) == 3 + 3 * (11 - 3)
    assert torch.equal(states[0], states[3])
    assert_equal((states, mask), padded(model, batch))


def test_last_layer_works_on_pooled_tokens_only():
    model = load("llama")
    rows = []
    hook = model.layers[-1].mlp.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[1]))
    batch = prompts(LENGTHS, spans_of("last", LENGTHS))
    PackedEngine(causal=True).states(model, batch)
    hook.remove()
    assert rows == [len(LENGTHS)]


def test_neighbours_and_order_do_not_matter():
    model = load("llama")
    engine = PackedEngine(causal=True, tokens=40)
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 30, (12,), generator=generator).tolist()
    batch = prompts(lengths, spans_of("echo", lengths))
    whole, _ = engine.states(model, batch)
    for _ in range(20):
        rows = torch.randperm(12, generator=generator)[: int(torch.randint(1, 12, (1,), generator=generator))]
        part, _ = engine.states(model, [batch[row] for row in rows])
        difference = (part - whole[rows][:, : part.shape[1]]).abs().max()
        assert difference / whole.abs().max() < 1e-6


def test_the_model_is_left_as_it_was_even_after_an_error():
    model = load("llama")
    batch = prompts(LENGTHS, spans_of("echo", LENGTHS))
    before = padded(model, batch)[0]
    broken = model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        PackedEngine(causal=True).states(model, batch)
    broken.remove()
    PackedEngine(causal=True).states(model, batch)
    assert model.config._attn_implementation != "echoembed_packed"
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    assert torch.equal(padded(model, batch)[0], before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_pack_leaves_nothing_to_the_garbage_collector(family):
    """States that only a cycle of references keeps pile up over a long call: half a gigabyte in 100,000 texts."""
    model = load(family)
    engine = PackedEngine(causal=True)
    batch = prompts(LENGTHS, spans_of("echo", LENGTHS))
    engine.states(model, batch)

    def tensors():
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(3):
            engine.states(model, batch)
        assert tensors() == before
    finally:
        gc.enable()


def test_changed_weights_are_seen():
    model = load("llama")
    batch = prompts(LENGTHS, spans_of("echo", LENGTHS))
    engine = PackedEngine(causal=True)
    engine.states(model, batch)
    with torch.no_grad():
        model.layers[0].mlp.down_proj.weight.mul_(2)
    assert_equal(engine.states(model, batch), padded(model, batch))


def test_a_mask_of_another_kind_is_refused():
    model = load("llama", "bidirectional")
    assert "neither causal nor bidirectional" in choose(model, causal=True).reason


def test_tokens_in_flight_stay_within_the_budget_whatever_comes():
    model = load("llama")
    tokens = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: tokens.append(args[0].numel()))
    lengths = [5, 9, 12] * 700 + [600] * 6
    engine = PackedEngine(causal=True, tokens=1024)
    engine.states(model, prompts(lengths, spans_of("last", lengths)))
    hook.remove()
    assert max(tokens) <= 1024
    assert sum(tokens) < sum(lengths)
