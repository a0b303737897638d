"""What a run would cost, before it starts: batches, tokens, trained weights, memory, and warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from echoembed import errors
from echoembed.evaluation.local import local_tasks
from echoembed.prompts.reader import Reader
from echoembed.recipe import Kind, Recipe
from echoembed.training import footprint, rows, start
from echoembed.training.adapter import trains_end_token
from echoembed.training.config import TrainConfig, recipe_of
from echoembed.training.footprint import MemoryUse, Skeleton
from echoembed.training.rows import ReadRows
from echoembed.training.run_folder import CONFIG, check_place
from echoembed.training.sampler import shares

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = 200
MANY_ROUNDS = 5
MANY_CUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The lengths of one column's prompts in tokens, over a sample of its rows.

    Attributes:
        mean: The mean length.
        longest: The largest length.
        cut: The share of texts that are cut, as they are over the budget or the context.
    """

    mean: float
    longest: int
    cut: float


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """The plan of one data set.

    Attributes:
        name: The data set's name.
        rows: Rows, or texts, that can be trained on.
        skipped: Rows left out.
        share: The share of batches drawn from the data set.
        batches: The expected number of its batches.
        rounds: How many times the run goes through its rows.
        columns: Column → the lengths of its prompts.
    """

    name: str
    rows: int
    skipped: int
    share: float
    batches: float
    rounds: float
    columns: dict[str, Lengths]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The plan of a run.

    Attributes:
        model: The model's name.
        recipe: The recipe's name.
        budget: The most tokens of text in each copy.
        steps: Optimiser steps.
        batch_size: Rows per step.
        rows: Rows over all steps, each counted as often as it is seen.
        tokens: Tokens over all steps, estimated from the sample, without padding.
        parameters: The number of the model's weights.
        lora: The number of weights that LoRA trains; 0 if the whole model is trained.
        end_token: The number of weights of the end token's embedding, if it is trained beside LoRA.
        memory: The memory that a process needs.
        download: Bytes of weights that the run will download from the hub first.
        data: The plans of the data sets.
        warnings: Settings and data that look wrong.
    """

    model: str
    recipe: str
    budget: int | None
    steps: int
    batch_size: int
    rows: int
    tokens: int
    parameters: int
    lora: int
    end_token: int
    memory: MemoryUse
    download: int
    data: tuple[DataPlan, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan in plain values for JSON."""
        return asdict(self)


def make(config: TrainConfig, *, progress: Callable[[ReadRows], None] | None = None) -> RunPlan:
    """Plan a run: read its data, and build its model without weights. Nothing is trained.

    Args:
        config: The run; the plan is made for its configuration in force (see ``TrainConfig.effective``).
        progress: As for ``rows.read_all``.

    Raises:
        EchoembedError: If rows, recipe or model cannot be used.
    """
    config = config.effective()
    recipe = recipe_of(config)
    counts: dict[str, ReadRows] = {}

    def keep(read: ReadRows) -> None:
        counts[read.name] = read
        if progress is not None:
            progress(read)

    rows.digests(config)  # refuses an adapter to begin with, or files, that cannot be used
    data_sets = rows.read_all(config, progress=keep)
    skeleton = footprint.build(config, recipe)
    _check(config, recipe, skeleton, data_sets)
    reader = _reader(config, recipe, skeleton)
    by_source = {part.source: data_sets[part.name] for part in config.parts}
    by_share = shares([entry.ratio for entry in config.data], [len(by_source[n]) for n in range(len(config.data))])
    data = tuple(
        _data_plan(config, number, by_source[number], counts[entry.name], by_share[number], reader)
        for number, entry in enumerate(config.data)
    )
    steps, batch_size = config.optimiser.steps, config.optimiser.batch_size
    forwards = 2 if config.objective == "simcse" else 1  # of each text
    per_row = sum(plan.share * sum(lengths.mean for lengths in plan.columns.values()) for plan in data)
    longest = max(lengths.longest for plan in data for lengths in plan.columns.values())
    columns = forwards * max(len(plan.columns) for plan in data)
    return RunPlan(
        model=skeleton.name,
        recipe=recipe.name,
        budget=recipe.budget,
        steps=steps,
        batch_size=batch_size,
        rows=steps * batch_size,
        tokens=round(steps * batch_size * per_row * forwards),
        parameters=skeleton.parameters,
        lora=skeleton.lora,
        end_token=skeleton.end_token,
        memory=footprint.memory(skeleton, config, longest, columns=columns),
        download=skeleton.missing,
        data=data,
        warnings=(*_begun(Path(config.output)), *_warnings(data, counts)),
    )


