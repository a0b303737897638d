"""Runs of training that cannot go on, cannot be resumed, or were stopped."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import TrainingError, near, quoted


class TrainingStoppedError(TrainingError):
    """A run that a signal ended, with a checkpoint from which it goes on."""


def training_stopped(step: int, steps: int, checkpoint: object) -> TrainingStoppedError:
    """Ctrl-C or SIGTERM, obeyed after the step."""
    return TrainingStoppedError(
        f"Stopped after step {step:,} of {steps:,}, as asked. The checkpoint is {checkpoint}: go on from it with "
        "--resume."
    )


def training_not_finite(what: str, step: int, dataset: str, checkpoint: str) -> TrainingError:
    """A loss, or a gradient, that is infinite or not a number; the weights have not been changed by it."""
    return TrainingError(
        f"The {what} of step {step:,} is not finite, in a batch of {quoted(dataset)}. {_last(checkpoint)} Lower "
        "optimiser.learning_rate, raise optimiser.temperature or use precision = 'float32', in a new output folder."
    )


def training_checkpoint_not_saved(step: int, reason: str, checkpoint: str) -> TrainingError:
    """A checkpoint that could not be written whole, and so is not there."""
    return TrainingError(
        f"The checkpoint of step {step:,} could not be written: {quoted(reason, 200)}. {_last(checkpoint)} Make room, "
        "and go on with --resume."
    )


def training_checkpoint_unreadable(path: object, reason: str) -> TrainingError:
    """A checkpoint that does not fit the model, or was damaged."""
    return TrainingError(
        f"The checkpoint {path} cannot be read: {quoted(reason, 200)}. Remove it to go on from the one before, or "
        "begin anew in another output folder."
    )


def training_run_exists(folder: object) -> TrainingError:
    """An output folder that another run has been written to."""
    return TrainingError(
        f"There is a run in {folder} already. Go on with it by --resume, or name another output folder; nothing is "
        "overwritten."
    )


def training_folder_unwritable(folder: object, reason: str) -> TrainingError:
    """An output folder that nothing can be written to."""
    return TrainingError(
        f"Nothing can be written to {folder}: {quoted(reason, 200)}. Name an output folder with room that is yours."
    )


def training_run_differs(folder: object, differences: Iterable[str]) -> TrainingError:
    """A run that cannot be resumed, because it would end as neither of two."""
    return TrainingError(
        f"The run in {folder} was begun otherwise: {'; '.join(differences)}. Resume it with the configuration and the "
        "data it was begun with, or name another output folder."
    )


def adapter_targets_unknown(targets: Iterable[str], known: Iterable[str]) -> TrainingError:
    """Modules to put LoRA on that the model does not have."""
    wanted, names = list(targets), list(known)
    return TrainingError(
        f"adapter.targets names {', '.join(map(quoted, wanted))}, which are not linear layers of this model. It has "
        f"{', '.join(names)}; 'all-linear' takes them all.{near(wanted[0], names)}"
    )


def adapter_end_token_missing(name: str) -> TrainingError:
    """An end token to train, of a tokenizer that has none."""
    return TrainingError(
        f"The tokenizer of {name} has no end token whose embedding could be trained. Set adapter.end_token to false, "
        "or choose another model."
    )


def _last(checkpoint: str) -> str:
    return f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint before it."
