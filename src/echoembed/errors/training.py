"""Configurations and data that no training can start from."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import TrainingError, near, quoted


def training_bad_field(field: str, value: object, allowed: str) -> TrainingError:
    """A field of the configuration that cannot be."""
    return TrainingError(f"Got {field} = {quoted(value, 100)}. Allowed: {allowed}. Correct the configuration.")


def training_field_unknown(field: str, table: str, known: Iterable[str]) -> TrainingError:
    """A key that no table of the configuration has."""
    names = list(known)
    return TrainingError(
        f"Got a field {quoted(field)} in {table}. Allowed there: {', '.join(names)}. 'echoembed train --fields' says "
        f"what each means.{near(field, names)}"
    )


def training_field_missing(field: str, table: str) -> TrainingError:
    """A key without which there is no run."""
    return TrainingError(f"There is no field {quoted(field)} in {table}. It has no default: give it.")


def training_config_unreadable(path: object, reason: str) -> TrainingError:
    """A configuration that is missing or no TOML."""
    return TrainingError(
        f"{quoted(str(path), 200)} cannot be read as a configuration: {reason.removesuffix('.')}. It must be a TOML "
        "file; 'echoembed train --help' shows one."
    )


def training_instruction_missing(dataset: str, recipe: str) -> TrainingError:
    """A data set without an instruction, under templates that have a place for one."""
    return TrainingError(
        f"The data set {quoted(dataset)} has no instruction, and the query template of the recipe {quoted(recipe)} "
        "has a place for one. Add an instruction to its table, or choose a recipe without."
    )


def training_instruction_unused(dataset: str, recipe: str, instruction: str) -> TrainingError:
    """An instruction that would never be read."""
    return TrainingError(
        f"The data set {quoted(dataset)} has the instruction {quoted(instruction)}, and the query template of the "
        f"recipe {quoted(recipe)} has no place for one. Leave it out, or choose a recipe with {{instruction}}."
    )


def training_data_missing(path: object, suffixes: Iterable[str]) -> TrainingError:
    """A file or folder of rows that is not there, or holds none."""
    return TrainingError(
        f"Found no rows to train on at {quoted(str(path), 200)}. Name a file that ends in {', '.join(suffixes)}, or a "
        "folder that holds some; paths are relative to the configuration file."
    )


def training_row_field_missing(where: str, field: str, known: Iterable[str]) -> TrainingError:
    """A row that lacks what its objective reads."""
    names = list(known)
    return TrainingError(
        f"{where} has no {quoted(field)}; it has {', '.join(map(quoted, names[:12])) or 'nothing'}. Add it, or leave "
        f"such rows out with bad_rows = 'skip'.{near(field, names)}"
    )


def training_row_bad(where: str, reason: str) -> TrainingError:
    """A row that teaches nothing, or something wrong."""
    return TrainingError(
        f"{where}: {reason.removesuffix('.')}. Correct it, or leave such rows out with bad_rows = 'skip'."
    )


def training_data_too_small(dataset: str, rows: int, batch_size: int) -> TrainingError:
    """A data set that cannot fill a batch without a row in it twice."""
    return TrainingError(
        f"The data set {quoted(dataset)} has {rows:,} rows, and a batch, which comes from one data set, takes "
        f"{batch_size:,}. Lower optimiser.batch_size, add rows, or leave the data set out."
    )


def training_batch_indivisible(batch_size: int, processes: int) -> TrainingError:
    """A batch that the processes cannot share evenly."""
    return TrainingError(
        f"A batch of {batch_size:,} rows cannot be shared evenly by {processes} processes. Make optimiser.batch_size "
        "a multiple of their number."
    )
