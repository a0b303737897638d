"""``echoembed eval``: scores of recipes on benchmarks and on your own data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli.eval_progress import EvalProgress
from echoembed.cli.folders import writable_folder

if TYPE_CHECKING:
    from echoembed.evaluation.store import Score

EPILOG = opt.examples(
    "echoembed eval -r echo -r classical --data my-data --out results",
    "echoembed eval -r echo -r classical --data my-data --benchmark sts --max-texts 500",
    'echoembed eval mistralai/Mistral-7B-Instruct-v0.1 -r echo --benchmark "MTEB(eng, v1)" --out results',
    "echoembed eval Qwen/Qwen3-0.6B --benchmark mteb-mini --out results --json",
)


def evaluate(
    options: groups.ModelOptions,
    name: opt.ModelArgument = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            "--task",
            "-b",
            metavar="NAME",
            help="'MTEB(eng, v1)', mteb-mini, local, a data set or a kind in --data, or an mteb task; repeat it. "
            "Default: local.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of data sets, KIND/NAME/: see above."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder that keeps scores. They are not computed again, so an interrupted run continues.",
        ),
    ] = None,
    max_texts: Annotated[
        int | None,
        typer.Option(min=1, help="Score each local data set on a sample of at most this many texts."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.", min=0)] = 42,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Row of 'echoembed recipes'; repeat it. Default: the recipe saved with the model, else echo.",
            rich_help_panel="Model",
        ),
    ] = None,
    batch_size: opt.BatchSize = 32,
) -> None:
    """Score recipes with mteb's tasks and metrics.

    Tasks are grouped in MTEB's seven categories; the table shows scores × 100, and --json gives them from 0 to 1.
    Local data sets need no network; mteb's are fetched from the Hugging Face hub. Queries and documents are read with
    their own templates, and symmetric tasks with the query template on both sides. If the recipe has a place for an
    instruction, each task gets its own. A task that fails does not stop the others; the exit code is then 1.

    The folder of --data contains KIND/NAME/test.jsonl (or .jsonl.gz), where KIND is sts, pair, classification,
    clustering, reranking or retrieval. Classification also needs train.jsonl; retrieval has BEIR's layout.
    """
    options = groups.with_model(options, name)
    from echoembed import errors
    from echoembed.evaluation.benchmarks import find_tasks
    from echoembed.evaluation.store import Store

    names: list[str | None] = list(dict.fromkeys(recipe)) if recipe else [None]
    session.check_names(options, names)  # now, not after hours
    tasks = find_tasks(benchmark or ["local"], folder=data, max_texts=max_texts, seed=seed)
    store = None if output is None else Store(writable_folder(output, "scores"))
    session.silence()
    from echoembed.evaluation.run import evaluate as evaluate_
    from echoembed.model.transformer import transformer_of

    scores: list[Score] = []
    failures: list[str] = []
    kept_text = "nothing was kept; with --out, every score is"
    if output is not None:
        kept_text = f"finished scores are kept in {output}, and the same command continues from there"
    with out.kept(kept_text), EvalProgress(tasks, recipes=len(names), shown=not quiet) as progress:
        for row in names:
            loaded = session.load(options, row, on_overflow="ignore")
            progress.recipe = transformer_of(loaded).recipe.name
            try:
                scores += evaluate_(loaded, tasks, store=store, batch_size=batch_size, progress=progress)
            except errors.EvaluationError as error:
                scores += error.scores
                failures += [f"{progress.recipe}: {error}"]
    _print(scores, as_json=json)
    if output is not None and not quiet:
        out.note(f"{sum(not score.reused for score in scores)} of {len(scores)} scores are new → {output}")
    for failure in failures:
        out.fail(failure)
    if failures:
        raise typer.Exit(1)


def _print(scores: list[Score], *, as_json: bool) -> None:
    from echoembed.evaluation.table import columns, table_rows

    if as_json:
        keys = ("task", "kind", "recipe", "metric", "score", "model", "fingerprint", "identity", "details", "reused")
        rows = [score.as_dict() for score in scores]
        out.print_json([{key: row[key] for key in keys} for row in rows])
    elif scores:
        names = list(columns(scores))
        out.print_table(["task", "metric", *names], table_rows(scores), right=names)
