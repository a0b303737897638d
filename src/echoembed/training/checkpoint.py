"""Checkpoints: from one a run goes on as if it had never stopped. Each is whole or not there at all.

    checkpoints/step-N/
      weights.safetensors     what is trained, by name
      optimizer.pt            AdamW's moments
      scheduler.pt            the learning rate's place
      rng_state.pth           random state of Python, numpy and torch; rng_state_K.pth for each of several processes
      trainer_state.json      the step
      record.json             what the run was begun with

It is written under a name that nothing reads, flushed to the disk, and renamed: a disk that fills, or a process that
is killed, leaves the checkpoint before it as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from echoembed import errors

if TYPE_CHECKING:
    from echoembed.training.trainer import EchoTrainer

FOLDER = "checkpoints"
WEIGHTS = "weights.safetensors"
RECORD = "record.json"
STATE = "trainer_state.json"
_NEEDED = (WEIGHTS, RECORD, STATE, "optimizer.pt", "scheduler.pt")
_UNFINISHED = ".unfinished-"


def save(trainer: EchoTrainer) -> Path:
    """Write the checkpoint of the step just made, and remove the oldest over the number kept.

    Called by all processes; the first writes for all.

    Returns:
        Its folder.

    Raises:
        TrainingError: On all processes, if it could not be written; the checkpoints before are as they were.
    """
    from accelerate.utils import broadcast_object_list

    step = trainer.state.global_step
    folder = trainer.run / FOLDER
    random_states, problem = _random_states(trainer)
    if trainer.is_world_process_zero() and not problem:
        try:
            _write(trainer, folder, folder / f"step-{step}", random_states)
        except Exception as error:  # each library has its own for a full disk
            problem = f"{type(error).__name__}: {error}"
    (problem,) = broadcast_object_list([problem])
    if problem:
        raise errors.training_checkpoint_not_saved(step, problem, str(trainer.newest or ""))
    return folder / f"step-{step}"


def _write(trainer: EchoTrainer, folder: Path, target: Path, random_states: Mapping[str, bytes]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        weights = {name: weight.detach().cpu().contiguous() for name, weight in trained_weights(trainer).items()}
        save_file(weights, unfinished / WEIGHTS)
        trainer._save_optimizer_and_scheduler(str(unfinished))
        for name, content in random_states.items():
            (unfinished / name).write_bytes(content)
        trainer.state.save_to_json(str(unfinished / STATE))
        (unfinished / RECORD).write_text(json.dumps(trainer.record, indent=2), encoding="utf-8")
        for path in unfinished.iterdir():
            _flush(path)
        _flush(unfinished)
        unfinished.chmod(0o755)
        if target.exists():  # one that a resumed run could not use
            _remove(target)
        unfinished.rename(target)
        _flush(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in _whole(folder)[: -trainer.keep]:
        _remove(old)


def _random_states(trainer: EchoTrainer) -> tuple[dict[str, bytes], str]:
    """File name → content, of all processes, which may share no disk; and what went wrong on any, or nothing."""
    from accelerate.utils import gather_object

    here: list[tuple[str, bytes, str]]
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer._save_rng_state(folder)
            here = [(path.name, path.read_bytes(), "") for path in Path(folder).iterdir()]
    except Exception as error:  # told to all: one that raised alone would leave the others waiting
        here = [("", b"", f"{type(error).__name__}: {error}")]
    everywhere = gather_object(here)
    states = {name: content for name, content, _ in everywhere}
    return states, next((problem for *_, problem in everywhere if problem), "")


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a checkpoint so that no half of it is ever taken for one."""
    going = path.with_name(f"{_UNFINISHED}{path.name}")
    shutil.rmtree(going, ignore_errors=True)
    path.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def newest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    return next(reversed(_whole(run / FOLDER)), None)


def step_of(path: Path) -> int:
    """The optimiser steps made when a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


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


def replace_text(path: Path, text: str) -> None:
    """Write a file whole, or leave the old one."""
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    _flush(unfinished)
    unfinished.replace(path)
    _flush(path.parent)


def _whole(folder: Path) -> list[Path]:
    """Checkpoints with all their files, oldest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    whole = [
        path for path in found if all((path / name).is_file() for name in _NEEDED) and [*path.glob("rng_state*.pth")]
    ]
    return sorted(whole, key=step_of)


def trained_weights(trainer: EchoTrainer) -> dict[str, nn.Parameter]:
    """What is trained, of the model and, if it has weights of its own, of the loss."""
    weights = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    known = {id(weight) for weight in trainer.model.parameters()}
    assert isinstance(trainer.loss, nn.Module)  # one for all data sets
    own = {f"loss.{name}": weight for name, weight in trainer.loss.named_parameters() if id(weight) not in known}
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
