"""Checkpoints, from which a run resumes as if it had never stopped. A checkpoint appears whole or not at all.

    checkpoints/step-N/
      weights.safetensors     the trained weights, by name
      optimizer.pt            AdamW's moments
      scheduler.pt            the state of the learning rate's schedule
      rng_state.pth           random states of Python, numpy and torch; rng_state_K.pth for each of several processes
      trainer_state.json      the step
      record.json             the record of what the run was started with, and the SHA-256 of the other files

A checkpoint is written under a temporary name, flushed to the disk, and renamed. So the checkpoint before it stays
whole if the disk fills up or the process is killed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echoembed import errors
from echoembed.files import reason_of, whole_folder
from echoembed.training.run_folder import CHECKPOINTS, step_folder, step_of

WEIGHTS = "weights.safetensors"
RECORD = "record.json"
STATE = "trainer_state.json"
_NEEDED = (WEIGHTS, RECORD, STATE, "optimizer.pt", "scheduler.pt")
_REMOVED = ".removed-"


def save(
    run: Path,
    step: int,
    *,
    weights: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    write_state: Callable[[Path], None],
    write_random_state: Callable[[Path], None],
    writes: bool,
    keep: int,
    newest: Path | None,
) -> Path:
    """Write a checkpoint of the current step, and remove the oldest checkpoints beyond ``keep``.

    All processes call this function; the first process writes for all.

    Args:
        run: The folder of the run.
        step: The number of optimiser steps made.
        weights: The trained weights, by name.
        record: What the run was started with.
        write_state: Writes ``trainer_state.json``, ``optimizer.pt`` and ``scheduler.pt`` into a folder.
        write_random_state: Writes this process's random state into a folder.
        writes: Whether this process writes.
        keep: The number of checkpoints to keep.
        newest: The previous checkpoint, which errors name.

    Returns:
        The folder of the checkpoint.

    Raises:
        TrainingError: On all processes, if the checkpoint could not be written; earlier checkpoints do not change.
    """
    from accelerate.utils import broadcast_object_list

    target = step_folder(run / CHECKPOINTS, step)
    random_states, problem = _gathered(write_random_state)
    if writes and not problem:
        try:
            _write(target, weights, record, write_state, random_states)
            for old in _whole(target.parent)[:-keep]:
                _remove(old)
        except Exception as error:  # each library raises its own error for a full disk
            problem = f"{type(error).__name__}: {error}"
    (problem,) = broadcast_object_list([problem])
    if problem:
        raise errors.training_checkpoint_not_saved(step, problem, str(newest or ""))
    return target


def _write(
    target: Path,
    weights: Mapping[str, torch.Tensor],
    record: Mapping[str, Any],
    write_state: Callable[[Path], None],
    random_states: Mapping[str, bytes],
) -> None:
    from safetensors.torch import save_file

    for rest in target.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(rest, ignore_errors=True)
    with whole_folder(target, overwrite=True) as unfinished:  # any folder here is damaged
        on_cpu = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(on_cpu, unfinished / WEIGHTS)
        write_state(unfinished)
        for name, content in random_states.items():
            (unfinished / name).write_bytes(content)
        hashes = {path.name: _digest(path) for path in sorted(unfinished.iterdir())}
        (unfinished / RECORD).write_text(json.dumps({**record, "files": hashes}, indent=2), encoding="utf-8")


def _gathered(write_random_state: Callable[[Path], None]) -> tuple[dict[str, bytes], str]:
    """Gather the random states of all processes, which may share no disk: file name → content, and any problem."""
    from accelerate.utils import gather_object

    own_files: list[tuple[str, bytes, str]]
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_random_state(Path(folder))
            own_files = [(path.name, path.read_bytes(), "") for path in Path(folder).iterdir()]
    except Exception as error:  # shared with all: if one process raised alone, the others would wait for it
        own_files = [("", b"", f"{type(error).__name__}: {error}")]
    gathered = gather_object(own_files)
    states = {name: content for name, content, _ in gathered}
    return states, next((problem for *_, problem in gathered if problem), "")


def _remove(path: Path) -> None:
    """Remove a checkpoint so that no half of it can be taken for a checkpoint."""
    removed = path.with_name(f"{_REMOVED}{path.name}")
    shutil.rmtree(removed, ignore_errors=True)
    path.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def newest(run: Path) -> Path | None:
    """Return the newest whole checkpoint of a run."""
    return next(reversed(_whole(run / CHECKPOINTS)), None)


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of what a run was started with.

    Raises:
        TrainingError: If it cannot be read, or is no record.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.training_checkpoint_unreadable(path, str(error)) from error
    kinds = {"config": dict, "data": dict, "revision": str}
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise errors.training_checkpoint_unreadable(path, "it is no record of a run")
    if not all(isinstance(hashes, dict) for hashes in record["data"].values()):
        raise errors.training_checkpoint_unreadable(path, "it is no record of a run")
    return record


def check(path: Path) -> None:
    """Compare the files of a checkpoint with their hashes, if it has them.

    Raises:
        TrainingError: If a file was damaged.
    """
    hashes = read_record(path / RECORD).get("files", {})  # without, where an earlier version wrote the checkpoint
    for name, digest in hashes.items():
        try:
            changed = _digest(path / name) != digest
        except OSError as error:
            raise errors.training_checkpoint_unreadable(path, f"{name}: {reason_of(error)}") from error
        if changed:
            raise errors.training_checkpoint_unreadable(path, f"{name} is damaged")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _whole(folder: Path) -> list[Path]:
    """Return the checkpoints that have all their files, oldest first."""
    whole = [
        path
        for path in folder.glob("step-*")
        if path.name.removeprefix("step-").isdigit()
        and all((path / name).is_file() for name in _NEEDED)
        and any(path.glob("rng_state*.pth"))
    ]
    return sorted(whole, key=step_of)


def trained_weights(model: nn.Module, loss: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained weights of the model and, if the loss has weights of its own, of the loss."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    of_model = {id(weight) for weight in model.parameters()}
    of_loss = {f"loss.{name}": weight for name, weight in loss.named_parameters() if id(weight) not in of_model}
    return {**weights, **{name: weight for name, weight in of_loss.items() if weight.requires_grad}}


@torch.no_grad()
def load_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy a checkpoint's weights into the model, bit for bit.

    Raises:
        TrainingError: If the checkpoint holds other weights than the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise errors.training_checkpoint_unreadable(path, str(error)) from error
    ours = {name: tuple(weight.shape) for name, weight in weights.items()}
    theirs = {name: tuple(weight.shape) for name, weight in saved.items()}
    if ours != theirs:
        other = sorted({name for name, _ in ours.items() ^ theirs.items()})
        raise errors.training_checkpoint_unreadable(path, f"its weights are not the model's, as {other[0]}")
    for name, weight in weights.items():
        weight.copy_(saved[name])
