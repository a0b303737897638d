"""A model does under a recipe what the recipe says, or is refused; nothing in between."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import echoembed
import tiny_models
from echoembed.errors import ModelError
from echoembed.model import backbone

DECODERS = [family for family in tiny_models.FAMILIES if family not in ("bert", "roberta", "xlm-roberta", "gpt-oss")]
ENCODERS = ["bert", "roberta", "xlm-roberta"]
# What these are, and what the recipes cannot have of them; all others are in DECODERS.
NEVER_BIDIRECTIONAL = {
    "openai-gpt": {"n_embd": 32, "n_layer": 3, "n_head": 4},  # has its own triangle
    "stablelm": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},  # fails when it is asked
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},  # reads strictly from left to right
}
UNCUTTABLE = ["opt"]  # keeps its last norm where we do not look for it
LENGTH = 20


def loaded(family: str, attention: str = "causal", dtype: torch.dtype = torch.float32, **settings):
    """A model of a test's own; reading it from its folder once is enough."""
    return copy.deepcopy(_loaded(family, attention, dtype, **settings))


@cache
def _loaded(family: str, attention: str, dtype: torch.dtype, **settings):
    return loaded_from(tiny_models.folder(family, **settings), attention, dtype)


@cache
def eager(family: str):
    """The family's model as transformers has it, with the plainest attention."""
    return AutoModel.from_pretrained(tiny_models.folder(family), attn_implementation="eager").eval()


def loaded_from(folder: Path, attention: str = "causal", dtype: torch.dtype = torch.float32, *, cut: bool = False):
    config = backbone.read_config(folder, folder.name, attention)
    return backbone.load_model(folder, folder.name, config, dtype, cut=cut)


