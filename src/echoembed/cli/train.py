"""``echoembed train``: fine-tune a model as a configuration file says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session

if TYPE_CHECKING:
    from echoembed.training.config import TrainConfig
    from echoembed.training.plan import RunPlan

EPILOG = "\n".join(
    [
        opt.examples(
            "echoembed train run.toml --dry-run",
            "echoembed train run.toml",
            "echoembed train run.toml --resume",
            "echoembed train --fields",
            "torchrun --no-python --nproc-per-node 4 echoembed train run.toml",
        ),
        "",
        "[bold]A configuration[/bold]",
        *(
            f"  [cyan]{line}[/cyan]".replace("[[data]]", r"\[\[data]]").replace("[optimiser]", r"\[optimiser]")
            for line in (
                'output = "runs/mine"',
                'model = "Qwen/Qwen3-0.6B"',
                'recipe = "echo-finetuned-last"',
                "[[data]]",
                'path = "rows.jsonl"',
                'instruction = "Given a question, retrieve passages that answer it"',
                "[optimiser]",
                "steps = 500",
                "batch_size = 512",
            )
        ),
        r'  A line of rows.jsonl: {"query": "…", "positive": "…", "negative": "…"}',
    ]
)


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="TOML file that says which model to train on which data.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check data and settings; print batches, tokens and memory to expect; start nothing."
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder from its newest checkpoint.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run, instead of the one in the configuration."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the one in the configuration.", min=0)] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Print every field of a configuration, and stop.")] = False,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Fine-tune a model under a recipe, on data sets of queries with positives and hard negatives.

    All rows are checked before training starts. A run that is stopped, also by Ctrl-C, leaves a checkpoint, and
    --resume continues from it. At the end, the folder of the finished model is printed, for 'echoembed embed -m
    FOLDER'.
    """
    if fields:
        _print_fields(as_json=json)
        return
    if config is None:
        raise typer.BadParameter("name a TOML file", param_hint="CONFIG")
    from dataclasses import replace

    from echoembed import errors
    from echoembed.training import config as configuration

    chosen = configuration.read(config)
    if output is not None:
        chosen = replace(chosen, output=configuration.absolute("--output", str(output), Path.cwd()))
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    _check_extras()
    session.silence()
    if dry_run:
        _print_plan(_plan(chosen, shown=not quiet), as_json=json)
        return
    from rich.console import Console

    from echoembed.training import run

    try:
        with out.kept(lambda: _kept(Path(chosen.output))):
            folder = run.train(chosen, resume=resume, console=None if quiet else Console(stderr=True))
    except errors.TrainingStoppedError as error:
        out.fail(str(error))
        raise typer.Exit(130) from error
    if os.environ.get("RANK", "0") != "0":  # of several processes, only the first prints
        return
    if json:
        out.print_json({"model": str(folder)})
    else:
        out.print_line(str(folder))


def _kept(output: Path) -> str:
    from echoembed.training.checkpoint import newest

    kept = newest(output)
    return f"{kept} is kept, and --resume continues from it" if kept else "nothing was kept: no step was saved yet"


def _check_extras() -> None:
    from echoembed import versions

    versions.check("datasets", "peft", extra="train", purpose="Training")


def _plan(config: TrainConfig, *, shown: bool) -> RunPlan:
    from rich.console import Console

    from echoembed.training import plan
    from echoembed.training.progress import reading_rows

    with reading_rows(Console(stderr=True) if shown else None) as progress:
        return plan.make(config, progress=progress)


def _print_plan(plan: RunPlan, *, as_json: bool) -> None:
    if as_json:
        out.print_json(plan.as_dict())
        return
    trained = plan.lora + plan.end_token or plan.parameters
    kinds = [f"{plan.lora:,} of LoRA"] * bool(plan.lora) + [f"{plan.end_token:,} of the end token"] * bool(
        plan.end_token
    )
    memory = plan.memory
    pieces = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimiser,
        "activations": memory.activations,
    }
    out.print_facts(
        {
            "model": plan.model,
            "recipe": plan.recipe,
            "budget": plan.budget,
            "steps": plan.steps,
            "rows_a_step": plan.batch_size,
            "rows_in_all": plan.rows,
            "tokens_in_all": f"about {plan.tokens:,}",
            "trained": f"{trained:,} of {plan.parameters:,} parameters ({', '.join(kinds) or 'the whole model'})",
            "memory": f"about {_size(memory.total)} a process: "
            + ", ".join(f"{name} {'unknown' if size is None else _size(size)}" for name, size in pieces.items()),
            **({"download": f"{_size(plan.download)} of weights, when the run starts"} if plan.download else {}),
        }
    )
    cells = [
        [
            entry.name,
            f"{entry.rows:,}",
            f"{entry.share:.1%}",
            f"{entry.batches:,.1f}",
            f"{entry.rounds:.2f}",
            column,
            f"{lengths.mean:,.0f}",
            f"{lengths.longest:,}",
            f"{lengths.cut:.0%}",
        ]
        for entry in plan.data
        for column, lengths in entry.columns.items()
    ]
    titles = ["data set", "rows", "share", "batches", "rounds", "column", "tokens", "longest", "cut"]
    for line, before in reversed(list(zip(cells[1:], cells, strict=False))):
        if line[0] == before[0]:
            line[:5] = [""] * 5
    out.print_table(titles, cells, right=[title for title in titles if title not in ("data set", "column")])
    for warning in plan.warnings:
        out.warn(warning)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _print_fields(*, as_json: bool) -> None:
    from echoembed.training.fields import fields

    if as_json:
        out.print_json([field._asdict() for field in fields()])
        return
    rows = [[field.table, field.name, field.type, field.default, field.meaning.replace("``", "")] for field in fields()]
    for line, before in reversed(list(zip(rows[1:], rows, strict=False))):
        if line[0] == before[0]:
            line[0] = ""
    out.print_table(["table", "field", "takes", "default", "meaning"], rows)
