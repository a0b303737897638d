"""Whether a run may start in its folder, or resume there."""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from echoembed import errors
from echoembed.files import lock, reason_of, write_text
from echoembed.training import checkpoint, rows
from echoembed.training.config import TrainConfig, differences, from_dict
from echoembed.training.run_folder import CONFIG, LOG, SCORES, STORE, WRITTEN, check_place, read_lines, step_of

_LIBRARIES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate")


class ResumeWarning(UserWarning):
    """Warns that a run is resumed under other circumstances than it was started in."""


def record_of(config: TrainConfig, digests: Mapping[str, Mapping[str, str]], revision: str) -> dict[str, Any]:
    """Return the record of what a run is started with: two runs with the same record end with the same weights.

    Args:
        config: The run's configuration in force.
        digests: The hashes of its data files, from ``rows.digests``.
        revision: The revision of the model's weights.
    """
    return {"config": config.as_dict(), "data": digests, "revision": revision, "libraries": libraries()}


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that decide the last digits of a run."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def checkpoint_of(config: TrainConfig, *, resume: bool) -> Path | None:
    """Return the checkpoint to resume from, if any.

    Raises:
        TrainingError: If the folder holds a run and ``resume`` is false, or the run was started with another
            configuration or other data.
        FileError: If the folder cannot be written.
    """
    folder = Path(config.output)
    check_place(folder)
    newest = checkpoint.newest(folder)
    # 1. The record of the newest whole checkpoint, or the folder's if there is none, says what a run started with. In a
    #    folder without a record, what has the name of a file of ours is somebody else's, and would be overwritten.
    if newest is not None:
        record = checkpoint.read_record(newest / checkpoint.RECORD)
    else:
        try:
            record = checkpoint.read_record(folder / CONFIG)
        except errors.TrainingError:
            # A teacher's vectors may be there before a run: their store says itself which teacher's they are.
            if taken := [name for name in WRITTEN if name != STORE and (folder / name).exists()]:
                raise errors.training_folder_taken(folder, taken) from None
            return None
    if not resume:
        raise errors.training_run_exists(folder)
    # 2. Refuse another configuration or other data, as the run would then belong to neither of the two.
    if differing := _differences(record, config):
        raise errors.training_run_differs(folder, differing)
    if changed := _changed_libraries(record):
        warnings.warn(
            f"The run in {folder} was started with other libraries: {'; '.join(changed)}. It goes on, but its result "
            "may differ in the last digits from that of a run with the same libraries throughout.",
            ResumeWarning,
            stacklevel=2,
        )
    # 3. Refuse a checkpoint whose files were damaged.
    if newest is not None:
        checkpoint.check(newest)
    return newest


def warn_of_processes(newest: Path, now: int) -> None:
    """Warn if a checkpoint was written by another number of processes, each of which has a random state of its own."""
    before = max(1, len(list(newest.glob("rng_state_*.pth"))))
    if before != now:
        warnings.warn(
            f"The run was started with {before} processes and goes on with {now}. Random states are not restored, so "
            "that its result differs from that of a run with the same number throughout.",
            ResumeWarning,
            stacklevel=3,
        )


def _changed_libraries(record: Mapping[str, Any]) -> list[str]:
    before, now = record.get("libraries"), libraries()
    if not isinstance(before, dict):  # of an earlier version of echoembed
        return []
    return [f"{name} was {before[name]} and is {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def _differences(record: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """List the differences from a run's record: of the configuration, and of the data files' contents, not paths."""
    try:
        old_config = from_dict(record["config"])
    except errors.EchoembedError as error:
        return [f"this version of echoembed cannot read its configuration ({str(error).removesuffix('.')})"]
    changes = [
        f"{field} was {errors.quoted(old, 80)} and is {errors.quoted(new, 80)}"
        for field, old, new in differences(old_config, config)
        if not _is_place(field, old, new)
    ]
    before, after = record["data"], rows.digests(config)
    changed = [name for name in after if name in before and _contents(before[name]) != _contents(after[name])]
    fields = ("adapter.start", "teacher.vectors")
    return changes + [
        f"the file of {name} holds something else"
        if name in fields
        else f"the files of the data set {errors.quoted(name)} hold something else"
        for name in changed
    ]


def _is_place(field: str, old: object, new: object) -> bool:
    """Return whether two values are places of files, whose contents are compared instead.

    The contents of data are hashed, those of a model are its revision, and a teacher's weights go with its vectors.
    """
    if field.startswith("data.") and field.endswith(".path"):
        return True
    if field not in ("model", "adapter.start", "teacher.model", "teacher.vectors"):
        return False
    names = [value if isinstance(value, list | tuple) else [str(value)] for value in (old, new)]
    return len(names[0]) == len(names[1]) and all(
        one == other or (Path(one).is_absolute() and Path(other).is_absolute())
        for one, other in zip(*names, strict=True)
    )


def _contents(digests: Mapping[str, str]) -> list[str]:
    return [digests[name] for name in sorted(digests)]  # in the order they are read


def begin_run(config: TrainConfig, record: Mapping[str, Any], newest: Path | None, held: ExitStack) -> None:
    """Write the record of a run; for a resumed run, remove the log's lines after its checkpoint.

    Args:
        config: The run's configuration in force.
        record: From ``record_of``.
        newest: The checkpoint to resume from, if any.
        held: Holds the lock on the folder until the run ends.

    Raises:
        TrainingError: If the run was started with other weights, or another process is training in the folder.
        FileError: If the folder cannot be written.
    """
    folder = Path(config.output)
    if newest is not None:
        revision = checkpoint.read_record(newest / checkpoint.RECORD)["revision"]
        if revision != record["revision"]:
            raise errors.training_run_differs(
                folder, [f"the model's revision was {revision}, and is {record['revision']}"]
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The log is locked before anything is written: the old one, and the new one that takes its place.
        with ExitStack() as before:
            _lock(folder, before)
            if checkpoint.newest(folder) != newest:
                raise errors.training_folder_busy(folder)
            write_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")
            for name in (LOG, SCORES):
                _cut(folder / name, step_of(newest) if newest else -1)
            _lock(folder, held)
    except OSError as error:
        if isinstance(error, errors.EchoembedError):
            raise
        raise errors.training_output_unwritable(folder, reason_of(error)) from error


def _lock(folder: Path, held: ExitStack) -> None:
    """Lock a run's log.

    Raises:
        TrainingError: If another process has locked it.
    """
    handle = held.enter_context((folder / LOG).open("ab"))
    if not lock(handle.fileno()):
        raise errors.training_folder_busy(folder)


def _cut(path: Path, step: int) -> None:
    """Remove a log's lines after a step, as they will be written again."""
    if path.exists():
        lines = [json.dumps(row) + "\n" for row in read_lines(path) if row["step"] <= step]
        write_text(path, "".join(lines))
