"""Training: configurations, data, runs that stop or cannot resume, and trained weights."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import FileError, ModelError, TrainingError, near, quoted


def training_field_unknown(field: str, table: str, known: Iterable[str]) -> TrainingError:
    """A key that no table of the configuration has."""
    names = list(known)
    return TrainingError(
        f"Got a field {quoted(field)} in {table}. Allowed there: {', '.join(names)}. Correct the name; 'echoembed "
        f"train --fields' says what each means.{near(field, names)}"
    )


def training_field_missing(field: str, table: str) -> TrainingError:
    """A required key that is missing."""
    return TrainingError(f"There is no field {quoted(field)} in {table}. It has no default: give it.")


def training_config_unreadable(path: object, reason: str) -> TrainingError:
    """A configuration that is missing or no TOML."""
    return TrainingError(
        f"{quoted(str(path), 200)} cannot be read as a configuration: {reason.removesuffix('.')}. Give a TOML "
        "file; 'echoembed train --help' shows one."
    )


def training_instruction_missing(dataset: str, recipe: str) -> TrainingError:
    """A data set without an instruction, with templates that have a place for one."""
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
    """A file or folder of rows that does not exist, or holds no rows."""
    return TrainingError(
        f"Found no rows to train on at {quoted(str(path), 200)}. Name a file that ends in {', '.join(suffixes)}, or a "
        "folder that holds some; paths are relative to the configuration file."
    )


def training_groups_missing(path: object, neighbours: int) -> TrainingError:
    """Rows that all have too few texts to make a group of neighbours."""
    return TrainingError(
        f"No row of {quoted(str(path), 200)} has {neighbours} different texts that are new, to come into a batch "
        f'together as neighbours = {neighbours} asks. Give rows such as {{"texts": ["…", "…"]}}, or lower '
        "neighbours."
    )


def training_row_field_missing(where: str, field: str, known: Iterable[str]) -> TrainingError:
    """A row that lacks a field of its objective."""
    names = list(known)
    return TrainingError(
        f"{where} has no {quoted(field)}; it has {', '.join(map(quoted, names[:12])) or 'nothing'}. Add it, or leave "
        f"such rows out with bad_rows = 'skip'.{near(field, names)}"
    )


def training_row_bad(where: str, reason: str) -> TrainingError:
    """A row that cannot be trained on."""
    return TrainingError(
        f"{where}: {reason.removesuffix('.')}. Correct it, or leave such rows out with bad_rows = 'skip'."
    )


def training_negatives_missing(where: str, count: int, needed: int) -> TrainingError:
    """A row with fewer hard negatives than are configured."""
    return TrainingError(
        f"{where}: it has {count} hard negatives, and {needed} are configured. Lower negatives in its [[data]], add "
        "what is missing, or leave such rows out with bad_rows = 'skip'."
    )


def training_data_too_small(dataset: str, rows: int, batch_size: int, noun: str = "rows") -> TrainingError:
    """A data set with fewer rows than a batch."""
    return TrainingError(
        f"The data set {quoted(dataset)} has {rows:,} {noun}, and a batch, which comes from one data set, takes "
        f"{batch_size:,}. Lower optimiser.batch_size, add rows, or leave the data set out."
    )


def training_batch_indivisible(batch_size: int, processes: int) -> TrainingError:
    """A batch that the processes cannot share evenly."""
    return TrainingError(
        f"A batch of {batch_size:,} rows cannot be shared evenly by {processes} processes. Make optimiser.batch_size "
        "a multiple of their number."
    )


# Runs that stop, and runs that cannot resume


class TrainingStoppedError(TrainingError):
    """A run that a signal ended, with a checkpoint to resume from."""


def training_stopped(step: int, steps: int, checkpoint: object) -> TrainingStoppedError:
    """A run that Ctrl-C or SIGTERM ended after the current step."""
    return TrainingStoppedError(
        f"Stopped after step {step:,} of {steps:,}, as asked. The checkpoint is {checkpoint}: resume from it with "
        "--resume."
    )


def training_not_finite(what: str, step: int, dataset: str, checkpoint: str) -> TrainingError:
    """A loss, or a gradient, that is not finite; it has not changed the weights."""
    return TrainingError(
        f"The {what} of step {step:,} is not finite, in a batch of {quoted(dataset)}. {_last(checkpoint)} Lower "
        "optimiser.learning_rate, raise the temperature or use precision = 'float32', in a new output folder."
    )


def training_checkpoint_not_saved(step: int, reason: str, checkpoint: str) -> TrainingError:
    """A checkpoint that could not be written; no part of it is left."""
    return TrainingError(
        f"The checkpoint of step {step:,} could not be written: {quoted(reason, 200)}. {_last(checkpoint)} Make room, "
        "and resume with --resume."
    )


def training_checkpoint_unreadable(path: object, reason: str) -> TrainingError:
    """A checkpoint that does not fit the model, or was damaged."""
    return TrainingError(
        f"The checkpoint {path} cannot be read: {quoted(reason, 200)}. Remove it to resume from the one before, or "
        "start again in another output folder."
    )


def training_run_exists(folder: object) -> TrainingError:
    """An output folder with another run."""
    return TrainingError(
        f"There is a run in {folder} already. Resume it with --resume, or name another output folder; nothing is "
        "overwritten."
    )


def training_folder_taken(folder: object, names: Iterable[str]) -> TrainingError:
    """An output folder without a run, with files that a run would overwrite."""
    return TrainingError(
        f"The folder {folder} holds no run of echoembed, but {', '.join(names)}, which a run would overwrite. Name "
        "another output folder; nothing is overwritten."
    )


def training_folder_busy(folder: object) -> TrainingError:
    """An output folder in which another process is training."""
    return TrainingError(
        f"Another process is training in {folder}. Wait until it has ended, or name another output folder."
    )


def training_data_changed(names: Iterable[str]) -> TrainingError:
    """Data files that changed while they were read."""
    return TrainingError(
        f"The files of {', '.join(map(quoted, names))} changed while they were read. Start again when nothing writes "
        "to them."
    )


def training_run_differs(folder: object, differences: Iterable[str]) -> TrainingError:
    """A run that was started with another configuration or other data."""
    return TrainingError(
        f"The run in {folder} was started with other settings: {'; '.join(differences)}. Resume it with the "
        "configuration and the data that it was started with, or name another output folder."
    )


def teacher_unusable(name: object, reason: str) -> TrainingError:
    """A teacher that cannot be loaded, or a file of vectors that cannot be read."""
    why = " ".join(reason.split())[:300].removesuffix(".")
    return TrainingError(
        f"The teacher {quoted(str(name), 200)} cannot be used: {why}. Name "
        "a SentenceTransformer with safetensors weights, or a file with the columns text and vector."
    )


def teacher_store_unusable(path: object, reason: str) -> FileError:
    """A teacher's stored vectors that cannot be read or written."""
    return FileError(
        f"The teacher's vectors in {path} cannot be read or written: {quoted(reason.removesuffix('.'), 200)}. Make "
        "room, or remove the file if it was damaged: the vectors are computed again."
    )


