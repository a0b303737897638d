"""The configuration of a training run: the fields of a TOML file for ``echoembed train``, and their allowed values.

Every field states its unit. Sizes are counted in rows (a query with its positive and its negatives), lengths in tokens
of the model's tokenizer, work in optimiser steps. Values are checked when a configuration is created, so that every
configuration is valid.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from echoembed import errors
from echoembed.checks import COUNT_OR_NONE, NOT_BLANK, PROBABILITY, REQUIRED, Check, setting
from echoembed.recipe import Attention, Recipe, find_recipe
from echoembed.sources.adapters import bundled
from echoembed.sources.packaged import RESERVED
from echoembed.training import unused
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
        "``distil``, to learn a teacher's cosines.",
    )
    model: str = setting(
        "", "Name on the hub, folder or GGUF file, or ``tiny`` for the bundled model; empty for ``smollm2-135m``."
    )
    revision: str = setting("", "Branch, tag or commit on the hub; empty for the newest, which is recorded.")
    recipe: str = setting("echo", "Row of the table of recipes with which texts are read.")
    query_template: str = setting(
        "", "Template of queries in place of the recipe's; also of documents, if the recipe has one template for both."
    )
    document_template: str = setting("", "Template of documents in place of the recipe's.")
    pooling: Literal["mean", "last", "weighted-mean", "first", ""] = setting("", "Pooling in place of the recipe's.")
    attention: Attention | Literal[""] = setting("", "Attention in place of the recipe's.")
    layer: int | None = setting(
        None, "Layer whose states are pooled, in place of the recipe's; layers above it are left out, and cost nothing."
    )
    budget: int | None = setting(None, "Most tokens of text in each copy; left out for the recipe's.", COUNT_OR_NONE)
    finished_budget: int | None = setting(
        None,
        "Most tokens of text in each copy for the finished model; left out for as many as in training.",
        COUNT_OR_NONE,
    )
    seed: int = setting(0, "Seed of the order of rows, of LoRA's initial weights and of dropout.", _SEED)
    save: Output = setting(
        "adapter", "Form of the finished model: ``adapter``, which is small and needs its base, or ``merged``, whole."
    )
    dropout: float = setting(
        0.3, "SimCSE's dropout, on attention and on LoRA's inputs; used by ``simcse`` alone.", PROBABILITY
    )
    tensorboard: bool = setting(False, "Whether TensorBoard's files are written to ``logs``.")
    data: tuple[DataConfig, ...] = setting((), "The data sets, each in a table ``[[data]]``.")
    adapter: AdapterConfig = setting(AdapterConfig, "Which weights are trained.")
    optimiser: OptimiserConfig = setting(OptimiserConfig, "How the weights are trained.")
    masking: MaskingConfig = setting(MaskingConfig, "Which tokens are masked; used by ``mntp`` alone.")
    teacher: TeacherConfig = setting(TeacherConfig, "The teacher; used by ``distil`` alone.")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "Checkpoints during the run.")
    score: ScoreConfig = setting(ScoreConfig, "Scores during the run.")

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
        if self.adapter.rank == 0 and self.adapter.start:
            allowed = "empty where adapter.rank is 0: there is no adapter to begin with"
            raise errors.TrainingError.bad_value("adapter.start", self.adapter.start, allowed)
        if self.adapter.rank == 0 and self.save == "adapter":
            raise errors.TrainingError.bad_value(
                "save", self.save, "merged where adapter.rank is 0: there is no adapter"
            )
        if self.objective != "mntp" and self.optimiser.batch_size < 2:
            allowed = f"at least 2 under the objective {self.objective}, which tells a batch's rows apart"
            raise errors.TrainingError.bad_value("optimiser.batch_size", self.optimiser.batch_size, allowed)
        if self.objective == "distil" and self.optimiser.batch_size < 3:  # a softmax over one other text is always 1
            allowed = "at least 3 under the objective distil, which compares a text's cosines to several others"
            raise errors.TrainingError.bad_value("optimiser.batch_size", self.optimiser.batch_size, allowed)
        if self.objective == "simcse" and not self.dropout:
            allowed = "above 0, below 1 under the objective simcse: a text's two readings differ by dropout alone"
            raise errors.TrainingError.bad_value("dropout", self.dropout, allowed)
        unused.check(self)

    def _check_mixture(self) -> None:
        for name, count in Counter(entry.name for entry in self.data).items():
            if count > 1:
                raise errors.TrainingError.bad_value(
                    "data.name", name, f"a name for each data set; {count} have this one"
                )
        if 0 in (ratios := [entry.ratio for entry in self.data]) and any(ratios):
            raise errors.TrainingError.bad_value(
                "data.ratio", ratios, "a number above 0 for every data set, or for none"
            )

    def _check_teacher(self) -> None:
        distils = self.objective == "distil"
        named = [name for name in ("model", "vectors") if getattr(self.teacher, name)]
        if "" in self.teacher.models:
            raise errors.TrainingError.bad_value("teacher.model", self.teacher.model, "a model, or a list of models")
        if distils and len(named) != 1:
            raise errors.TrainingError.bad_value(
                "teacher", named, "one of model and vectors, under the objective distil"
            )
        if named and not distils:
            allowed = f"left out under the objective {self.objective}: a teacher is for distil alone"
            raise errors.TrainingError.bad_value("teacher." + named[0], getattr(self.teacher, named[0]), allowed)
        if distils and all(entry.pairs for entry in self.data):
            allowed = "false for one data set at least under the objective distil: its teacher is for plain texts"
            raise errors.TrainingError.bad_value("data.pairs", True, allowed)
        for entry in self.data:
            for name, usual in (("pairs", False), ("neighbours", 1)):
                if getattr(entry, name) != usual and not distils:
                    allowed = f"{str(usual).lower()} under the objective {self.objective}"
                    raise errors.TrainingError.bad_value(f"data.{name}", getattr(entry, name), allowed)
            if self.optimiser.batch_size % entry.neighbours or (entry.pairs and entry.neighbours > 1):
                allowed = f"1 for pairs; for texts a number that divides the batch size, {self.optimiser.batch_size}"
                raise errors.TrainingError.bad_value("data.neighbours", entry.neighbours, allowed)

    def objective_of(self, entry: DataConfig) -> Objective:
        """Return the objective of a data set: pairs are always contrastive, other rows have the run's objective."""
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
        """The parts that batches are drawn from: each data set or, if it has several instructions, a part for each."""
        return tuple(
            DataPart(entry.name if len(entry.instructions) < 2 else f"{entry.name}#{number}", source, entry, wording)
            for source, entry in enumerate(self.data)
            for number, wording in enumerate(entry.instructions or ("",))
        )

    def effective(self) -> TrainConfig:
        """Return the configuration in force: ``compute_matched`` halves steps and budget, and is then reset."""
        if not self.optimiser.compute_matched:
            return self
        full = self.optimiser
        halved = replace(full, steps=full.steps // 2, warmup_steps=full.warmup_steps // 2, compute_matched=False)
        return replace(self, optimiser=halved, budget=recipe_of(self).budget)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields in plain values for JSON; ``from_dict`` makes the configuration of them again."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in dataclasses.fields(self)}


class DataPart(NamedTuple):
    """The rows of a data set under one instruction, from which batches are drawn.

    Attributes:
        name: The data set's name, followed by ``#`` and a number if it has several instructions.
        source: The index of the data set in the configuration; parts of one data set share its rows.
        data: The data set.
        instruction: What fills ``{instruction}``; empty for the recipe's own.
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


# Fields that do not change the trained weights, and may differ when a run is resumed.
_FREE = ("output", "save", "finished_budget", "tensorboard", "checkpoint", "score")


def recipe_of(config: TrainConfig) -> Recipe:
    """Return the recipe with which texts are read: the table's row with the configuration's changes.

    The budget is halved if the run is compute-matched. The row's checkpoint and adapters are left out, and the recipe
    does not count as trained, as the run trains another model.

    Raises:
        RecipeError: If there is no such row, or a change is not allowed.
        TrainingError: If the row has several prompts, or a calibration, which would be fitted to the weights before
            training.
        TemplateError: If a template is not valid.
    """
    row = find_recipe(config.recipe)
    if row.beside:
        raise errors.TrainingError.bad_value("recipe", row.name, "a recipe with a single prompt")
    if row.calibration != "none":
        allowed = "a recipe without a calibration; calibrate the trained model: echoembed calibrate MODEL TEXTS -o DIR"
        raise errors.TrainingError.bad_value("recipe", row.name, allowed)
    query = config.query_template or row.query_template
    document = query if row.document_template == row.query_template else row.document_template
    budget = config.budget or row.budget
    changes = {
        "query_template": query,
        "document_template": config.document_template or document,
        "pooling": config.pooling or row.pooling,
        "attention": config.attention or row.attention,
        "layer": row.layer if config.layer is None else config.layer,
        "depth": row.depth if config.layer is None else None,
        "budget": budget // 2 if budget and config.optimiser.compute_matched else budget,
        "checkpoint": "",
        "adapters": (),
        "trained": False,
    }
    recipe = Recipe(**{**row.as_dict(), **changes})
    if recipe.needs_prompts:
        allowed = "a recipe without hindsight, pooled by no weights of tokens or of attention"
        raise errors.TrainingError.bad_value("recipe", row.name, allowed)
    return recipe


def read(path: str | Path) -> TrainConfig:
    """Read the configuration from a TOML file, and make its paths, which are relative to the file, absolute.

    Raises:
        TrainingError: If the file is missing or no TOML, a field is unknown or missing, or a value is not allowed.
        RecipeError: If there is no such recipe.
    """
    try:
        file = Path(path).expanduser()
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such user's home, or tables too deep
        raise errors.training_config_unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    return resolved(from_dict(tables), file.absolute().parent)


def resolved(config: TrainConfig, base: Path) -> TrainConfig:
    """Return the configuration with absolute paths; relative paths start at the folder ``base``.

    Raises:
        TrainingError: If the system cannot look up a path.
    """
    teacher = config.teacher
    return replace(
        config,
        output=absolute("output", config.output, base),
        model=_resolved_model("model", config.model, base),
        data=tuple(replace(entry, path=absolute("data.path", entry.path, base)) for entry in config.data),
        score=replace(config.score, data=absolute("score.data", config.score.data, base)),
        adapter=replace(config.adapter, start=_resolved_model("adapter.start", config.adapter.start, base)),
        teacher=replace(
            teacher,
            model=_resolved_models("teacher.model", teacher.model, base),
            vectors=absolute("teacher.vectors", teacher.vectors, base),
        ),
    )


def absolute(field: str, path: str, base: Path) -> str:
    """Return a path as an absolute one; an empty path stays empty.

    Raises:
        TrainingError: If the system cannot look up the path: it is too long, or names the home of an unknown user.
    """
    if not path:
        return path
    try:
        full = (base / Path(path).expanduser()).resolve()
        full.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        raise errors.TrainingError.bad_value(
            field, path, f"a path that can be looked up; this one cannot ({reason})"
        ) from error
    return str(full)


def _resolved_model(field: str, name: str, base: Path) -> str:
    """Return the absolute path of a model that is a path; other names stay as they are."""
    if name.startswith((".", "~", "/")):
        return absolute(field, name, base)
    if name.lower() in {"", *RESERVED} or name in bundled():
        return name
    try:
        return absolute(field, name, base) if (base / name).exists() else name
    except (OSError, ValueError):  # no path can have this name
        return name


def _resolved_models(field: str, names: str | tuple[str, ...], base: Path) -> str | tuple[str, ...]:
    """Return one model or several, as ``_resolved_model`` does."""
    if isinstance(names, str):
        return _resolved_model(field, names, base)
    return tuple(_resolved_model(field, name, base) for name in names)


def from_dict(tables: Mapping[str, Any]) -> TrainConfig:
    """Make a configuration from nested tables, as from ``as_dict``, JSON or TOML.

    Raises:
        TrainingError: If a field is unknown or missing, or a value is not allowed.
    """
    inner = {entry.name: entry.default_factory for entry in dataclasses.fields(TrainConfig)}
    fields: dict[str, Any] = dict(_checked(tables, TrainConfig, "the configuration"))
    for name, value in fields.items():
        kind = inner[name]
        if name == "data":
            if not isinstance(value, Sequence) or not all(isinstance(entry, Mapping) for entry in value):
                raise errors.TrainingError.bad_value("data", value, "an array of tables, each headed [[data]]")
            fields[name] = tuple(DataConfig(**_checked(entry, DataConfig, "[[data]]")) for entry in value)
        elif isinstance(kind, type) and isinstance(value, Mapping):
            fields[name] = kind(**_checked(value, kind, f"[{name}]"))
    return TrainConfig(**fields)


def _checked(table: Mapping[str, Any], kind: Any, where: str) -> Mapping[str, Any]:
    """Return a table if its keys are fields of the dataclass, and no required field is missing."""
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
    """List the fields by which two configurations train differently; a run cannot resume under such a change."""
    before, after = _flat(old), _flat(new)
    return [
        Difference(name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) and name.split(".")[0] not in _FREE
    ]


def _flat(config: TrainConfig) -> dict[str, object]:
    """Flatten a configuration to dotted field → value; data sets go by their names, and their order counts."""
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
