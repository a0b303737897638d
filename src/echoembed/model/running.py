"""How a model runs, beside its recipe: what moves no more than the last digits of a vector, and what texts may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from echoembed import errors
from echoembed.engine import Engine
from echoembed.prompts.reader import Overflow


@dataclass(frozen=True, kw_only=True)
class Running:
    """The arguments of ``echoembed.load`` that are neither model nor recipe.

    Attributes:
        dtype: Type of the weights in memory.
        int8: Whether the linear layers are put into eight bits, once the engine has passed its proof in ``dtype``.
        dtype_reason: Why it is this dtype.
        engine: Which forward runs outside training; None for the packed one where it passes the proof.
        deterministic: Whether a text's vector has the same bits in any company.
        overflow: What becomes of a text over the budget (see ``Reader``).
        pack_tokens: Most tokens of one forward of the packed engine; None for what suits the model and the device.

    Raises:
        ModelError: For an engine that does not exist, or a number of tokens that is none.
    """

    dtype: torch.dtype = torch.float32
    int8: bool = False
    dtype_reason: str = "asked for"
    engine: Engine | None = None
    deterministic: bool = False
    overflow: Overflow = "warn"
    pack_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in (None, *get_args(Engine)):
            raise errors.ModelError.bad_value("engine", self.engine, f"{', '.join(get_args(Engine))}, or None")
        if self.pack_tokens is not None and (type(self.pack_tokens) is not int or self.pack_tokens < 1):
            raise errors.ModelError.bad_value("pack_tokens", self.pack_tokens, "a whole number above 0, or None")
