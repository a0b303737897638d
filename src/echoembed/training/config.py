"""The configuration of a training run: what a TOML file for ``echoembed train`` may say, and what is allowed.

Every field says its unit. Sizes are counted in rows (a query with its positive and its negatives), lengths in tokens
of the model's tokenizer, work in optimiser steps. A configuration that exists is sound: values are checked at birth.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from echoembed import errors
from echoembed.checks import COUNT_OR_NONE, NOT_BLANK, PROBABILITY, REQUIRED, Check, setting
from echoembed.recipe import Attention, Pooling, Recipe, find_recipe
from echoembed.sources.packaged import RESERVED
from echoembed.training.tables import (
    AdapterConfig,
    CheckpointConfig,
    DataConfig,
    MaskingConfig,
    OptimiserConfig,
    ScoreConfig,
    Table,
    TeacherConfig,
)

Objective = Literal["contrastive", "mntp", "simcse", "distil"]
Output = Literal["adapter", "merged"]
_SEED = Check(lambda value: 0 <= value < 2**32, "a whole number from 0 to 4,294,967,295")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Table):
    """A training run."""

    output: str = setting(
        REQUIRED,
        "Folder of the run: checkpoints, log, curves and the finished model. Relative to the configuration file.",
        NOT_BLANK,
    )
    objective: Objective = setting(
        "contrastive",
        "``contrastive``; ``mntp``, masked next-token prediction; ``simcse``, a text against itself under dropout; or "
        "``distil``, the cosines of a teacher.",
    )
    model: str = setting(
        "", "Name on the hub, folder or GGUF file, or ``tiny`` for the bundled model; empty for ``smollm2-135m``."
    )
    revision: str = setting("", "Branch, tag or commit on the hub; empty for the newest, which is recorded.")
    recipe: str = setting("echo", "Row of the table of recipes whose templates the texts are written with.")
    query_template: str = setting(
        "", "Template of queries in place of the recipe's; documents follow where the recipe has one template for both."
    )
    document_template: str = setting("", "Template of documents in place of the recipe's.")
    pooling: Pooling | Literal[""] = setting("", "Pooling in place of the recipe's.")
    attention: Attention | Literal[""] = setting("", "Attention in place of the recipe's.")
    layer: int | None = setting(
        None, "Layer whose states are pooled, in place of the recipe's; those above it are left out, and cost nothing."
    )
    budget: int | None = setting(
        None, "Most tokens of text for each reading; left out for the recipe's.", COUNT_OR_NONE
    )
    finished_budget: int | None = setting(
        None,
        "Most tokens of text that the finished model reads; left out for as many as it was trained with.",
        COUNT_OR_NONE,
    )
    seed: int = setting(0, "Decides which rows come when, LoRA's beginning and dropout.", _SEED)
    save: Output = setting(
        "adapter", "What the finished model is: ``adapter``, small and beside its base, or ``merged``, whole."
    )
    dropout: float = setting(
        0.3, "SimCSE's dropout, on attention and on LoRA's inputs; used by that objective alone.", PROBABILITY
    )
    tensorboard: bool = setting(False, "Whether TensorBoard's files are written to ``logs`` too.")
    data: tuple[DataConfig, ...] = setting((), "The data sets, each in a table ``[[data]]``.")
    adapter: AdapterConfig = setting(AdapterConfig, "What is trained.")
    optimiser: OptimiserConfig = setting(OptimiserConfig, "How it is trained.")
    masking: MaskingConfig = setting(MaskingConfig, "What is masked; used by ``mntp`` alone.")
    teacher: TeacherConfig = setting(TeacherConfig, "Whose cosines are learned; used by ``distil`` alone.")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "What is kept on the way.")
    score: ScoreConfig = setting(ScoreConfig, "What is scored on the way.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise errors.training_field_missing("[[data]]", "the configuration")
        self._check_mixture()
        self._check_teacher()
        if self.optimiser.compute_matched and (self.budget or find_recipe(self.recipe).budget or 0) < 2:
            allowed = "a whole number of at least 2, here or in the recipe, where compute_matched halves it"
            raise errors.TrainingError.bad_value("budget", self.budget, allowed)
        self._check_recipe()
        if self.adapter.rank == 0 and self.save == "adapter":
            raise errors.TrainingError.bad_value(
                "save", self.save, "merged where adapter.rank is 0: there is no adapter"
            )
        if self.objective != "mntp" and self.optimiser.batch_size < 2:
            allowed = f"at least 2 under the objective {self.objective}, which tells a batch's rows apart"
            raise errors.TrainingError.bad_value("optimiser.batch_size", self.optimiser.batch_size, allowed)

    def _check_mixture(self) -> None:
        for name, count in Counter(entry.name for entry in self.data).items():
            if count > 1:
                raise errors.TrainingError.bad_value(
                    "data.name", name, f"a name for each data set; {count} have this one"
                )
            if "#" in name:
                raise errors.TrainingError.bad_value("data.name", name, "a name without #, which numbers instructions")
        if 0 in (ratios := [entry.ratio for entry in self.data]) and any(ratios):
            raise errors.TrainingError.bad_value(
                "data.ratio", ratios, "a number above 0 for every data set, or for none"
            )

    def _check_teacher(self) -> None:
        distils = self.objective == "distil"
        named = [name for name in ("model", "vectors") if getattr(self.teacher, name)]
        if distils and len(named) != 1:
            raise errors.TrainingError.bad_value(
                "teacher", named, "one of model and vectors, under the objective distil"
            )
        if named and not distils:
            raise errors.TrainingError.bad_value(
                "teacher." + named[0], getattr(self.teacher, named[0]), "distil's alone"
            )
        for entry in self.data:
            for name, usual in (("pairs", False), ("neighbours", 1)):
                if getattr(entry, name) != usual and not distils:
                    allowed = f"{str(usual).lower()} under the objective {self.objective}"
                    raise errors.TrainingError.bad_value(f"data.{name}", getattr(entry, name), allowed)
            if self.optimiser.batch_size % entry.neighbours or (entry.pairs and entry.neighbours > 1):
                allowed = f"1 for pairs; for texts a number that divides the batch size, {self.optimiser.batch_size}"
                raise errors.TrainingError.bad_value("data.neighbours", entry.neighbours, allowed)

    def objective_of(self, entry: DataConfig) -> Objective:
        """How a data set's rows are read and trained on: pairs are contrastive in any company."""
        return "contrastive" if entry.pairs else self.objective

    def _check_recipe(self) -> None:
        recipe = recipe_of(self)
        if self.objective == "mntp" and recipe.attention != "bidirectional":
            allowed = "bidirectional, here or in the recipe, under the objective mntp"
            raise errors.TrainingError.bad_value("attention", recipe.attention, allowed)
        has_place = recipe.template("query").has("instruction")
        for entry in self.data:
            if self.objective == "mntp" and entry.instructions:
                allowed = "none under the objective mntp, which reads plain text"
                raise errors.TrainingError.bad_value("data.instruction", entry.instruction, allowed)
            if entry.instructions and not has_place:
                raise errors.training_instruction_unused(entry.name, recipe.name, entry.instructions[0])
            if self.objective_of(entry) == "contrastive" and has_place and not entry.instructions:
                raise errors.training_instruction_missing(entry.name, recipe.name)

    @property
    def parts(self) -> tuple[DataPart, ...]:
        """What batches are drawn from: each data set, or where it has several instructions, its rows under each."""
        return tuple(
            DataPart(entry.name if len(entry.instructions) < 2 else f"{entry.name}#{number}", source, entry, wording)
            for source, entry in enumerate(self.data)
            for number, wording in enumerate(entry.instructions or ("",))
        )

    def effective(self) -> TrainConfig:
        """The configuration in force: steps and budget halved where ``compute_matched`` says so, and then said done."""
        if not self.optimiser.compute_matched:
            return self
        done = self.optimiser
        halved = replace(done, steps=done.steps // 2, warmup_steps=done.warmup_steps // 2, compute_matched=False)
        return replace(self, optimiser=halved, budget=recipe_of(self).budget)

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON can hold them; ``from_dict`` gives the configuration back."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}


class DataPart(NamedTuple):
    """Rows under one instruction: what a batch is drawn from.

    Attributes:
        name: The data set's, followed by ``#`` and a number where it has several instructions.
        source: Number of the data set in the configuration; parts of one data set share its rows.
        data: The data set.
        instruction: What stands in ``{instruction}``; empty for the recipe's own.
    """

    name: str
    source: int
    data: DataConfig
    instruction: str


class Difference(NamedTuple):
    """A field whose value differs between two configurations; None where a configuration lacks the field."""

    field: str
    old: object
    new: object


# What cannot change what is trained, and may be otherwise when a run is resumed.
_FREE = ("output", "save", "finished_budget", "tensorboard", "checkpoint", "score")


def recipe_of(config: TrainConfig) -> Recipe:
    """The recipe that texts are read with: the table's row with the configuration's changes.

    The budget is halved where the run is compute-matched. The row's own checkpoint and adapters are left out, and
    it does not count as trained: another model is on its way to it.

    Raises:
        RecipeError: If there is no such row, or a change cannot be.
        TrainingError: If the row has a calibration, which would be of the weights before training.
        TemplateError: If a template cannot be.
    """
    row = find_recipe(config.recipe)
    if row.calibration != "none":
        allowed = "a recipe without a calibration; calibrate the trained model: echoembed calibrate MODEL TEXTS -o DIR"
        raise errors.TrainingError.bad_value("recipe", row.name, allowed)
    query = config.query_template or row.query_template
    follows = query if row.document_template == row.query_template else row.document_template
    budget = config.budget or row.budget
    changes = {
        "query_template": query,
        "document_template": config.document_template or follows,
        "pooling": config.pooling or row.pooling,
        "attention": config.attention or row.attention,
        "layer": row.layer if config.layer is None else config.layer,
        "depth": row.depth if config.layer is None else None,
        "budget": budget // 2 if budget and config.optimiser.compute_matched else budget,
        "checkpoint": "",
        "adapters": (),
        "trained": False,
    }
    return Recipe(**{**row.as_dict(), **changes})


def read(path: str | Path) -> TrainConfig:
    """The configuration of a TOML file; paths in it are relative to the file, and come out absolute.

    Raises:
        TrainingError: If the file is missing or no TOML, has an unknown field or lacks one, or a value cannot be.
        RecipeError: If there is no such recipe.
    """
    file = Path(path).expanduser()
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.training_config_unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    return resolved(from_dict(tables), file.absolute().parent)


def resolved(config: TrainConfig, base: Path) -> TrainConfig:
    """The configuration with its paths absolute, relative ones taken from the folder ``base``."""

    def absolute(path: str) -> str:
        return str((base / Path(path).expanduser()).resolve())

    here = config.model.lower() not in {"", *RESERVED} and (base / config.model).exists()
    is_path = config.model.startswith((".", "~", "/")) or here
    return replace(
        config,
        output=absolute(config.output),
        model=absolute(config.model) if is_path else config.model,
        data=tuple(replace(entry, path=absolute(entry.path)) for entry in config.data),
        score=replace(config.score, data=absolute(config.score.data)) if config.score.data else config.score,
        teacher=_resolved_teacher(config.teacher, base, absolute),
    )


def _resolved_teacher(teacher: TeacherConfig, base: Path, absolute: Callable[[str], str]) -> TeacherConfig:
    is_path = teacher.model.startswith((".", "~", "/")) or bool(teacher.model and (base / teacher.model).exists())
    model = absolute(teacher.model) if is_path else teacher.model
    return replace(teacher, model=model, vectors=absolute(teacher.vectors) if teacher.vectors else "")


def from_dict(tables: Mapping[str, Any]) -> TrainConfig:
    """The configuration that ``as_dict``, JSON or TOML hold.

    Raises:
        TrainingError: If a field is unknown or missing, or a value cannot be.
    """
    inner = {entry.name: entry.default_factory for entry in dataclasses.fields(TrainConfig)}
    fields: dict[str, Any] = dict(_known(tables, TrainConfig, "the configuration"))
    for name, value in fields.items():
        kind = inner[name]
        if name == "data":
            if not isinstance(value, Sequence) or not all(isinstance(entry, Mapping) for entry in value):
                raise errors.TrainingError.bad_value("data", value, "an array of tables, each headed [[data]]")
            fields[name] = tuple(DataConfig(**_known(entry, DataConfig, "[[data]]")) for entry in value)
        elif isinstance(kind, type) and isinstance(value, Mapping):
            fields[name] = kind(**_known(value, kind, f"[{name}]"))
    return TrainConfig(**fields)


def _known(table: Mapping[str, Any], kind: Any, where: str) -> Mapping[str, Any]:
    """The table, if the dataclass knows all its keys and needs no other."""
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key in table:
        if key not in known:
            raise errors.training_field_unknown(key, where, known)
    for name, entry in known.items():
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and name not in table:
            raise errors.training_field_missing(name, where)
    return table


def differences(old: TrainConfig, new: TrainConfig) -> list[Difference]:
    """Where two configurations would train differently: a run begun under one cannot resume under the other."""
    before, after = _flat(old), _flat(new)
    return [
        Difference(name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name.split(".")[0] not in _FREE
    ]


def _flat(config: TrainConfig) -> dict[str, object]:
    """Field with its path → value; data sets go by their names, and their order counts."""
    flat: dict[str, object] = {"data": [entry.name for entry in config.data]}
    for name, value in config.as_dict().items():
        if name == "data":
            flat |= {f"data.{entry['name']}.{key}": inner for entry in value for key, inner in entry.items()}
        elif isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return {key: _plain(inner) for key, inner in vars(value).items()} if dataclasses.is_dataclass(value) else value
