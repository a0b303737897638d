"""Settings that a run would ignore are refused: who wrote them expects an effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from echoembed import errors
from echoembed.training.tables import AdapterConfig

if TYPE_CHECKING:
    from echoembed.training.config import TrainConfig


def check(config: TrainConfig) -> None:
    """Refuse the first setting that the objective, or the rank, leaves without effect.

    Raises:
        TrainingError: With the setting, and where it has an effect.
    """
    for field, value, allowed in _unused(config):
        raise errors.TrainingError.bad_value(field, value, allowed)


def _unused(config: TrainConfig) -> Iterator[tuple[str, Any, str]]:
    under = f"under the objective {config.objective}"
    contrasts = [config.objective_of(entry) == "contrastive" for entry in config.data]
    if config.optimiser.temperature is not None and not (any(contrasts) or config.objective == "simcse"):
        yield "optimiser.temperature", config.optimiser.temperature, f"left out {under}, which does not use it"
    if config.objective == "simcse" and config.adapter.dropout:
        yield "adapter.dropout", config.adapter.dropout, f"0 {under}: the run's dropout is that of LoRA's inputs too"
    for entry, contrast in zip(config.data, contrasts, strict=True):
        if not contrast and entry.symmetric:
            yield "data.symmetric", entry.symmetric, f"false for plain texts, as {entry.name!r} holds {under}"
        if not contrast and entry.negatives != 1:
            yield "data.negatives", entry.negatives, f"left out for plain texts, as {entry.name!r} holds {under}"
    if config.adapter.rank == 0:
        for field in fields(AdapterConfig):
            value = getattr(config.adapter, field.name)
            if field.name not in ("rank", "start") and value != field.default:
                allowed = "left out where adapter.rank is 0: the whole model is trained, without LoRA"
                yield f"adapter.{field.name}", value, allowed
