"""Checkpoints: a run resumes from one as if it had never stopped. Each is whole or not there at all.

    checkpoints/step-N/
      weights.safetensors     what is trained, by name
      optimizer.pt            AdamW's moments
      scheduler.pt            the learning rate's place
      rng_state.pth           random state of Python, numpy and torch; rng_state_K.pth for each of several processes
      trainer_state.json      the step
      record.json             what the run was begun with

A checkpoint is written under a name that nothing reads, flushed to the disk, and renamed: a disk that fills, or a
process that is killed, leaves the checkpoint before it as it was.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from echoembed import errors
from echoembed.files import whole_folder
from echoembed.training.run_folder import CHECKPOINTS, step_folder, step_of

WEIGHTS = "weights.safetensors"
RECORD = "record.json"
STATE = "trainer_state.json"
_NEEDED = (WEIGHTS, RECORD, STATE, "optimizer.pt", "scheduler.pt")
_GOING = ".removed-"


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
    """Write the checkpoint of the step just made, and remove the oldest over the number kept.

    Called by all processes; the first writes for all.

    Args:
        run: Folder of the run.
        step: Optimiser steps made.
        weights: What is trained, by name.
        record: What the run was begun with.
        write_state: Writes ``trainer_state.json``, ``optimizer.pt`` and ``scheduler.pt`` into a folder.
        write_random_state: Writes this process's random state into a folder.
        writes: Whether this is the process that writes.
        keep: Checkpoints kept, the newest.
        newest: The checkpoint before, which errors name.

    Returns:
        The folder of the checkpoint.

    Raises:
        TrainingError: On all processes, if it could not be written; the checkpoints before are as they were.
    """
    from accelerate.utils import broadcast_object_list

    target = step_folder(run / CHECKPOINTS, step)
    random_states, problem = _gathered(write_random_state)
    if writes and not problem:
        try:
            _write(target, weights, record, write_state, random_states)
            for old in _whole(target.parent)[:-keep]:
                _remove(old)
        except Exception as error:  # each library has its own for a full disk
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

    for left in target.parent.glob(f"{_GOING}*"):
        shutil.rmtree(left, ignore_errors=True)
    with whole_folder(target, overwrite=True) as unfinished:  # one that is there, a resumed run could not use
        here = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(here, unfinished / WEIGHTS)
        write_state(unfinished)
        for name, content in random_states.items():
            (unfinished / name).write_bytes(content)
        (unfinished / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")


def _gathered(write_random_state: Callable[[Path], None]) -> tuple[dict[str, bytes], str]:
    """File name → content, of all processes, which may share no disk; and what went wrong on any, or nothing."""
    from accelerate.utils import gather_object

    here: list[tuple[str, bytes, str]]
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_random_state(Path(folder))
            here = [(path.name, path.read_bytes(), "") for path in Path(folder).iterdir()]
    except Exception as error:  # told to all: one that raised alone would leave the others waiting
        here = [("", b"", f"{type(error).__name__}: {error}")]
    everywhere = gather_object(here)
    states = {name: content for name, content, _ in everywhere}
    return states, next((problem for *_, problem in everywhere if problem), "")


def _remove(path: Path) -> None:
    """Remove a checkpoint so that no half of it is ever taken for one."""
    going = path.with_name(f"{_GOING}{path.name}")
    shutil.rmtree(going, ignore_errors=True)
    path.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def newest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    return next(reversed(_whole(run / CHECKPOINTS)), None)


def read_json(path: Path) -> dict[str, Any]:
    """A record that a run wrote.

    Raises:
        TrainingError: If it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.training_checkpoint_unreadable(path, str(error)) from error
    return record


def _whole(folder: Path) -> list[Path]:
    """Checkpoints with all their files, oldest first."""
    whole = [
        path
        for path in folder.glob("step-*")
        if path.name.removeprefix("step-").isdigit()
        and all((path / name).is_file() for name in _NEEDED)
        and any(path.glob("rng_state*.pth"))
    ]
    return sorted(whole, key=step_of)


def trained_weights(model: nn.Module, loss: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, of the model and, if it has weights of its own, of the loss."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    known = {id(weight) for weight in model.parameters()}
    own = {f"loss.{name}": weight for name, weight in loss.named_parameters() if id(weight) not in known}
    return {**weights, **{name: weight for name, weight in own.items() if weight.requires_grad}}


@torch.no_grad()
def load_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Put a checkpoint's weights in place, bit for bit.

    Raises:
        TrainingError: If it holds others than these.
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
