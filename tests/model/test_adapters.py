"""An adapter gives the states of the PEFT model that it was saved from, or is refused with the true reason."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    RandLoraConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import echoembed
import tiny_models
from echoembed.errors import ModelError
from echoembed.model import backbone
from echoembed.model.adapters import merge_adapters

QV = ["q_proj", "v_proj"]
TOKENS = [20, 30, 40]


def loaded(family: str, **settings: Any):
    folder = tiny_models.folder(family, **settings)
    return backbone.load_model(folder, folder.name, backbone.read_config(folder, folder.name, "causal"), torch.float32)


def some_ids() -> torch.Tensor:
    """The ids of the prompts; the adapters of single tokens are for the first of them."""
    others = torch.randint(10, 150, (1, 17), generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.tensor([TOKENS]), others], dim=1)


@torch.no_grad()
def states(model: torch.nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    ids = some_ids() if ids is None else ids
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def saved(config: PeftConfig, target: Path, family: str = "llama", *, head: bool = True, seed: int = 1) -> torch.Tensor:
    """Save an adapter with random weights as PEFT writes it, and give the states of PEFT's own model, unmerged."""
    base = (AutoModelForCausalLM if head else AutoModel).from_pretrained(tiny_models.folder(family))
    adapted = get_peft_model(base, copy.deepcopy(config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(adapted.named_parameters()):
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    adapted.save_pretrained(target)
    again = PeftModel.from_pretrained(
        (AutoModelForCausalLM if head else AutoModel).from_pretrained(tiny_models.folder(family)), target
    )
    with torch.no_grad():
        return again.eval()(input_ids=some_ids(), output_hidden_states=True).hidden_states[-1]


def described(target: Path, **changes: object) -> Path:
    """The adapter with other entries in its adapter_config.json."""
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


KINDS: dict[str, PeftConfig] = {
    "plain": LoraConfig(r=4, target_modules=QV),
    "all": LoraConfig(r=4, target_modules="all-linear"),
    "scaled by rank": LoraConfig(r=4, target_modules=QV, use_rslora=True),
    "magnitudes": LoraConfig(r=4, target_modules=QV, use_dora=True),
    "biases of all": LoraConfig(r=4, target_modules=QV, bias="all"),
    "biases of LoRA": LoraConfig(r=4, target_modules=QV, bias="lora_only"),
    "full names": LoraConfig(
        r=4,
        target_modules=QV,
        alpha_pattern={"model.layers.0.self_attn.q_proj": 32, "layers.1.self_attn.v_proj": 1},
        rank_pattern={"model.layers.1.self_attn.q_proj": 2},
    ),
    "patterns": LoraConfig(
        r=4, target_modules=QV, alpha_pattern={r"^model\.layers\.[01]\..*": 32}, rank_pattern={r".*\.2\..*v_proj": 2}
    ),
    "a pattern from the top": LoraConfig(r=4, target_modules=r"model\.layers\.\d+\.self_attn\.(q|v)_proj"),
    "a pattern that looks ahead": LoraConfig(r=4, target_modules=r"^(?!.*\.1\.).*(gate|up)_proj"),
    "left out": LoraConfig(r=4, target_modules="all-linear", exclude_modules=r".*layers\.0\..*"),
    "some layers": LoraConfig(r=4, target_modules=QV, layers_to_transform=[0, 2]),
    "some layers by name": LoraConfig(r=4, target_modules=QV, layers_to_transform=[1], layers_pattern="layers"),
    "the head": LoraConfig(r=4, target_modules=[*QV, "lm_head"]),
    "the head saved": LoraConfig(r=4, target_modules=QV, modules_to_save=["lm_head"]),
    "the norms saved": LoraConfig(r=4, target_modules=QV, modules_to_save=["input_layernorm", "norm", "lm_head"]),
    "the embeddings saved": LoraConfig(r=4, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"]),
    "the embeddings": LoraConfig(r=4, target_modules=[*QV, "embed_tokens"]),
    "some tokens": LoraConfig(r=4, target_modules=QV, trainable_token_indices=TOKENS),
    "some tokens by name": LoraConfig(r=4, target_modules=QV, trainable_token_indices={"embed_tokens": [20, 30]}),
    "singular values": LoraConfig(r=4, target_modules=QV, init_lora_weights="pissa"),
    "AdaLoRA": AdaLoraConfig(r=4, target_modules=QV, total_step=10, rank_pattern=None),
    "LoHa": LoHaConfig(r=4, target_modules=QV),
    "LoKr": LoKrConfig(r=4, target_modules=QV),
    "IA3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "OFT": OFTConfig(r=0, oft_block_size=4, target_modules=QV),
    "BOFT": BOFTConfig(boft_block_size=4, target_modules=QV),
    "HRA": HRAConfig(r=4, target_modules=QV),
    "MiSS": MissConfig(r=4, target_modules=QV),
    "VeRA": VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
    "VeRA without projections": VeraConfig(r=4, target_modules=["q_proj", "o_proj"], save_projection=False),
    "FourierFT": FourierFTConfig(n_frequency=100, target_modules=QV, scaling=50),
    "RandLoRA": RandLoraConfig(r=4, randlora_alpha=1, target_modules=["q_proj", "o_proj"]),
    "norms": LNTuningConfig(target_modules=["input_layernorm"]),
    "tokens alone": TrainableTokensConfig(token_indices=TOKENS, target_modules=["embed_tokens"]),
}


@pytest.mark.parametrize("head", [True, False], ids=["under a head", "without"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_gives_the_states_of_the_model_it_was_saved_from(kind, head, tmp_path):
    config = copy.deepcopy(KINDS[kind])
    config.task_type = "CAUSAL_LM" if head else "FEATURE_EXTRACTION"
    if not head and any(word in kind for word in ("head", "from the top", "saved", "some layers")):
        pytest.skip("needs the names that a model has under its head")
    expected = saved(config, tmp_path, head=head)
    base = loaded("llama")
    plain = states(base)
    merged = merge_adapters(base, "llama", [tmp_path])
    assert (states(merged) - expected).abs().max() < 1e-4
    assert (plain - expected).abs().max() > 1e-2
    assert not any("lora" in name or "base_layer" in name for name, _ in merged.named_parameters())


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "falcon", "bloom", "gptj", "opt", "mixtral", "gemma3", "phi3"])
def test_names_under_the_heads_prefix_mean_the_same_layers_in_every_family(family, tmp_path):
    expected = saved(LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"), tmp_path, family)
    merged = merge_adapters(loaded(family), family, [tmp_path])
    assert (states(merged) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["c_attn"], bias="lora_only", task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules=["c_attn"], lora_bias=True, fan_in_fan_out=True, task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules=["c_attn", "wte"], bias="all", use_dora=True, task_type="CAUSAL_LM"),
    ],
)
def test_biases_are_merged_where_there_are_some(config, tmp_path):
    expected = saved(config, tmp_path, "gpt2")
    merged = merge_adapters(loaded("gpt2"), "gpt2", [tmp_path])
    assert (states(merged) - expected).abs().max() < 1e-4


REFUSED = {
    "PREFIX": (PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "tokens in front of the prompt"),
    "PROMPT": (PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "tokens in front of the prompt"),
    "BIAS": (LoraConfig(r=4, target_modules=QV, lora_bias=True, task_type="CAUSAL_LM"), "the base layer has no bias"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_adapter_that_is_no_part_of_the_weights_is_refused(kind, tmp_path):
    config, reason = REFUSED[kind]
    base = AutoModelForCausalLM.from_pretrained(tiny_models.folder("llama"))
    get_peft_model(base, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{reason}.*Merge it with the peft that made it.* or choose another adapter"):
        merge_adapters(loaded("llama"), "llama", [tmp_path])


CHANGES = [
    ({"peft_type": "NOVELTY"}, "'NOVELTY', is none that this peft knows"),
    ({"use_novelty": True}, "this peft does not know its use_novelty: it needs a newer one"),
    ({"megatron_config": {"a": 1}, "megatron_core": "code"}, "it names code to import"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "it adds layers"),
    ({"alora_invocation_tokens": [5]}, "after certain tokens only"),
    ({"use_bdlora": {"target_modules_bd_a": ["q_proj"]}}, "use_bdlora"),
    ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4: what that took out of the weights, loading does not"),
    ({"init_lora_weights": "corda", "corda_config": {}}, "corda: what that took out"),
    ({"init_lora_weights": "lora_ga", "lora_ga_config": {}}, "lora_ga: what that took out"),
    ({"lora_alpha": float("nan")}, "with it, states are not finite numbers"),
    ({"r": 8}, "size mismatch"),
    ({"r": 10**9}, "its rank r = 1000000000 is larger"),
    ({"rank_pattern": {"q_proj": 10**9}}, "its rank q_proj = 1000000000 is larger"),
    ({"target_modules": ["("]}, "target_modules holds more than names"),
    ({"target_modules": "("}, "does not fit"),
    ({"target_modules": 5}, "does not fit"),
    ({"target_modules": ["k_proj"]}, "does not fit llama"),
    ({"modules_to_save": ["(a+)+"]}, "modules_to_save holds more than names"),
]


@pytest.mark.parametrize(("changes", "reason"), CHANGES)
def test_what_an_adapter_says_that_cannot_be_is_refused_by_name(changes, reason, tmp_path):
    saved(LoraConfig(r=4, target_modules=QV, task_type="CAUSAL_LM"), tmp_path)
    with pytest.raises(ModelError, match=reason) as caught:
        merge_adapters(loaded("llama"), "llama", [described(tmp_path, **changes)])
    assert len(str(caught.value).splitlines()) == 1


def first(weights: dict[str, torch.Tensor], part: str) -> str:
    return min(key for key in weights if part in key)


# Each is loaded by peft as it is, and gives other states than the adapter that was saved.
SPOILT = {
    "not a number": ("plain", "lora_B", lambda weight: weight * torch.nan, "lora_B.weight is not finite"),
    "infinite": ("plain", "lora_A", lambda weight: weight + torch.inf, "lora_A.weight is not finite"),
    "whole numbers": (
        "plain",
        "lora_A",
        lambda weight: (weight * 100).to(torch.int8),
        r"whole numbers \(int8\) in base_",
    ),
    "truth values": ("plain", "lora_A", lambda weight: weight > 0, r"whole numbers \(bool\)"),
    "saved in whole numbers": ("the norms saved", "norm.weight", lambda weight: (weight * 9).int(), "whole numbers"),
    "no magnitude": ("magnitudes", "magnitude", lambda _: None, r"1 weights are missing \(.*lora_magnitude"),
    "no half": ("plain", "lora_B", lambda _: None, r"1 weights are missing \(.*lora_B"),
    "no norm": ("the norms saved", "input_layernorm", lambda _: None, "it lacks the weight .*input_layernorm"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_an_adapter_with_spoilt_or_missing_weights_is_refused_with_the_reason(spoilt, tmp_path):
    kind, part, change, reason = SPOILT[spoilt]
    config = copy.deepcopy(KINDS[kind])
    config.task_type = "CAUSAL_LM"
    saved(config, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    key = first(weights, part)
    changed = change(weights.pop(key))
    save_file(weights if changed is None else {**weights, key: changed}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=reason) as caught:
        merge_adapters(loaded("llama"), "llama", [tmp_path])
    assert "\\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "([a-z_.0-9]+)+!"},
        {"target_modules": "(.*a)*(.*b)*(.*c)*(.*d)*(.*e)*!"},
        {"exclude_modules": "((a|[a-z_.0-9])+)+!"},
        {"alpha_pattern": {"([a-z_.0-9]+)+!": 3}},
        {"rank_pattern": {"([a-z_.0-9]+)*([a-z_.0-9]+)*!": 3}},
        {"layers_to_transform": [0], "layers_pattern": "([a-z_.0-9]+)+!"},
        {"target_modules": "a" * 100_000},
    ],
)
def test_a_pattern_without_end_is_given_up(changes, tmp_path):
    saved(LoraConfig(r=4, target_modules=QV, task_type="CAUSAL_LM"), tmp_path)
    with contextlib.suppress(ModelError):  # or it is read as what it means, which is nothing in this model
        merge_adapters(loaded("llama"), "llama", [described(tmp_path, **changes)])


def test_an_adapter_for_more_tokens_says_so(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_models.folder("llama"))
    base.resize_token_embeddings(len(base.get_input_embeddings().weight) + 3)
    config = LoraConfig(r=4, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"was trained with 599 tokens, and llama has 596\. .* resize and merge with peft"
    ):
        merge_adapters(loaded("llama"), "llama", [tmp_path])


def with_adapter_beside(target: Path, adapter: Path, **changes: object) -> Path:
    """A whole model's folder with an adapter's two files in it."""
    shutil.copytree(tiny_models.folder("llama"), target)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / file, target)
    return described(target, **changes)


def test_an_adapter_beside_the_weights_is_merged_like_any_other(tmp_path):
    expected = saved(LoraConfig(r=4, target_modules=QV, task_type="CAUSAL_LM"), tmp_path / "adapter")
    folder = with_adapter_beside(tmp_path / "model", tmp_path / "adapter", base_model_name_or_path="owner/another")
    model = echoembed.load(folder, device="cpu", recipe="classical")
    assert (states(model[0].model) - expected).abs().max() < 1e-4
    assert not any("lora" in name for name, _ in model[0].model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target_modules": "([a-z_.0-9]+)+!"}, "does not fit"),
        ({"target_modules": ["k_proj"]}, "weights have no place"),
        ({"peft_type": "NOVELTY"}, "none that this peft knows"),
        ({"init_lora_weights": "pissa_niter_4"}, "what that took out"),
    ],
)
def test_an_adapter_beside_the_weights_that_does_not_fit_is_refused_like_any_other(changes, reason, tmp_path):
    saved(LoraConfig(r=4, target_modules=QV, task_type="CAUSAL_LM"), tmp_path / "adapter")
    with pytest.raises(ModelError, match=reason):
        echoembed.load(with_adapter_beside(tmp_path / "model", tmp_path / "adapter", **changes), device="cpu")


@pytest.mark.parametrize("under_head", [False, True])
@pytest.mark.parametrize("family", ["mistral", "qwen3", "gpt2"])
def test_merged_adapters_equal_pefts_own_forward(family, under_head):
    from peft import PeftModel

    folders = [tiny_models.adapter(family, seed=seed, under_head=under_head) for seed in (1, 2)]
    base = (AutoModelForCausalLM if under_head else AutoModel).from_pretrained(tiny_models.folder(family))
    first = PeftModel.from_pretrained(base, folders[0]).merge_and_unload()
    both = PeftModel.from_pretrained(first, folders[1]).eval()
    with torch.no_grad():
        expected = both(input_ids=some_ids(), output_hidden_states=True).hidden_states[-1]
    merged = merge_adapters(loaded(family), family, folders)
    assert (states(merged, some_ids()) - expected).abs().max() < 1e-4
    assert (states(loaded(family), some_ids()) - expected).abs().max() > 0.1
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_every_adapter_counts():
    one = merge_adapters(loaded("mistral"), "mistral", [tiny_models.adapter("mistral", seed=1)])
    both = [tiny_models.adapter("mistral", seed=seed) for seed in (1, 2)]
    two = merge_adapters(loaded("mistral"), "mistral", both)
    assert (states(one, some_ids()) - states(two, some_ids())).abs().max() > 0.1


def test_without_adapters_nothing_changes():
    model = loaded("mistral")
    assert merge_adapters(model, "mistral", []) is model


def test_an_adapter_of_another_architecture_is_refused():
    with pytest.raises(ModelError, match=r"The adapter .* does not fit mistral"):
        merge_adapters(loaded("mistral"), "mistral", [tiny_models.adapter("gpt2")])


@pytest.mark.parametrize("settings", [{"intermediate_size": 64}, {"num_hidden_layers": 2}, {"num_hidden_layers": 4}])
def test_an_adapter_of_another_size_is_refused(settings):
    with pytest.raises(ModelError, match=r"The adapter .* does not fit mistral"):
        merge_adapters(loaded("mistral", **settings), "mistral", [tiny_models.adapter("mistral")])


def test_an_adapter_with_a_weight_too_few_or_too_many_is_refused(tmp_path):
    whole = tiny_models.adapter("mistral")
    weights = load_file(whole / "adapter_model.safetensors")
    key = next(key for key in weights if "layers.2.mlp" in key and "lora_B" in key)
    fewer = {name: weight for name, weight in weights.items() if name != key}
    more = {**weights, key.replace("layers.2", "layers.7"): weights[key].clone()}
    for number, changed in enumerate((fewer, more)):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        save_file(changed, folder / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="adapter"):
            merge_adapters(loaded("mistral"), "mistral", [folder])
