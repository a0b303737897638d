"""Merging adapters saved by peft: the result gives the vectors of the model they were saved from, or merging fails.

1. Check the adapter's settings. Every entry must be known, and none may name code or a pattern that takes forever.
2. Give the model the names that the adapter expects: an adapter trained under a language-model head has names one level
   deeper. The head itself never touches the states, so that the adapter's weights for it are left out.
3. Let peft add the adapter and load its weights. Each weight must have a place, and each place a weight.
4. Merge the adapter. The states before and after must agree.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from echoembed import errors, versions
from echoembed.model.trust import LOADING
from echoembed.numerics import TOLERANCE, relative_difference
from echoembed.sources.files import ADAPTER_CONFIG
from echoembed.sources.settings import read_json
from echoembed.sources.settings import reason as reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
_BODY = "base_model.model."
_NAME = "default"  # peft's name for an adapter without a name
_PLAIN = re.compile(r"[\w.-]+")
_LISTS = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules", "layers_pattern")
_PATTERNS = ("target_modules", "exclude_modules", "feedforward_modules")
_TABLES = ("rank_pattern", "alpha_pattern")
_SECONDS, _LONGEST = 5.0, 10_000
# Settings that a merged model cannot have, and why.
_REFUSED = {
    "megatron_config": "it names code to import",
    "layer_replication": "it adds layers, whose states are no layer's of the model",
    "alora_invocation_tokens": "it acts after certain tokens only",
    "num_virtual_tokens": "it adds tokens in front of the prompt",
    "use_bdlora": "its weights are made for several devices",
    "arrow_config": "it chooses between adapters for every token",
}
# Ways to begin that move a part of the base weights into the adapter, chosen at random or by data. Loading would choose
# another part.
_UNREPEATED = ("pissa_niter", "corda", "lora_ga")
_NOTES = ("peft_version", "auto_mapping", "runtime_config")  # entries that change no vectors; all others may
_RANKS = ("r", "init_r", "target_r", "rank")
_HEADED = ("CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")


def merge_adapters(model: PreTrainedModel, name: str, folders: Sequence[Path]) -> PreTrainedModel:
    """Merge adapters (peft) into the weights, in order.

    Args:
        model: The model without its head; changed in place.
        name: What errors call the model.
        folders: Folders with adapter_config.json and adapter_model.safetensors.

    Returns:
        The model, in evaluation mode.

    Raises:
        LibraryError: If peft is not installed, or does not work with the installed transformers.
        ModelError: If an adapter does not fit the model, or is of a kind that cannot be merged.
    """
    if folders:
        versions.check("peft", extra="peft", purpose=f"Loading {name}")
    for folder in folders:
        try:
            with LOADING, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about names and other base models, which are checked here
                _merge(model, name, folder)
        except errors.EchoembedError:
            raise
        except Exception as error:  # peft has no common base
            lacks = isinstance(error, KeyError) and str(error.args[0]).startswith(_BODY)
            told = f"it lacks the weight {error.args[0]}" if lacks else reason_of(error)
            raise errors.model_adapter_unusable(name, str(folder), told) from error
    model.train(False)
    return model


def _merge(model: PreTrainedModel, name: str, folder: Path) -> None:
    from peft import get_peft_model
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / WEIGHTS)
    settings = read_json(folder / ADAPTER_CONFIG, dict)
    check_settings(settings, weights, name, folder)

    # 1. Give the model the names that the adapter expects.
    inside = f"{_BODY}{model.base_model_prefix}."
    headed = settings.get("task_type") in _HEADED or any(key.startswith(inside) for key in weights)
    if headed and hasattr(model, model.base_model_prefix):
        headed = False  # the model without its head has this name too
    target: nn.Module = _UnderHead(model) if headed else model
    if headed:
        weights = {key: w for key, w in weights.items() if key.startswith(inside) or not key.startswith(_BODY)}
    config = _config(settings, target, headed=headed, name=name, folder=folder)
    _check_vocabulary(model, weights, name, folder)

    # 2. Add the adapter. Each weight must have a place, and each place a weight.
    adapted: Any = get_peft_model(target, config)
    result: Any = set_peft_model_state_dict(adapted, weights)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    places = set(map(_place, expected))
    missing = [key for key in result.missing_keys if _place(key) in places]
    missing += [key for key in expected if key.endswith(".bias") and key not in weights]
    for keys, what in ((result.unexpected_keys, "of its weights have no place"), (missing, "weights are missing")):
        if keys:
            reason = f"{len(keys)} {what} ({', '.join(keys[:2])})"
            raise errors.model_adapter_unusable(name, str(folder), reason)

    # 3. Merge the adapter, and compare the states before and after.
    adapted.train(False)
    before_BTD = _states(model)
    adapted.merge_and_unload()
    if not torch.isfinite(before_BTD).all():
        reason = "with it, states are not finite numbers"
        raise errors.model_adapter_unusable(name, str(folder), reason)
    if relative_difference(_states(model), before_BTD) > 3 * TOLERANCE[model.dtype]:
        raise errors.model_adapter_unusable(name, str(folder), "its states change where it is merged into the weights")


def _place(key: str) -> str:
    """Return a weight's name without what peft adds to it in memory, or leaves out in a file."""
    return key.replace(f".{_NAME}", "").removesuffix(".weight")