def some_ids(length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(10, 150, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def states(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask).last_hidden_state


def edited(ids: torch.Tensor, place: int) -> torch.Tensor:
    other = ids.clone()
    other[:, place] += 1
    return other


def built(model_type: str, target: Path, **settings: object) -> Path:
    """A model of a family that has no tokenizer here."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, vocab_size=300, **settings))
    tiny_models.randomize(model, seed=0)
    model.save_pretrained(target)
    return target


# Attention


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_family_attends_as_asked(family, attention):
    if family in ENCODERS and attention == "causal":
        with pytest.raises(ModelError, match="masked language model, in which every token sees all"):
            loaded(family, attention)
        return
    model = loaded(family, attention)
    backbone.check_attention(model, family, attention)
    ids = some_ids()
    before, after = states(model, ids), states(model, edited(ids, 15))
    moved = (before - after).abs().amax(dim=-1)[0]
    assert (moved[15:] > 1e-3).all()
    if attention == "causal":
        assert moved[:15].max() == 0
    else:
        assert (moved[:15] > 1e-3).all()


@pytest.mark.parametrize("family", [f for f in (*DECODERS, *ENCODERS) if f not in ("bloom", "opt")])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_states_equal_those_under_an_explicit_mask(family, attention):
    """Against eager attention with every pair of tokens spelled out, padded on our side; Bloom and OPT take none."""
    if family in ENCODERS and attention == "causal":
        return
    model = loaded(family, attention)
    plain = eager(family)
    ids, longer = some_ids(), some_ids(LENGTH + 9, seed=1)
    both = torch.cat([torch.nn.functional.pad(ids, (0, 9), value=model.config.pad_token_id or 0), longer])
    mask = torch.ones_like(both)
    mask[0, LENGTH:] = 0
    ours = states(model, both, mask)
    for row, alone in enumerate((ids, longer)):
        length = alone.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool)
        seen = seen.tril() if attention == "causal" else seen
        pairs = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        with torch.no_grad():
            expected = plain(alone, attention_mask=pairs, use_cache=False).last_hidden_state[0]
        assert (ours[row, :length] - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize("family", ["bloom", "opt"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_families_that_take_no_explicit_mask(family, attention, monkeypatch):
    """The mask is put in their hands inside instead, where the plain model makes its own."""
    ids = some_ids()
    ours = states(loaded(family, attention), ids)
    pairs = torch.zeros(1, 1, LENGTH, LENGTH)
    if attention == "causal":
        pairs = pairs.masked_fill(~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(), torch.finfo(torch.float32).min)
    monkeypatch.setattr(f"transformers.models.{family}.modeling_{family}.create_causal_mask", lambda **_: pairs)
    expected = states(eager(family), ids)
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize(("attention", "before", "after"), [("causal", 0, 3), ("bidirectional", 4, 4)])
def test_a_sliding_window_is_the_models_own(attention, before, after):
    """A window of 4 limits how far a token sees in each layer; transformers counts it so, in one direction or both."""
    model = loaded("mistral", attention, sliding_window=4, num_hidden_layers=2)
    moved = (states(model, some_ids(30)) - states(model, edited(some_ids(30), 14))).abs().amax(dim=-1)[0]
    assert moved.nonzero().flatten().tolist() == list(range(14 - 2 * before, 14 + 2 * after + 1))


def test_a_window_too_small_to_be_bidirectional_is_refused():
    """With one layer and a window of 4, the early half of the probe never sees its last token."""
    model = loaded("mistral", "bidirectional", sliding_window=4, num_hidden_layers=1)
    with pytest.raises(ModelError, match="early tokens do not see later ones"):
        backbone.check_attention(model, "windowed", "bidirectional")


@pytest.mark.parametrize("model_type", NEVER_BIDIRECTIONAL)
def test_a_family_that_stays_causal_is_refused_not_served(model_type, tmp_path):
    folder = built(model_type, tmp_path, **NEVER_BIDIRECTIONAL[model_type])
    backbone.check_attention(loaded_from(folder), model_type, "causal")
    with pytest.raises(
        ModelError, match=r"early tokens do not see later ones|in its forward|read from left to right only"
    ):
        backbone.check_attention(loaded_from(folder, "bidirectional"), model_type, "bidirectional")


def test_a_mixture_of_experts_is_causal_although_its_sums_change_their_order(tmp_path):
    """A late token that takes another expert changes early states in their last digit."""
    settings = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    for seed in range(4):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed)
        config = AutoConfig.for_model("qwen3_moe", vocab_size=300, **settings, **experts)
        model = AutoModelForCausalLM.from_config(config)
        tiny_models.randomize(model, seed)
        model.save_pretrained(folder)
        backbone.check_attention(loaded_from(folder), "experts", "causal")
        backbone.check_attention(loaded_from(folder, "bidirectional"), "experts", "bidirectional")


@pytest.mark.parametrize("size", [1e-6, 1e-4])
def test_rounding_is_no_sight_and_sight_is_no_rounding(size):
    """A model whose early states move a little: at 1e-6 it still counts as causal, at 1e-4 it does not."""
    model = loaded("llama")
    original = model.forward

    def leaky(**inputs: torch.Tensor):
        output = original(**inputs)
        sight = inputs["input_ids"][:, -1:].sum() % 5 * size * output.last_hidden_state.abs().max()
        output.last_hidden_state = output.last_hidden_state + sight / 4
        return output

    model.forward = leaky
    if size < 1e-5:
        backbone.check_attention(model, "leaky", "causal")
        with pytest.raises(ModelError, match="early tokens do not see later ones"):
            backbone.check_attention(model, "leaky", "bidirectional")
    else:
        with pytest.raises(ModelError, match="early tokens see later ones"):
            backbone.check_attention(model, "leaky", "causal")


def test_a_causal_mask_that_stays_is_refused(monkeypatch):
    """As an older transformers would have it, which knows nothing of ``is_causal``."""
    from transformers.models.llama import modeling_llama

    real = modeling_llama.create_causal_mask

    def stubborn(*, config, **inputs):
        config = copy.copy(config)
        config.is_causal = True
        return real(config=config, allow_is_causal_skip=False, **inputs)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", stubborn)
    echoembed.load(tiny_models.folder("llama"), recipe="classical", device="cpu")
    with pytest.raises(ModelError, match="bidirectional attention, but a probe shows that early tokens do not see"):
        echoembed.load(tiny_models.folder("llama"), recipe="classical-bidirectional", device="cpu")


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_mask_that_hides_nothing_is_refused(attention, monkeypatch):
    """Under causal attention early tokens see late ones; under bidirectional attention they see the padding."""
    from transformers.models.llama import modeling_llama

    def everything(*, inputs_embeds, **_):
        batch, length = inputs_embeds.shape[:2]
        return torch.zeros(batch, 1, length, length)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", everything)
    found = "early tokens see later ones" if attention == "causal" else "other states when a text is padded"
    with pytest.raises(ModelError, match=found):
        backbone.check_attention(loaded("llama", attention), "open", attention)


def test_states_that_are_not_finite_are_refused():
    model = loaded("llama")
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[3, 3] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        backbone.check_attention(model, "broken", "causal")


# Layers


@pytest.mark.parametrize("family", [family for family in (*DECODERS, *ENCODERS) if family not in UNCUTTABLE])
def test_a_layers_states_are_those_of_the_whole_model(family):
    attention = "bidirectional" if family in ENCODERS else "causal"
    with torch.no_grad():
        expected = loaded(family, attention)(some_ids(), output_hidden_states=True).hidden_states
    for layer in (0, 1, 2, 3, -1, -2, -3, -4):
        model = loaded(family, attention)
        stack = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
        ran: list[int] = []
        for index, module in enumerate(stack):
            module.register_forward_hook(lambda *_, index=index, ran=ran: ran.append(index))
        kept = backbone.cut_at_layer(model, family, layer)
        ran.clear()
        found = states(model, some_ids())
        assert torch.equal(found, expected[layer])
        assert kept == layer % 4
        assert ran == list(range(kept))
        backbone.check_attention(model, family, attention)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_layers_differ(layer):
    model, other = loaded("llama"), loaded("llama")
    backbone.cut_at_layer(model, "llama", layer)
    backbone.cut_at_layer(other, "llama", layer - 1)
    assert (states(model, some_ids()) - states(other, some_ids())).abs().max() > 0.1


def test_the_first_layer_gives_the_token_embeddings():
    model = loaded("llama")
    table = model.get_input_embeddings().weight
    backbone.cut_at_layer(model, "llama", 0)
    assert torch.equal(states(model, some_ids())[0], table[some_ids()[0]])


@pytest.mark.parametrize("layer", [4, 100, -5])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(ModelError, match=rf"has 3 layers, but layer {layer} was asked for.*to 3, or -1"):
        backbone.cut_at_layer(loaded("llama"), "llama", layer)


@pytest.mark.parametrize("family", UNCUTTABLE)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_family_that_cannot_be_cut_says_so(family, layer):
    with pytest.raises(ModelError, match="cannot be cut at a layer"):
        backbone.cut_at_layer(loaded(family), family, layer)
    assert backbone.cut_at_layer(loaded(family), family, -1) == 3


def test_a_cut_that_changes_the_states_is_refused(monkeypatch):
    """The proof is made on the cut model, whatever the cutting did."""
    real = backbone.drop_layers
    monkeypatch.setattr(backbone, "drop_layers", lambda model, name, kept: real(model, name, kept - 1))
    with pytest.raises(ModelError, match="cannot be cut at a layer"):
        backbone.cut_at_layer(loaded("llama"), "llama", 2)


@pytest.mark.parametrize("family", [family for family in (*DECODERS, *ENCODERS) if family not in UNCUTTABLE])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_cut_model_is_saved_and_read_again(family, layer, tmp_path):
    attention = "bidirectional" if family in ENCODERS else "causal"
    model = loaded(family, attention)
    backbone.cut_at_layer(model, family, layer)
    model.save_pretrained(tmp_path)
    again = loaded_from(tmp_path, attention, cut=True)
    assert torch.equal(states(again, some_ids()), states(model, some_ids()))
    assert again.config.num_hidden_layers == layer


# Weights and configuration


def test_missing_weights_are_refused(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(layers.1.mlp.up_proj.weight\)"):
        loaded_from(folder)


def test_weights_of_another_shape_are_refused(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path, intermediate_size=64)
    with pytest.raises(ModelError):
        loaded_from(folder)


def test_weights_of_another_depth_are_refused(tmp_path):
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path, num_hidden_layers=4)
    with pytest.raises(ModelError, match="lacks 9 of its weights"):
        loaded_from(folder)


def test_a_pooler_is_not_asked_for():
    """A masked language model is saved without one; it would be random, and is never run."""
    weights = load_file(tiny_models.folder("bert") / "model.safetensors")
    assert not any("pooler" in key for key in weights)
    loaded("bert", "bidirectional")


@pytest.mark.parametrize("model_type", ["vit", "t5", "bart", "clip", "whisper"])
def test_a_model_of_another_kind_is_refused(model_type, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"type '{model_type}'.*neither as a causal nor as a masked"):
        backbone.read_config(tmp_path, "other", "causal")


@pytest.mark.parametrize("content", ["{}", '{"model_type": "no-such-type"}', '{"model_type": "llama", "auto_map": {}'])
def test_a_configuration_that_says_nothing_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"other cannot be loaded|config.json' is broken"):
        backbone.read_config(tmp_path, "other", "causal")


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    target = tmp_path / "custom"
    tiny_models.copy(
        tiny_models.folder("llama"),
        target,
        model_type="custom",
        auto_map={"AutoConfig": "custom.Config", "AutoModel": "custom.Model"},
    )
    (target / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="Code that comes with a model is never run"):
        backbone.read_config(target, "custom", "causal")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("family", "limit", "expected"),
    [
        ("llama", None, 2048),
        ("llama", 512, 512),
        ("llama", 10**30, 2048),
        ("bert", None, 64),
        ("roberta", None, 64),  # 66 positions, of which the padding id takes two
        ("xlm-roberta", None, 64),
        ("bloom", None, None),
        ("bloom", 300, 300),
        ("gpt2", None, 2048),
        ("falcon", 1024, 1024),
    ],
)
def test_the_context_is_what_the_positions_hold(family, limit, expected):
    model = AutoModel.from_pretrained(tiny_models.folder(family))
    assert backbone.context_length(model, limit) == expected


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "bert"])
def test_the_whole_context_can_be_read(family):
    model = loaded(family, "bidirectional")
    length = backbone.context_length(model, None)
    assert torch.isfinite(states(model, some_ids(length))).all()
    with pytest.raises((IndexError, RuntimeError)):
        states(model, some_ids(length + 1))


# Dtypes


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gpt2", "bert"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.06), ("float16", 0.01)])
def test_half_precision_gives_close_vectors_in_float32(family, dtype, tolerance):
    folder = tiny_models.folder(family)
    recipe = "bert-large" if family == "bert" else "echo"
    texts = ["the cat sat on a mat", "rain fell over the old town and the river", "nobody waits"]
    exact = echoembed.load(folder, recipe=recipe, device="cpu").encode(texts)
    model = echoembed.load(folder, recipe=recipe, device="cpu", dtype=dtype)
    found = model.encode(texts)
    assert model[0].model.dtype == getattr(torch, dtype)
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert 0 < np.abs(found - exact).max() < tolerance


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_proof_holds_in_half_precision(family, dtype, attention):
    model = loaded(family, attention, dtype)
    backbone.cut_at_layer(model, family, -1 if family in UNCUTTABLE else 2)
    backbone.check_attention(model, family, attention)
    with pytest.raises(ModelError):
        backbone.check_attention(model, family, "causal" if attention == "bidirectional" else "bidirectional")


def test_settings_in_the_folder_do_not_loosen_what_is_loaded(tmp_path):
    """A configuration may ask for a cache, for another attention, or for half precision; the recipe decides."""
    folder = tiny_models.copy(tiny_models.folder("llama"), tmp_path, is_causal=False, use_cache=True, dtype="float16")
    model = loaded_from(folder)
    assert model.dtype == torch.float32
    assert model.config.use_cache is False
    assert not json.loads((folder / "config.json").read_text())["is_causal"]
    backbone.check_attention(model, "llama", "causal")


@pytest.mark.parametrize("given", [{"return_dict": False}, {"output_hidden_states": True, "output_attentions": True}])
def test_settings_in_the_folder_do_not_say_what_a_forward_gives_back(given, tmp_path):
    plain = echoembed.load(tiny_models.folder("llama"), device="cpu")
    model = echoembed.load(tiny_models.copy(tiny_models.folder("llama"), tmp_path, **given), device="cpu")
    assert np.array_equal(model.encode("a boat"), plain.encode("a boat"))
