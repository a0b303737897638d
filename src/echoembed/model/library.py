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
_WHERE = ("token", "cache_dir", "local_files_only")
_NO_MATTER: dict[str, tuple[object, ...]] = {
    "trust_remote_code": (True, False),  # no code of a folder runs here, whatever the caller trusts
    "use_safetensors": (True,),
    "attn_implementation": ("sdpa",),
    "low_cpu_mem_usage": (True, False),
    "use_fast": (True,),
    "padding_side": ("left", "right"),  # prompts are padded by us
}
"""Arguments for the language model and the tokenizer → values that change nothing here."""
_ALLOWED = "model_kwargs={'dtype': ...}; leave it out, or use echoembed.load, which has further arguments"


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
    dtype = next((settings.pop(key) for key in _DTYPE if key in settings), None)
    where = {key: settings.pop(key) for key in _WHERE if key in settings}
    further = {name: arguments.get(name) or {} for name in ("processor_kwargs", "config_kwargs")}
    for field, given in {"model_kwargs": settings, **further}.items():
        for key, value in given.items():
            if value not in _NO_MATTER.get(key, (None,)):
                raise errors.ModelError.bad_value(f"{field}[{key!r}]", value, _ALLOWED)
    if (backend := arguments.get("backend", "torch")) != "torch":
        raise errors.ModelError.bad_value("backend", backend, "torch")
    source = resolve(
        name,
        revision=revision,
        local_files_only=bool(arguments.get("local_files_only") or where.get("local_files_only")),
        token=arguments.get("token") or where.get("token"),
        cache_folder=arguments.get("cache_folder") or where.get("cache_dir"),
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
