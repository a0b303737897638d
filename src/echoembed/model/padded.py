"""The padded forward, in parts where rotary positions depend on the longest prompt of a forward (``engine/rotary.py``).

Shapes: B prompts, T tokens of the longest, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from echoembed.engine.engine import LOCK
from echoembed.engine.rotary import by_rotary, limits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rows = slice | list[int]
Forward = Callable[[Rows, slice], Any]
"""Runs the model over some rows of a padded batch, and over the columns that hold their tokens."""


def in_parts(model: PreTrainedModel, mask_BT: Tensor, forward: Forward) -> Any:
    """Run a padded batch: in one forward or, where prompts take different rotary positions, in one for each kind.

    Args:
        model: The language model.
        mask_BT: 1 for tokens of a prompt, 0 for padding on either side.
        forward: Runs the model over a part of the batch.

    Returns:
        The model's output, with states ``_BTD`` as of one forward; those of padding may be zero.
    """
    if not limits_of(model):
        return forward(slice(None), slice(None))
    with LOCK:  # the model keeps the frequencies of its last forward, which another thread would change
        groups = by_rotary(model, mask_BT.sum(dim=1).tolist())
        parts = [(rows, _columns(mask_BT[rows])) for rows in groups]
        return _joined(mask_BT, parts, [forward(rows, columns) for rows, columns in parts])


def _columns(mask_BT: Tensor) -> slice:
    """Return the columns from the first token of any prompt to the last."""
    used = mask_BT.any(dim=0).nonzero().flatten().tolist()
    return slice(used[0], used[-1] + 1)


def _joined(mask_BT: Tensor, parts: Sequence[tuple[list[int], slice]], outputs: Sequence[Any]) -> Any:
    """Put the outputs of parts into one."""
    from transformers.modeling_outputs import BaseModelOutput

    def whole(states: Sequence[Tensor]) -> Tensor:
        states_BTD = states[0].new_zeros(*mask_BT.shape, states[0].shape[-1])
        for (rows, columns), part_BTD in zip(parts, states, strict=True):
            states_BTD[rows, columns] = part_BTD
        return states_BTD

    layers = [output.get("hidden_states") for output in outputs]
    return BaseModelOutput(
        last_hidden_state=whole([output.last_hidden_state for output in outputs]),
        hidden_states=None if layers[0] is None else tuple(map(whole, zip(*layers, strict=True))),
    )
