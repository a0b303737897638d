"""How a model runs, apart from its recipe: settings that change only the last digits of vectors, and the overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from echoembed import errors
from echoembed.engine import Engine, Selector
from echoembed.prompts.reader import Overflow
from echoembed.recipe import Attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(dtype: object) -> torch.dtype | None:
    """Return the dtype of a name, or a dtype of torch itself; None if no model runs in it."""
    if isinstance(dtype, str):
        return DTYPES.get(dtype)
    return dtype if isinstance(dtype, torch.dtype) and dtype in DTYPES.values() else None


@dataclass(frozen=True, kw_only=True)
class Running:
    """The arguments of ``echoembed.load`` that are neither model nor recipe.

    Attributes:
        dtype: The dtype of the weights in memory.
        int8: Whether the linear layers are put into int8 after the engine has passed its proof in ``dtype``.
        dtype_reason: Why the model has this dtype.
        engine: The forward that runs outside training; None for the packed engine where it passes the proof.
        deterministic: Whether a text's vector has the same bits whatever texts are encoded with it.
        overflow: What to do with a text over the budget (see ``Reader``); None for ``warn``, or as saved.
        pack_tokens: The most tokens of one forward of the packed engine; None for the number that suits the model and
            the device.

    Raises:
        ModelError: If the engine does not exist, ``deterministic`` is no bool, or ``pack_tokens`` is no positive whole
            number.
    """

    dtype: torch.dtype = torch.float32
    int8: bool = False
    dtype_reason: str = "asked for"
    engine: Engine | None = None
    deterministic: bool = False
    overflow: Overflow | None = None
    pack_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in (None, *get_args(Engine)):
            raise errors.ModelError.bad_value("engine", self.engine, f"{', '.join(get_args(Engine))}, or None")
        if type(self.deterministic) is not bool:
            raise errors.ModelError.bad_value("deterministic", self.deterministic, "True or False")
        if self.pack_tokens is not None and (type(self.pack_tokens) is not int or self.pack_tokens < 1):
            raise errors.ModelError.bad_value("pack_tokens", self.pack_tokens, "a whole number above 0, or None")

    def selector(self, name: str, attention: Attention, context: int | None) -> Selector:
        """What chooses the forward of a model that runs so.

        Args:
            name: What errors call the model.
            attention: How its tokens see each other.
            context: Most tokens it reads at once.
        """
        return Selector(
            name=name,
            causal=attention == "causal",
            context=context,
            wanted=self.engine,
            deterministic=self.deterministic,
            tokens=self.pack_tokens,
        )
