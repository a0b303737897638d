"""The tables of a training run's configuration, checked at birth: ``[[data]]``, ``[adapter]`` and the others.

What each field means, and in which unit, stands under it; ``echoembed train --fields`` prints that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from echoembed import errors
from echoembed.prompts.text import check_text
from echoembed.training import checks
from echoembed.training.checks import Rule

Precision = Literal["float32", "bfloat16"]
Masking = Literal["80-10-10", "all"]
BadRows = Literal["refuse", "skip"]
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz")

_DATA_RULES = {
    "ratio": checks.NOT_NEGATIVE,
    "negatives": checks.COUNT_OR_ZERO,
    "rows": checks.COUNT_OR_NONE,
    "instruction": Rule(
        lambda value: (
            isinstance(value, str) or (value != () and all(map(str.strip, value)) and len(set(value)) == len(value))
        ),
        "a string, or a list of different strings that are not blank",
    ),
}
_ADAPTER_RULES = {
    "rank": checks.COUNT_OR_ZERO,
    "alpha": checks.ABOVE_ZERO,
    "dropout": checks.PROBABILITY,
    "targets": Rule(
        lambda value: bool(value) and all(one.strip() for one in ((value,) if isinstance(value, str) else value)),
        "all-linear, or a list of names of modules",
    ),
}
_OPTIMISER_RULES = {
    "steps": checks.COUNT,
    "batch_size": checks.COUNT,
    "chunk_size": checks.COUNT,
    "learning_rate": checks.ABOVE_ZERO,
    "warmup_steps": checks.COUNT_OR_ZERO,
    "weight_decay": checks.NOT_NEGATIVE,
    "max_gradient_norm": checks.NOT_NEGATIVE,
    "temperature": checks.ABOVE_ZERO_OR_NONE,
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One data set: a table of the array ``[[data]]``."""

    path: str
    """File of rows: JSONL, JSONL.gz or Parquet; or a folder of such files. Relative to the configuration file."""
    name: str = ""
    """What the data set is called in logs; the file's name unless given."""
    instruction: str | tuple[str, ...] = ""
    """What stands in ``{instruction}`` of the templates; of several, one is drawn for each batch."""
    ratio: float = 0.0
    """Share of the batches drawn from it, relative to the other data sets'; 0, then of all, for the number of rows."""
    symmetric: bool = False
    """Whether positives and negatives are of the queries' kind, and are written with the query template."""
    negatives: int = 1
    """Hard negatives used of each row, in the row's order; rows that have fewer are refused. 0 for none."""
    rows: int | None = None
    """Rows used, from the beginning; left out for all."""
    bad_rows: BadRows = "refuse"
    """What a row does that cannot be trained on (a blank text, too few negatives): ``skip`` leaves it out, counted."""

    def __post_init__(self) -> None:
        checks.check(self, "data", {"path": checks.NOT_BLANK, **_DATA_RULES})
        object.__setattr__(self, "name", self.name or _stem(self.path))
        for wording in self.instructions:
            try:
                check_text(wording)
            except errors.TextError as error:
                allowed = "text that is not blank and has no control characters"
                raise errors.training_bad_field("data.instruction", wording, allowed) from error

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions; none where there is none."""
        given = (self.instruction,) if isinstance(self.instruction, str) else self.instruction
        return given if given != ("",) else ()


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What is trained: the table ``[adapter]``."""

    rank: int = 16
    """Rank of LoRA's matrices; 0 trains the whole model."""
    alpha: float = 16.0
    """LoRA's scale: an update is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Probability with which LoRA's inputs are dropped."""
    targets: str | tuple[str, ...] = "all-linear"
    """Which layers get LoRA: ``all-linear`` (all but the vocabulary's), or names of modules."""
    end_token: bool | None = None
    """Whether the end token's embedding is trained too; left out for yes where a template pools ``{eos:pool}``."""

    def __post_init__(self) -> None:
        checks.check(self, "adapter", _ADAPTER_RULES)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How it is trained: the table ``[optimiser]``."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 2048
    """Rows per step, over all processes."""
    chunk_size: int = 32
    """Rows in memory at a time, per process: GradCache embeds a batch in chunks, the gradient is the whole batch's."""
    gradient_cache: bool = True
    """Whether chunks are embedded again in the backward pass; false keeps all of the batch in memory, a quarter faster.
    Not used by ``mntp``, which always computes them again."""
    learning_rate: float = 8e-4
    """Largest learning rate of AdamW."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0; it then falls to 0 in a straight line."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, per step and unit of learning rate."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 for never."""
    temperature: float | None = None
    """τ: cosines are divided by it before the softmax. Left out for 0.02, or SimCSE's 0.05."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; weights stay in float32."""
    gradient_checkpointing: bool = False
    """Whether states are computed again in the backward pass rather than kept: less memory, a third more work."""
    compute_matched: bool = False
    """Whether steps, warm-up and the text budget are halved, so that echo costs what classical does (Section 4.4)."""

    def __post_init__(self) -> None:
        checks.check(self, "optimiser", _OPTIMISER_RULES)
        least = 2 if self.compute_matched else 1
        if self.steps < least:
            raise errors.training_bad_field("optimiser.steps", self.steps, "at least 2 where compute_matched halves it")
        if self.warmup_steps > self.steps:
            allowed = f"a whole number from 0 to optimiser.steps, which is {self.steps:,}"
            raise errors.training_bad_field("optimiser.warmup_steps", self.warmup_steps, allowed)


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Masked next-token prediction: the table ``[masking]``."""

    rate: float = 0.2
    """Share of a text's tokens that is predicted."""
    scheme: Masking = "80-10-10"
    """What a predicted token becomes: the mask, another token or itself in 80, 10 and 10 of 100; or ``all`` masks."""
    token: str = "_"  # noqa: S105 (no password)
    """Text whose single token is the mask."""

    def __post_init__(self) -> None:
        checks.check(self, "masking", {"rate": checks.SHARE, "token": checks.NOT_BLANK})


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept on the way: the table ``[checkpoint]``."""

    every: int = 100
    """Steps between checkpoints; the last step always has one."""
    keep: int = 2
    """Checkpoints to resume from that are kept, the newest; the models for scores over steps are kept all."""
    models: bool = False
    """Whether a model that ``echoembed.load`` takes is kept at every checkpoint, as ``models/step-N``."""

    def __post_init__(self) -> None:
        checks.check(self, "checkpoint", {"every": checks.COUNT, "keep": checks.COUNT})


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Scores on the way: the table ``[score]``."""

    data: str = ""
    """Folder of local evaluation data, as ``echoembed eval --data`` takes it; empty for no scores."""
    tasks: tuple[str, ...] = ("sts",)
    """Kinds or names of tasks."""
    every: int = 0
    """Steps between scores; 0 for the first and the last step only."""
    sample: int = 1000
    """Most rows of each task."""

    def __post_init__(self) -> None:
        checks.check(self, "score", {"every": checks.COUNT_OR_ZERO, "sample": checks.COUNT})


def _stem(path: str) -> str:
    """A file's name without its endings."""
    name = Path(path).name
    return next((name.removesuffix(ending) for ending in ENDINGS if name.lower().endswith(ending)), name)
