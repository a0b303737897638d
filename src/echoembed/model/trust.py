"""What a model's folder may not decide: code that runs, kernels, files that were not checked.

The files of a folder can name Python code (``auto_map``), which transformers asks on standard input whether to run,
or runs. Here nothing is asked and nothing runs. Where the library has a class of its own for the model, as it has
for most models whose folder still carries old code, that class is used; where it has none, the model is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Module

from echoembed import errors
from echoembed.sources.resolve import Source
from echoembed.sources.settings import read_json, reason

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_TRUSTED = ("echoembed.", "sentence_transformers.")
# Of the library's modules, those that follow a language model and name no other classes to import.
_PLAIN_MODULES = ("Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "CNN", "LSTM", "WeightedLayerPooling")
# Where a configuration names code, kernels from elsewhere, or weights beside those that were checked.
_DECIDES = ("auto_map", "custom_pipelines", "transformers_weights", "fusion_config", "kernel_config", "use_kernels")


def refuse_code(folder: Path, name: str) -> None:
    """Refuse a folder that can only be loaded by running code that it names.

    Args:
        folder: With config.json and the tokenizer's files.
        name: What errors call the model.

    Raises:
        ModelError: If it is so, or a settings file cannot be read.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for settings in _tables(_table(folder, "config.json")):
        kind = settings.get("model_type")
        if (code := _named(settings)) and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
            raise errors.model_needs_code(name, "config.json", code)
    settings = _table(folder, "tokenizer_config.json")
    code, named = _named(settings), settings.get("auto_map")
    processor = isinstance(named, dict) and "AutoProcessor" in named
    if code and (processor or not _has_tokenizer(settings.get("tokenizer_class"))):
        raise errors.model_needs_code(name, "tokenizer_config.json", code)
    for file in _PROCESSORS:  # of pictures and sound, beside a model that here reads text alone
        if code := _named(_table(folder, file)):
            raise errors.model_needs_code(name, file, code)


def safe_config(folder: Path, name: str) -> PreTrainedConfig:
    """The model's configuration, without what is not the folder's to decide.

    Raises:
        ModelError: If it cannot be read, or names code without which there is no such model.
    """
    from transformers import AutoConfig

    refuse_code(folder, name)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers and its validators have no common base
        raise errors.model_unreadable(name, str(error)) from error
    config._attn_implementation = None  # set on the configurations inside it, too
    config._experts_implementation = None
    for part in _parts(config):
        for key in _DECIDES:
            vars(part).pop(key, None)
    return config


@contextmanager
def nothing_asked() -> Iterator[None]:
    """Have transformers raise where it would ask on standard input whether to run a folder's code."""
    from transformers import dynamic_module_utils

    had = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # its own switch for machines on which nobody can answer
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = had


def load_module_after(source: Source, type_: str, path: str) -> Module:
    """A module that follows the language model, of a saved one: ours, or of the library's those that run no code.

    Args:
        source: The saved model.
        type_: The class, by its dotted name.
        path: The module's folder in the model's.

    Raises:
        ModelError: If it is another class, names code in its settings, or cannot be read.
    """
    module_class = None
    if type_.startswith(_TRUSTED) and (type_.startswith("echoembed.") or type_.rpartition(".")[2] in _PLAIN_MODULES):
        module_class = _import(type_)
    if module_class is None:
        raise errors.model_module_refused(source.name, type_)
    for settings in _tables(_table(source.folder / path, "config.json")):
        function = settings.get("activation_function", "torch.nn.Identity")
        if not isinstance(function, str) or not function.startswith("torch.nn."):
            raise errors.model_module_refused(source.name, str(function))
    try:
        return module_class.load(str(source.folder), subfolder=path, local_files_only=True)
    except errors.EchoembedError:
        raise
    except Exception as error:  # whatever settings that do not fit make of it
        raise errors.model_saved_unreadable(source.name, f"{path} ({reason(error)})") from error


def _import(type_: str) -> type[Module] | None:
    path, _, attribute = type_.rpartition(".")
    try:
        value = getattr(importlib.import_module(path), attribute, None)
    except ImportError:
        return None
    return value if isinstance(value, type) and issubclass(value, Module) else None


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for key in config.sub_configs:
        if (inner := getattr(config, key, None)) is not None and not isinstance(inner, dict):
            yield from _parts(inner)


def _table(folder: Path, file: str) -> dict[str, Any]:
    return read_json(folder / file, dict) if (folder / file).is_file() else {}


def _tables(content: object) -> Iterator[dict[str, Any]]:
    """A table and all those inside it, however deep."""
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _tables(value)
    elif isinstance(content, list):
        for value in content:
            yield from _tables(value)


def _named(settings: dict[str, Any]) -> str:
    """The code that ``auto_map`` names, or nothing."""
    named = settings.get("auto_map")
    values = list(named.values()) if isinstance(named, dict) else named if isinstance(named, list) else [named]
    flat = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return ", ".join(str(name) for name in flat if name)


def _has_tokenizer(name: object) -> bool:
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not isinstance(name, str):
        return False
    plain = name.removesuffix("Fast")
    known: list[Any] = [tokenizer_class_from_name(each) for each in (plain, f"{plain}Fast")]
    return any(isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerBase) for kind in known)