def _check(config: TrainConfig, recipe: Recipe, skeleton: Skeleton, data_sets: Mapping[str, Dataset]) -> None:
    """Refuse what the run itself would refuse before its first step."""
    check_place(Path(config.output))
    if trains_end_token(recipe, config.adapter) and skeleton.pieces.eos is None:
        raise errors.adapter_end_token_missing(skeleton.name)
    if config.adapter.start and skeleton.base is not None:
        start.fitting(skeleton.model, skeleton.base, config.adapter, tokens=not skeleton.end_token)
    if config.score.data:
        local_tasks(config.score.data, list(config.score.tasks), max_texts=config.score.sample)
    if config.objective == "mntp":
        from echoembed.training.lm_head import check_kind
        from echoembed.training.mntp import cut_model, mask_token

        check_kind(skeleton.name, skeleton.model.config.model_type)
        if skeleton.cut is not None:
            raise cut_model(skeleton.name, skeleton.cut)
        mask_token(skeleton.pieces, config.masking.token)
    if config.objective == "distil":
        from echoembed.training.teacher import Teacher

        teacher = Teacher(config.teacher)
        for part in config.parts:
            if not part.data.pairs:
                teacher.check(data_sets[part.name]["text"])


def _reader(config: TrainConfig, recipe: Recipe, skeleton: Skeleton) -> Reader:
    """Return the reader of the rows: the recipe's or, for masked prediction, one that reads plain text."""
    if config.objective == "mntp":
        from echoembed.training.mntp import plain_recipe

        recipe = plain_recipe(recipe)
    return recipe.reader(skeleton.pieces, context=skeleton.context, overflow="ignore")


def _data_plan(
    config: TrainConfig,
    number: int,
    rows: Dataset,
    counts: ReadRows,
    share: float,
    reader: Reader,
) -> DataPlan:
    from echoembed.training.trainer import kinds_of

    entry = config.data[number]
    kinds = kinds_of(rows.column_names, symmetric=entry.symmetric)
    sample = rows.select(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int))
    batches = config.optimiser.steps * share
    return DataPlan(
        name=entry.name,
        rows=len(rows),
        skipped=counts.skipped,
        share=share,
        batches=batches,
        rounds=batches * config.optimiser.batch_size / len(rows),
        columns={
            column: _lengths(list(sample[column]), reader, kinds[column], entry.instructions)
            for column in rows.column_names
        },
    )


def _lengths(texts: list[str], reader: Reader, kind: Kind, instructions: tuple[str, ...]) -> Lengths:
    """Measure the prompts of texts, under each instruction in turn."""
    has_place = reader.renderers[kind].template.has("instruction")
    wordings = instructions if instructions and has_place else ("",)
    prompts = [
        prompt
        for number, wording in enumerate(wordings)
        if texts[number :: len(wordings)]
        for prompt in reader.render(texts[number :: len(wordings)], task=kind, instruction=wording)
    ]
    tokens = [len(prompt.ids) for prompt in prompts]
    cut = sum(prompt.dropped > 0 for prompt in prompts) / len(prompts)
    return Lengths(mean=sum(tokens) / len(tokens), longest=max(tokens), cut=cut)


def _begun(folder: Path) -> Iterator[str]:
    if (folder / CONFIG).is_file():
        yield f"{folder} holds a run: --resume continues it, and --output names another folder"


def _warnings(data: tuple[DataPlan, ...], counts: Mapping[str, ReadRows]) -> Iterator[str]:
    for plan in data:
        if plan.rounds > MANY_ROUNDS:
            yield (
                f"the rows of {plan.name!r} will be trained on {plan.rounds:,.0f} times: lower its ratio or the steps, "
                "or add rows"
            )
        if plan.batches < 1:
            yield f"{plan.name!r} may never be drawn: {plan.batches:.2f} batches of it are to be expected"
        if plan.skipped:
            yield f"{plan.skipped:,} rows of {plan.name!r} are left out"
        if unused := rows.unused_words(counts[plan.name]):
            yield unused
        for column, lengths in plan.columns.items():
            if lengths.cut > MANY_CUT:
                yield f"{lengths.cut:.0%} of the texts in {column!r} of {plan.name!r} are over the budget: they are cut"
