"""Groups of options, which verbs take as one parameter.

A group is a frozen dataclass. ``with_options`` makes an option of each field, and passes the group to the verb. A field
with ``init=False`` is no option: a verb that has no use for an inherited one leaves it out so.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from echoembed.cli import options as opt

if TYPE_CHECKING:
    from echoembed.texts import TextReader


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where and how a model computes."""

    device: opt.Device = None
    dtype: opt.Dtype = None
    engine: opt.EngineOption = None
    deterministic: opt.Deterministic = False


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ComputeOptions):
    """The model, changes to its recipe, and how it computes."""

    model: opt.Model = None
    adapter: opt.Adapter = None
    recipes_file: opt.RecipesFile = None
    revision: opt.Revision = None
    layer: opt.Layer = None
    budget: opt.Budget = None
    pack_tokens: opt.PackTokens = None


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How the model reads texts."""

    kind: opt.Kind = "query"
    instruction: opt.Instruction = None
    batch_size: opt.PaddedTexts = None


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The texts, and how they are read."""

    inputs: opt.Inputs = None
    text: opt.Texts = None
    file_format: opt.Format = None
    delimiter: opt.Delimiter = None
    column: opt.Column = "text"
    on_bad_text: opt.OnBadText = "error"
    on_overflow: opt.OnOverflow = "warn"

    def reader(self, *, id_column: str | None = None) -> TextReader:
        """Return a reader of the texts; nothing is read yet.

        Raises:
            FileError: If a file is missing, or its format is unknown.
        """
        from echoembed.texts import TextReader

        return TextReader(
            self.inputs or [],
            texts=self.text or [],
            file_format=self.file_format,
            delimiter=self.delimiter,
            column=self.column,
            id_column=id_column,
            on_bad_text=self.on_bad_text,
        )


def with_model(options: ModelOptions, argument: str | None) -> ModelOptions:
    """Return the options with the model of a verb's argument.

    Raises:
        BadParameter: If --model also names a model.
    """
    if argument is not None and options.model is not None:
        raise typer.BadParameter(f"got two models, {argument!r} and {options.model!r}; name one", param_hint="MODEL")
    return replace(options, model=argument or options.model)


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn a verb into a function for Typer, with single options in place of groups.

    Args:
        verb: A function whose parameters are options, or dataclasses of options.

    Returns:
        A function whose parameters are options.
    """
    parameters = inspect.signature(verb, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        parameter.name: parameter.annotation for parameter in parameters if is_dataclass(parameter.annotation)
    }
    options: list[inspect.Parameter] = []
    for parameter in parameters:
        if parameter.name in groups:
            options += _options_of(groups[parameter.name])
        else:
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def flat(**arguments: Any) -> None:
        for name, group in groups.items():
            arguments[name] = group(**{field.name: arguments.pop(field.name) for field in fields(group) if field.init})
        verb(**arguments)

    flat.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    flat.__annotations__ = {option.name: option.annotation for option in options}
    return flat


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    """Return an option for each field that is set; the fields of the class itself come before inherited ones."""
    hints = get_type_hints(group, include_extras=True)
    own_first = sorted(fields(group), key=lambda field: field.name not in group.__annotations__)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in own_first
        if field.init
    ]
