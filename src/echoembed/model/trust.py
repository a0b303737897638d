"""What a model's folder may not decide: which code and kernels run, and which files are read unchecked.

The files of a folder can name Python code (``auto_map``). transformers asks on standard input whether to run such code,
or runs it. Here nothing is asked and no such code runs. Most models whose folders still carry old code have a class in
the library by now, which is used. A model without such a class is refused.
"""

from __future__ import annotations

import importlib
import threading
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

LOADING = threading.RLock()
"""Held while a model is loaded. Meanwhile settings of transformers, and Python's warnings, are changed for the whole
process: a second thread would take the changed ones for the user's own, and put them back in the end."""
_PROCESSORS = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_TRUSTED = ("echoembed.", "sentence_transformers.")
# The library's modules that may follow a language model and name no other classes to import.
_PLAIN_MODULES = ("Pooling", "Normalize", "Dense", "LayerNorm", "Dropout", "CNN", "LSTM", "WeightedLayerPooling")
# Settings by which a configuration names code, kernels from elsewhere, or weights that were not checked.
_DECIDES = ("auto_map", "custom_pipelines", "transformers_weights", "fusion_config", "kernel_config", "use_kernels")


def refuse_code(folder: Path, name: str) -> None:
    """Refuse a folder that can only be loaded by running code that it names.

    Args:
        folder: The folder of config.json and the tokenizer's files.
        name: What errors call the model.

    Raises:
        ModelError: If the folder needs its own code, or a settings file cannot be read.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for settings in _tables(_table(folder, "config.json")):
        kind = settings.get("model_type")
        if (code := _named(settings)) and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
            raise errors.model_needs_code(name, "config.json", code)
    settings = _table(folder, "tokenizer_config.json")
    code, auto_map = _named(settings), settings.get("auto_map")
    processor = isinstance(auto_map, dict) and "AutoProcessor" in auto_map
    if code and (processor or not _has_tokenizer(settings.get("tokenizer_class"))):
        raise errors.model_needs_code(name, "tokenizer_config.json", code)
    for file in _PROCESSORS:  # for pictures and sound; here a model reads text alone
        if code := _named(_table(folder, file)):
            raise errors.model_needs_code(name, file, code)


def safe_config(folder: Path, name: str) -> PreTrainedConfig:
    """Read the model's configuration, without the settings that a folder may not decide.

    Raises:
        ModelError: If the configuration cannot be read, or the model needs its own code.
    """
    from transformers import AutoConfig

    refuse_code(folder, name)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the errors of transformers and its validators have no common base
        raise errors.model_unreadable(name, reason(error)) from error
    config._attn_implementation = None  # this sets it on the inner configurations too
    config._experts_implementation = None
    for part in _parts(config):
        for key in _DECIDES:
            vars(part).pop(key, None)
    return config


@contextmanager
def nothing_asked() -> Iterator[None]:
    """Make transformers raise where it would ask on standard input whether to run a folder's code."""
    from transformers import dynamic_module_utils

    with LOADING:
        had = dynamic_module_utils.TIME_OUT_REMOTE_CODE
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # its own setting for machines on which nobody can answer
        try:
            yield
        finally:
            dynamic_module_utils.TIME_OUT_REMOTE_CODE = had


def load_module_after(source: Source, type_: str, path: str) -> Module:
    """Load a module that follows the language model of a saved model: ours, or one of the library's that run no code.

    Args:
        source: The saved model.
        type_: The class, by its dotted name.
        path: The module's folder in the model's.

    Raises:
        ModelError: If the class is another, its settings name code, or the module cannot be read.
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
    except Exception as error:  # settings that do not fit can raise anything
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
    """Yield a table and all tables inside it, however deep."""
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _tables(value)
    elif isinstance(content, list):
        for value in content:
            yield from _tables(value)


def _named(settings: dict[str, Any]) -> str:
    """Return the code that ``auto_map`` names; "" if it names none."""
    auto_map = settings.get("auto_map")
    values = list(auto_map.values()) if isinstance(auto_map, dict) else auto_map
    values = values if isinstance(values, list) else [values]
    flat = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return ", ".join(str(name) for name in flat if name)


def _has_tokenizer(name: object) -> bool:
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not isinstance(name, str):
        return False
    plain = name.removesuffix("Fast")
    classes: list[Any] = [tokenizer_class_from_name(variant) for variant in (plain, f"{plain}Fast")]
    return any(isinstance(class_, type) and issubclass(class_, PreTrainedTokenizerBase) for class_ in classes)
