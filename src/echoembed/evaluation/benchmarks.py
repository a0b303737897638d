"""Lists of tasks: mteb's MTEB, the paper's MTEB-MINI (Appendix D), and tasks by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echoembed import errors, versions
from echoembed.evaluation.local import data_sets, local_tasks, matching
from echoembed.evaluation.task import KINDS, Task

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

MTEB = "MTEB(eng, v1)"
MINI = "mteb-mini"
LOCAL = "local"
BENCHMARKS = (MTEB, MINI, LOCAL)

# Appendix D. The paper's text counts 28 data sets, and names these 26.
MINI_TASKS = (
    "FiQA2018",
    "SCIDOCS",
    "SciFact",
    "NFCorpus",
    "TwitterSemEval2015",
    "TwitterURLCorpus",
    "ImdbClassification",
    "AmazonReviewsClassification",
    "TweetSentimentExtractionClassification",
    "MTOPDomainClassification",
    "TwentyNewsgroupsClustering",
    "BiorxivClusteringS2S",
    "MedrxivClusteringS2S",
    "StackOverflowDupQuestions",
    "AskUbuntuDupQuestions",
    "SciDocsRR",
    "BIOSSES",
    "STS12",
    "STS13",
    "STS14",
    "STS15",
    "STS16",
    "STS17",
    "STS22",
    "STSBenchmark",
    "SICK-R",
)


def benchmark_tasks(name: str) -> list[Task]:
    """Return the tasks of ``MTEB(eng, v1)`` (56) or ``mteb-mini`` (26). Their data come from the hub when they run.

    Raises:
        EvaluationError: If there is no such benchmark.
        ModelError: If mteb is not installed.
    """
    tasks = _mteb_tasks()
    if name == MTEB:
        return list(tasks.values())
    if name == MINI:
        return [tasks[task] for task in MINI_TASKS]
    raise errors.evaluation_task_unknown(name, BENCHMARKS, "")


def find_tasks(
    names: Sequence[str], *, folder: str | Path | None = None, max_texts: int | None = None, seed: int = 42
) -> list[Task]:
    """Return the tasks of these names, each once, in order.

    Args:
        names: Benchmarks (``BENCHMARKS``), data sets or kinds in ``folder``, or mteb's names of tasks.
        folder: The folder of local data sets; they take precedence over mteb's tasks of the same name.
        max_texts: As for ``local_tasks``. Only local tasks can be sampled.
        seed: As for ``local_tasks``.

    Raises:
        EvaluationError: If a name is unknown; the message lists similar names.
        DataError: If local data are missing.
    """
    sets = data_sets(folder) if folder is not None else {}
    _check_names([name for name in names if name not in BENCHMARKS and not matching(sets, name)], sets)
    tasks: dict[str, Task] = {}
    for name in names:
        if name == LOCAL and folder is None:
            raise errors.data_folder_not_given()
        if name == LOCAL or (local := matching(sets, name)):
            assert folder is not None
            more = local_tasks(folder, None if name == LOCAL else local, max_texts=max_texts, seed=seed)
        elif max_texts is not None:
            raise errors.evaluation_not_sampled(name)
        elif name in BENCHMARKS:
            more = benchmark_tasks(name)
        else:
            more = [_by_name(name, sets)]
        tasks.update({task.name: task for task in more if task.name not in tasks})
    return list(tasks.values())


def _check_names(names: Sequence[str], sets: Mapping[str, Any]) -> None:
    """Refuse names that are not in mteb's source files, without importing mteb, which takes seconds.

    Raises:
        EvaluationError: If there is such a name.
    """
    package = find_spec("mteb") if names else None
    if package is None or package.origin is None:  # the error about mteb, which comes later, is the better one
        return
    files = [path.read_text(encoding="utf-8") for path in (Path(package.origin).parent / "tasks").rglob("*.py")]
    for name in names:
        if not any(f'"{name}"' in text for text in files):
            near = [task for text in files for task in re.findall(r'^ {8}name="([^"]+)",$', text, re.MULTILINE)]
            raise errors.evaluation_task_unknown(name, [*sets, *BENCHMARKS, *near], "")


def _by_name(name: str, sets: dict[str, Any]) -> Task:
    tasks = _mteb_tasks()
    if name in tasks:
        return tasks[name]
    mteb = _mteb()
    try:
        return _task(mteb.get_task(name, languages=["eng"]))
    except KeyError:
        near = [task.metadata.name for task in mteb.get_tasks(languages=["eng"], task_types=list(KINDS))]
        raise errors.evaluation_task_unknown(name, [*sets, *BENCHMARKS, *near], "") from None


@cache
def _mteb_tasks() -> dict[str, Task]:
    return {task.metadata.name: _task(task) for task in _mteb().get_benchmark(MTEB).tasks}


def _mteb() -> Any:
    with versions.needed("mteb", extra="eval", purpose="An evaluation"):
        import mteb
    return mteb


def _task(task: AbsTask) -> Task:
    metadata = task.metadata
    parts = [task, *getattr(task, "tasks", [])]
    data = " ".join(
        f"{part.metadata.dataset['path']}@{part.metadata.dataset['revision']}:{','.join(part.eval_splits)}"
        f":{','.join(part.hf_subsets)}"
        for part in parts
    )
    prompt = metadata.prompt.get("query") if isinstance(metadata.prompt, dict) else metadata.prompt
    return Task(
        name=metadata.name,
        kind=str(metadata.type),
        metric=metadata.main_score,
        data=data,
        load=partial(_same, task),
        characters=sum(_characters(part) for part in parts),
        hint=prompt or "",
    )


def _same(task: AbsTask) -> AbsTask:
    return task


def _characters(task: AbsTask) -> int:
    """Return the number of characters to embed, by mteb's statistics."""
    stats: Any = task.metadata.descriptive_stats or {}
    return sum(_characters_of(stats.get(split) or {}) for split in task.eval_splits)


def _characters_of(split: dict[str, Any]) -> int:
    """Return the characters of one split; some kinds of tasks count over all columns, others by column."""
    by_column = (split.get("text_statistics") or {}).get("total_text_length")
    return int(split.get("number_of_characters") or by_column or 0)
