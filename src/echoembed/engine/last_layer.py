"""The last layer, for pooled tokens only.

The last layer's keys and values are needed for all tokens; its queries, output projection and feed-forward only for
pooled tokens. The layer's own forward is called twice:

1. on all tokens, as far as the attention, which hands out its keys and values;
2. on the pooled tokens, whose queries attend to those keys and values.

The first call needs no queries, and the second neither keys nor values. Where the layer has separate projections for
them, these are skipped.

Shapes: T tokens of the pack, P pooled tokens of the pack, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from echoembed.engine.attention import Captured, Pass, UnsupportedError
from echoembed.engine.patches import replaced

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def last_layer(model: PreTrainedModel) -> nn.Module | None:
    """Return the last of the model's layers; None if the list of layers cannot be told from other lists of modules."""
    count = int(model.config.num_hidden_layers)
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return stacks[0][-1] if count and len(stacks) == 1 else None


@contextmanager
def trimmed(layer: nn.Module, active: Pass) -> Iterator[None]:
    """Let the layer compute pooled tokens only inside a ``with`` block; other tokens get zeros for states."""
    original = layer.forward
    rows_P = active.layout.pooled
    total = len(active.layout.ids)

    def forward(*args: Any, **kwargs: Any) -> Any:
        active.mode = "capture"
        try:
            with _silent(layer, "q_proj"):
                original(*args, **kwargs)
        except Captured as captured:
            active.captured = captured.states
        else:
            raise UnsupportedError("its last layer does not call the attention it was given")
        active.mode = "pooled"
        args, kwargs = _narrow(args, rows_P, total), _narrow(kwargs, rows_P, total)
        with _silent(layer, "k_proj", "v_proj"):
            states = original(*args, **kwargs)
        if isinstance(states, tuple):
            return (_widen(states[0], rows_P, total), *states[1:])
        return _widen(states, rows_P, total)

    with replaced(layer, forward):
        yield


def _narrow(value: Any, rows_P: Tensor, total: int) -> Any:
    """Keep the pooled rows of every tensor that has a row for each token."""
    if isinstance(value, Tensor):
        return value.index_select(1, rows_P) if value.ndim >= 2 and value.shape[1] == total > 1 else value
    if isinstance(value, (tuple, list)):
        return type(value)(_narrow(part, rows_P, total) for part in value)
    if isinstance(value, dict):
        return {key: _narrow(part, rows_P, total) for key, part in value.items()}
    return value


def _widen(states_1PD: Tensor, rows_P: Tensor, total: int) -> Tensor:
    """Scatter the pooled rows back to their tokens, as the code after the layer may count tokens."""
    states_1TD = states_1PD.new_zeros(1, total, states_1PD.shape[-1])
    return states_1TD.index_copy_(1, rows_P, states_1PD)


@contextmanager
def _silent(layer: nn.Module, *names: str) -> Iterator[None]:
    """Let the layer's projections of these names, if it has any, return zeros at no cost."""
    with ExitStack() as stack:
        for path, module in layer.named_modules():
            width = getattr(module, "out_features", None)
            if path.rpartition(".")[2] in names and isinstance(width, int):
                stack.enter_context(replaced(module, _zeros(width)))
        yield


def _zeros(width: int) -> Callable[..., Tensor]:
    def forward(states: Tensor, *_: object, **__: object) -> Tensor:
        return torch.zeros((), dtype=states.dtype, device=states.device).expand(*states.shape[:-1], width)

    return forward