def teacher_vector_missing(path: object, text: str) -> TrainingError:
    """A text without a vector in the teacher's file."""
    return TrainingError(
        f"{quoted(str(path), 200)} has no vector of {quoted(text)}, a text of the data sets. Write the teacher's "
        "vectors of all texts of the data sets, or name the teacher as teacher.model."
    )


def adapter_targets_unknown(targets: Iterable[str], known: Iterable[str]) -> TrainingError:
    """Targets of LoRA that the model does not have."""
    wanted, names = list(targets), list(known)
    return TrainingError(
        f"adapter.targets names {', '.join(map(quoted, wanted))}, which are not linear layers of this model. Name some "
        f"of {', '.join(names)}, or 'all-linear' for all of them.{near(wanted[0], names)}"
    )


def adapter_layers_missing(name: str) -> TrainingError:
    """A model without linear layers, as one that is cut at layer 0."""
    return TrainingError(
        f"{name} has no linear layer under this recipe, so there is nothing for LoRA to train. Allowed: layer = 1 or "
        "above, or adapter.rank = 0, which trains the embeddings. Change one of them."
    )


def adapter_end_token_missing(name: str) -> TrainingError:
    """An end token to train, with a tokenizer that has none."""
    return TrainingError(
        f"The tokenizer of {name} has no end token whose embedding could be trained. Set adapter.end_token to false, "
        "or choose another model."
    )


def adapter_start_unusable(name: str, reason: str) -> TrainingError:
    """A trained adapter that a run cannot begin with."""
    return TrainingError(
        f"Training cannot begin with the adapter {quoted(name)}: {reason}. Name an adapter of the same model, layers, "
        "rank and alpha as adapter.start, or leave it empty."
    )


def _last(checkpoint: str) -> str:
    return f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint before it."


# What is trained


def trained_weights_not_finite(name: str) -> ModelError:
    """Trained weights that are not finite."""
    return ModelError(
        f"The weights trained on {name} are not all finite numbers: they are not saved. Resume from a checkpoint "
        "before that, with a smaller learning rate."
    )


def head_missing(name: str, tensor: str) -> ModelError:
    """A model without the head that predicts tokens."""
    return ModelError(
        f"{name} has no {tensor}, with which a language model predicts tokens; models saved for embedding have lost "
        "it. Masked next-token prediction needs the whole language model: name the one that this came from."
    )


def mntp_mask_token(token: str, count: int) -> ModelError:
    """A mask that is not one token."""
    return ModelError(
        f"Got masking.token = {quoted(token)}, which is {count} tokens of this model. Allowed: a text that is "
        "one token of its tokenizer. Try '_', or another single character."
    )


def mntp_model_unfit(name: str, fault: str, allowed: str) -> ModelError:
    """A model or recipe that masked next-token prediction cannot train."""
    return ModelError(
        f"{name} cannot be trained by masked next-token prediction: {fault}. Allowed: {allowed}. Change that first."
    )


def mntp_nothing_to_predict(count: int) -> ModelError:
    """A batch in which no token has one before it."""
    return ModelError(
        f"None of the {count} texts of a batch has a token that follows another, so there is nothing to predict. "
        "Give longer texts."
    )


def dropout_without_effect(name: str) -> ModelError:
    """A model whose attention has no dropout."""
    return ModelError(
        f"{name} gives the same states twice although dropout was asked for: its attention has none. SimCSE would "
        "compare equal vectors: choose another model, or the objective contrastive."
    )


def training_output_unwritable(path: object, reason: str) -> FileError:
    """A file or folder of a run that cannot be written."""
    return FileError(
        f"Nothing can be written to {path}: {quoted(reason, 200)}. Name an output folder of your own, with room."
    )
