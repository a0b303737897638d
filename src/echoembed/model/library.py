"""What sentence-transformers' own loader asks of our module: each of its arguments is honoured, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from echoembed import errors
from echoembed.model.running import DTYPES, Running, dtype_of
from echoembed.model.saved import saved_dtype
from echoembed.sources.resolve import Source, resolve

_DTYPE = ("dtype", "torch_dtype")
_DONE_ANYWAY = {"use_safetensors": True, "trust_remote_code": False}
"""Arguments for the language model that say what our own loading does without being told."""


def asked(name: str, revision: str | None, arguments: Mapping[str, Any]) -> tuple[Source, Running]:
    """Return where the files are that the library's loader asks for, and how the model is to run.

    Args:
        name: The model, as the library was given it.
        revision: A branch, tag or commit on the hub.
        arguments: What else the library passes to a module's ``load``.

    Raises:
        ModelError: If an argument has a value that our loading cannot honour, or the files cannot be found.
    """
    settings = {key: value for key, value in (arguments.get("model_kwargs") or {}).items() if value is not None}
    dtype = next((settings[key] for key in _DTYPE if key in settings), None)
    others = {
        key: value
        for key, value in settings.items()
        if key not in _DTYPE and (key not in _DONE_ANYWAY or value != _DONE_ANYWAY[key])
    }
    backend = arguments.get("backend", "torch")
    for field, value in {
        "model_kwargs": others,
        "processor_kwargs": arguments.get("processor_kwargs"),
        "config_kwargs": arguments.get("config_kwargs"),
        "backend": None if backend == "torch" else backend,
    }.items():
        if value:
            allowed = "model_kwargs={'dtype': ...} and backend='torch'; echoembed.load has further arguments"
            raise errors.ModelError.bad_value(field, value, allowed)
    source = resolve(
        name,
        revision=revision,
        local_files_only=bool(arguments.get("local_files_only")),
        token=arguments.get("token"),
        cache_folder=arguments.get("cache_folder"),
    )
    reason = "the default" if dtype is None else "asked for"
    return source, Running(dtype=_dtype(dtype, source), dtype_reason=reason)


def _dtype(dtype: object, source: Source) -> torch.dtype:
    """Return the dtype that the library's user names; ``auto`` is the one that the model was saved in."""
    if dtype is None:
        return torch.float32
    named = saved_dtype(source) if dtype == "auto" else dtype_of(dtype)
    if named is None:
        allowed = f"{', '.join(DTYPES)}, or auto for the one it was saved in; echoembed.load has int8 too"
        raise errors.ModelError.bad_value("dtype", dtype, allowed)
    return named