class _UnderHead(nn.Module):
    """A model whose modules' names are one level deeper, as under a head, but without the head."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        setattr(self, model.base_model_prefix, model)
        self.config = model.config
        self.base_model_prefix = model.base_model_prefix
        self._body = [model]

    def get_input_embeddings(self) -> nn.Module:
        return self._body[0].get_input_embeddings()

    def forward(self, **inputs: Tensor) -> Any:
        return self._body[0](**inputs)


def check_settings(settings: dict[str, Any], weights: dict[str, Tensor], name: str, folder: Path) -> None:
    """Refuse settings that cannot be merged, that this peft does not know, or that contradict the weights' sizes."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = settings.get("peft_type")
    config_class: Any = PEFT_TYPE_TO_CONFIG_MAPPING.get(str(kind))  # type: ignore[call-overload]
    if config_class is None:
        raise errors.model_adapter_unusable(name, str(folder), f"its kind, {kind!r}, is none that this peft knows")
    fields = {entry.name for entry in dataclasses.fields(config_class)}
    unknown = [key for key, value in settings.items() if value and key not in {*fields, *_NOTES}]
    if unknown:
        reason = f"this peft does not know its {', '.join(sorted(unknown)[:3])}: it needs a newer one"
        raise errors.model_adapter_unusable(name, str(folder), reason)
    for key, reason in _REFUSED.items():
        if settings.get(key):
            raise errors.model_adapter_unusable(name, str(folder), f"it has {key}: {reason}")
    if (begun := str(settings.get("init_lora_weights"))).startswith(_UNREPEATED):
        reason = (
            f"it has init_lora_weights = {begun}: what that took out of the weights, loading does not take out again"
        )
        raise errors.model_adapter_unusable(name, str(folder), reason)
    for key in _LISTS:
        value = settings.get(key)
        if isinstance(value, list) and not all(isinstance(entry, str) and _PLAIN.fullmatch(entry) for entry in value):
            raise errors.model_adapter_unusable(name, str(folder), f"its {key} holds more than names of modules")
    layers = settings.get("layers_pattern")
    if layers and isinstance(layers, str) and not _PLAIN.fullmatch(layers):
        raise errors.model_adapter_unusable(name, str(folder), "its layers_pattern is more than a name")
    whole = next((key for key, weight in weights.items() if not weight.is_floating_point()), None)
    if whole is not None:  # peft would take them as they are, without the scale that they were divided by
        reason = f"it has whole numbers ({str(weights[whole].dtype).removeprefix('torch.')}) in {whole}"
        raise errors.model_adapter_unusable(name, str(folder), reason)
    if spoilt := next((key for key, weight in weights.items() if not torch.isfinite(weight.float()).all()), None):
        raise errors.model_adapter_unusable(name, str(folder), f"its weight {spoilt} is not finite")
    widest = max((size for weight in weights.values() for size in weight.shape), default=0)
    ranks = {key: settings.get(key) for key in _RANKS} | dict(settings.get("rank_pattern") or {})
    for key, rank in ranks.items():
        if isinstance(rank, int) and rank > widest:
            reason = f"its rank {key} = {rank} is larger than any of its weights"
            raise errors.model_adapter_unusable(name, str(folder), reason)


