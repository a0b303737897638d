"""Evaluations and experiments that cannot be run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from echoembed.errors.base import DataError, EvaluationError, near, quoted

# Evaluation


_LAYOUT = "sts/NAME/test.jsonl, pair/, classification/, clustering/, retrieval/ or reranking/NAME/…"


def data_folder_missing(folder: object) -> DataError:
    """A folder of data sets that does not exist."""
    return DataError(f"There is no folder {quoted(str(folder), 200)}. Name the one that holds {_LAYOUT}.")


def data_folder_not_given() -> DataError:
    """Local data sets without a folder."""
    return DataError(f"The tasks 'local' need a folder of data sets. Give one with --data; it holds {_LAYOUT}.")


def data_sets_missing(folder: object, kinds: Iterable[str]) -> DataError:
    """A folder without any data set."""
    return DataError(
        f"Found no data set in {quoted(str(folder), 200)}: looked for KIND/NAME/, with KIND one of {', '.join(kinds)}. "
        "Put yours there, such as sts/mine/test.jsonl."
    )


def data_files_missing(name: str, folder: object, needed: str) -> DataError:
    """A data set that lacks a file."""
    return DataError(
        f"The data set {name!r} lacks a file: looked in {quoted(str(folder), 200)} for {needed}, each with .gz or "
        "without. Add what is missing, or leave the data set out."
    )


def data_set_unknown(name: str, known: Iterable[str]) -> DataError:
    """A data set that the manifest does not have."""
    names = list(known)
    short = [part for key in names for part in key.split("/")]
    return DataError(
        f"There is no data set {quoted(name)} in the manifest. Name one of these, or a kind: {', '.join(names)}."
        f"{near(name, dict.fromkeys([*names, *short]))}"
    )


def data_field_missing(where: str, field: str, known: Iterable[str]) -> DataError:
    """A row without a field that its kind needs."""
    names = list(known)
    return DataError(f"{where} has no {field!r}; it has {', '.join(names) or 'nothing'}. Add it.{near(field, names)}")


def data_bad_field(where: str, field: str, value: object, allowed: str) -> DataError:
    """A field that is not what it must be."""
    return DataError(f"{where} has {field} = {quoted(value)}. It must be {allowed}. Correct that line.")


def data_empty(path: object) -> DataError:
    """A file without a row."""
    return DataError(f"{path} holds no row. A data set needs at least one: fill it, or leave the data set out.")


def data_says_nothing(path: object, reason: str) -> DataError:
    """Data on which all models would have the same score."""
    return DataError(f"Nothing can be scored on {path}: {reason}. Use more varied data, or more texts of it.")


def evaluation_task_unknown(name: str, known: Iterable[str], where: str) -> EvaluationError:
    """A task that does not exist."""
    names = list(known)
    listed = f" Known: {', '.join(names)}." if len(names) <= 60 else f" There are {len(names)}."
    place = f" in {where}" if where else ""
    return EvaluationError(
        f"There is no task {quoted(name)}{place}.{listed} Name a data set or kind in the folder given with "
        f"--data, a benchmark ('MTEB(eng, v1)', 'mteb-mini', 'local'), or an mteb task.{near(name, names)}"
    )


def evaluation_not_sampled(name: str) -> EvaluationError:
    """A sample of a task that mteb loads."""
    return EvaluationError(
        f"Got a limit of texts for {quoted(name)}, which mteb loads whole. Only local data sets can be sampled: "
        "leave out --max-texts, or choose local tasks."
    )


def evaluation_not_a_number(task: str, metric: str, value: object) -> EvaluationError:
    """A score that is no number."""
    return EvaluationError(
        f"The task {task!r} gave {metric} = {value}, which is no number: its vectors or its data do not differ. "
        "Check both."
    )


def evaluation_failed(scores: Sequence[object], failures: Mapping[str, BaseException]) -> EvaluationError:
    """Tasks that failed, reported after the other tasks have run."""
    reasons = "; ".join(f"{task}: {type(error).__name__}: {error}" for task, error in failures.items())
    return EvaluationError(
        f"{len(failures)} of {len(failures) + len(scores)} tasks failed ({reasons}). The other scores are kept; "
        "correct these and run again.",
        scores,
        failures,
    )
