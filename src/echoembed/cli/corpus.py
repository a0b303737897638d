"""``echoembed corpus``: millions of texts to a folder of vectors, without losing one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session
from echoembed.cli.groups import ModelOptions
from echoembed.progress import Progress, shown_rate

if TYPE_CHECKING:
    from echoembed.corpus.work import Engine, Report

SET_ASIDE = 3
REJECTED = "rejected.jsonl"
_TEXTS = "Reading texts"
_STORE = "Storing vectors"
EPILOG = opt.examples(
    "echoembed corpus build notes/ --out notes-corpus --dtype auto",
    "echoembed corpus build dump.jsonl.zst --column body --id-column key --keep year:int --out dump",
    "echoembed corpus info dump",
) + (
    "\n\n[bold]Exit codes[/bold]\n"
    "  0    every text has a vector\n"
    "  1    something is wrong; finished work is kept; correct the fault and run the same command again\n"
    "  3    built, but some texts were set aside: rejected.jsonl has each with its reason"
)


@dataclass(frozen=True, kw_only=True)
class JobOptions(ModelOptions):
    """The model, and where and how it computes."""

    engine: Annotated[
        Literal["packed", "padded", "ray"] | None,
        typer.Option(
            help="packed and padded compute in this process; ray, on a pool of models. Default: packed, if it is "
            "right.",
            rich_help_panel="Model",
        ),
    ] = None  # type: ignore[assignment]


def build(
    options: JobOptions,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="JSONL, CSV and TSV, also as .gz and .zst; Parquet; Markdown and text; folders of these.",
        ),
    ],
    out_: Annotated[Path, typer.Option("--out", "-o", help="The folder of the corpus.")],
    file_format: Annotated[
        Literal["jsonl", "csv", "tsv", "parquet", "lines", "document"] | None,
        typer.Option("--format", help="Format of all files. Default: by suffix.", rich_help_panel=_TEXTS),
    ] = None,
    delimiter: opt.Delimiter = None,
    column: opt.Column = "text",
    id_column: Annotated[
        str | None,
        typer.Option(help="Column that holds the id. Default: FILE:LINE.", rich_help_panel=_TEXTS),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:TYPE]",
            help="Also store this column, for filters; TYPE is text, int, float or bool. May be repeated.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    chunk: Annotated[
        bool | None,
        typer.Option(
            "--chunk/--no-chunk",
            help="Cut texts into chunks of whole sentences. Default: documents yes, rows no.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of a chunk. Default: 200, or the budget.", rich_help_panel=_TEXTS),
    ] = None,
    on_overflow: Annotated[
        Literal["cut", "reject"],
        typer.Option(help="What to do with a text over the budget.", rich_help_panel=_TEXTS),
    ] = "cut",
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="Precision of the stored vectors.", rich_help_panel=_STORE),
    ] = "float32",
    shard_rows: Annotated[
        int,
        typer.Option(
            min=1, help="Texts in a shard. If a build is killed, at most one shard is lost.", rich_help_panel=_STORE
        ),
    ] = 4096,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of models, with --engine ray. Default: 2.", rich_help_panel=_STORE)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show neither progress nor a closing line.")] = False,
    recipe: opt.Recipe = None,
    instruction: opt.Instruction = None,
    batch_size: opt.PaddedTexts = None,
) -> None:
    """Build a corpus, continue an interrupted build, or bring a corpus up to date.

    Texts are read with the recipe's document template. The vectors are in Parquet shards, with id, text, hash, kept
    columns and the number of cut tokens. Run the same command again after an interruption, damage, or a change of the
    inputs: only missing and new texts are embedded, and texts that the inputs no longer have are removed.
    """
    from echoembed import corpus
    from echoembed.corpus.inputs import Inputs

    kept_columns = tuple(corpus.Keep.parse(written) for written in keep or [])
    reading = corpus.Reading(
        text=column,
        id=id_column,
        keep=kept_columns,
        chunk=chunk,
        chunk_tokens=chunk_tokens,
        shard_rows=shard_rows,
        delimiter=delimiter,
    )
    on_ray = options.engine == "ray"
    if workers is not None and not on_ray:
        raise typer.BadParameter("it is the number of models of --engine ray; leave it out", param_hint="--workers")
    # Before a model is loaded: a missing file, or an option that no file can use.
    reading.check(Inputs(inputs, file_format=file_format, leave_out=out_))
    options = replace(options, engine=None if on_ray else options.engine)
    session.check_names(options, [recipe])
    load_arguments: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(options)}
    load_arguments["recipe"] = session.recipe_named(recipe, load_arguments.pop("recipes_file"))
    loaded = session.load(options, recipe)
    how: dict[str, Any] = {"instruction": instruction, "batch_size": batch_size}
    last = corpus.BuildProgress(0, 0, 0)

    def remaining() -> int:
        return last.embedded + max(last.expected - last.done, 0)

    finished = f"finished shards are kept in {out_}, and the same command continues from there"
    with out.kept(finished), Progress(remaining, shown=not quiet) as progress:

        def tell(now: corpus.BuildProgress) -> None:
            nonlocal last
            last = now
            if now.embedded:
                progress(now.embedded)

        report = corpus.build(
            inputs,
            out_,
            corpus.ModelEncoder(loaded, **how),
            file_format=file_format,
            reading=reading,
            precision=precision,
            refuse_cut=on_overflow == "reject",
            load=corpus.plain_load({**load_arguments, "device": None}),
            engine=_on_ray(load_arguments, how, workers or 2) if on_ray else None,
            progress=tell,
        )
    for remark in report.remarks:
        out.warn(f"{remark}.")
    if not quiet:
        _say(report, out_)
    if report.manifest.rejected:
        out.warn(
            f"{out.counted(report.manifest.rejected, 'text')} set aside: {out_ / REJECTED} has each with its reason."
        )
        raise typer.Exit(SET_ASIDE)


def _on_ray(load: dict[str, Any], encode: dict[str, Any], workers: int) -> Engine:
    from echoembed.corpus.ray import Load, OnRay

    return OnRay(make_encoder=Load(load=load, encode=encode), workers=workers)


def _say(report: Report, folder: Path) -> None:
    manifest, rate = report.manifest, shown_rate(report.embedded, report.seconds)
    texts, shards = out.counted(manifest.rows, "text"), out.counted(len(manifest.shards), "shard")
    out.note(
        f"{texts} in {shards} → {folder}: embedded {report.embedded:,} in {report.seconds:.1f} s ({rate} texts/s)"
        f", unchanged {report.reused:,}{f', repeated {report.repeated:,}' if report.repeated else ''}"
    )
    if report.ignored:
        out.note(f"left alone {out.counted(report.ignored, 'file')} of other kinds")
    cut = sum(entry.dropped_texts for entry in manifest.shards)
    if cut:
        tokens = sum(entry.dropped_tokens for entry in manifest.shards)
        out.warn(
            f"{out.cut(cut, tokens)} Cut such texts into chunks with --chunk, raise --budget, or set them aside with "
            "--on-overflow reject."
        )


def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the corpus.")],
    json: opt.Json = False,
) -> None:
    """Show what a corpus contains and where its vectors come from."""
    from echoembed.corpus import Corpus

    manifest = Corpus(folder).manifest
    facts = {
        "texts": manifest.rows,
        "set_aside": manifest.rejected,
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
        "precision": manifest.precision,
        "dimension": manifest.dimension,
        "kept_columns": ", ".join(kept.name for kept in manifest.keep),
        "inputs": ", ".join(manifest.inputs),
        **manifest.identity.names,
        "instruction": manifest.identity.instruction,
        **manifest.identity.decides,
        **manifest.identity.numerics,
    }
    if json:
        out.print_json(facts)
    else:
        out.print_facts(facts)