def _config(settings: dict[str, Any], target: nn.Module, *, headed: bool, name: str, folder: Path) -> Any:
    """Make peft's configuration for a model without a head, with patterns expanded to the names they match."""
    from peft import PeftConfig

    names = [key for key, _ in target.named_modules()]
    settings = {key: value for key, value in settings.items() if key not in _NOTES}
    settings |= {"task_type": None, "base_model_name_or_path": None, "inference_mode": True}
    try:
        for key in _PATTERNS:
            pattern = settings.get(key)
            if isinstance(pattern, str) and len(pattern) > _LONGEST:
                raise TimeoutError
            if isinstance(pattern, str) and pattern != "all-linear":
                settings[key] = _matching(pattern, names)
        for key in _TABLES:
            if table := settings.get(key):
                settings[key] = _expanded(table, [*names, *(key for key, _ in target.named_parameters())])
    except TimeoutError as error:
        reason = "a pattern in its adapter_config.json takes too long to match"
        raise errors.model_adapter_unusable(name, str(folder), reason) from error
    if headed:
        for key in ("modules_to_save", "trainable_token_indices"):
            settings[key] = _without_heads(settings.get(key), names)
        if settings.get("target_modules") == "all-linear":  # peft allows this value for whole models only
            settings["target_modules"] = [key for key, module in target.named_modules() if _is_linear(module)]
    return PeftConfig.from_peft_type(**settings)  # type: ignore[no-untyped-call]


def _without_heads(value: Any, names: list[str]) -> Any:
    """Remove, from a list or from the keys of a table, the names of modules that only a head has."""
    if isinstance(value, (list, dict)) and all(isinstance(key, str) for key in value):
        present = [key for key in value if any(name == key or name.endswith(key) for name in names)]
        return ({key: value[key] for key in present} if isinstance(value, dict) else present) or None
    return value


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, whose weight is transposed

    return isinstance(module, (nn.Linear, Conv1D))


def _matching(pattern: str, names: list[str]) -> list[str]:
    """Return the names that a pattern matches as a whole."""
    import regex  # type: ignore[import-untyped]  # unlike ``re``, it takes a timeout

    compiled = regex.compile(pattern)
    return [name for name in names if compiled.fullmatch(name, timeout=_SECONDS)]


def _expanded(table: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Expand a table of patterns: the first pattern that matches a module's name, or its end, decides, as in peft.

    A table of plain names stays as it is.
    """
    import regex

    if all(_PLAIN.fullmatch(key) for key in table):
        return table
    expanded = {}
    patterns = {key: regex.compile(rf"(.*\.)?({key})$") for key in table}
    for name in names:
        key = next((key for key, pattern in patterns.items() if pattern.match(name, timeout=_SECONDS)), None)
        if key is not None:
            expanded[rf"^{re.escape(name)}"] = table[key]
    return expanded


def _check_vocabulary(model: PreTrainedModel, weights: dict[str, Tensor], name: str, folder: Path) -> None:
    """Refuse an adapter with another vocabulary: its tokenizer has tokens that this model's tokenizer lacks."""
    embeddings: Any = model.get_input_embeddings()
    vocabulary, width = embeddings.weight.shape
    for key, weight in weights.items():
        table = key.endswith(("embed_tokens.weight", "embeddings.weight", "wte.weight", "embed_in.weight"))
        if table and weight.ndim == 2 and weight.shape[1] == width and weight.shape[0] != vocabulary:
            raise errors.model_adapter_vocabulary(name, str(folder), weight.shape[0], vocabulary)


@torch.no_grad()
def _states(model: PreTrainedModel) -> Tensor:
    """Compute the states of a few ids, which merging the adapter must not change."""
    embeddings: Any = model.get_input_embeddings()
    size = min(int(embeddings.weight.shape[0]), 4096)
    ids_BT = torch.arange(1, size, max(1, size // 12))[None, :12].to(model.device)
    states_BTD: Tensor = model.train(False)(input_ids=ids_BT, use_cache=False).last_hidden_state
    return states_BTD
