"""``echoembed embed``: texts to vectors."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session
from echoembed.cli.progress import Progress

EPILOG = opt.examples(
    'echoembed embed "The cat sat on the mat."',
    "echoembed embed notes.txt -o notes.npy",
    "echoembed embed docs.jsonl --column body --id-column key --kind document -o docs.parquet",
    "zcat dump.jsonl.gz | echoembed embed - --format jsonl -o dump.parquet",
)


def embed(
    inputs: opt.Inputs = None,
    text: opt.Texts = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help=".jsonl, .npy or .parquet; it appears when it is whole. Default: JSONL to standard output.",
            show_default=False,
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no closing line.")] = False,
    format: opt.Format = None,
    column: opt.Column = "text",
    id_column: opt.IdColumn = None,
    on_bad_text: opt.OnBadText = "error",
    on_overflow: opt.OnOverflow = "warn",
    model: opt.Model = None,
    adapter: opt.Adapter = None,
    recipe: opt.Recipe = None,
    recipes_file: opt.RecipesFile = None,
    revision: opt.Revision = None,
    layer: opt.Layer = None,
    budget: opt.Budget = None,
    kind: opt.Kind = "query",
    instruction: opt.Instruction = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    batch_size: opt.BatchSize = 32,
) -> None:
    """Embed texts: a vector for each, in order.

    Texts are read with the recipe's query template unless --kind document says otherwise. Vectors have
    length 1. .jsonl and .parquet hold id, text, vector and fingerprint. V.npy holds vectors alone: V.npy.jsonl
    beside it has id and text of each row, V.npy.json says where they come from. Files of any length take the
    same memory.
    """
    from echoembed import texts

    reader = texts.TextReader(
        inputs or [], texts=text or [], format=format, column=column, id_column=id_column, on_bad_text=on_bad_text
    )
    to_stdout = output in (None, "-")
    if output is not None and not to_stdout:
        texts.check_output(output, overwrite=overwrite)
    loaded = session.load(
        model,
        recipe,
        adapter=adapter,
        recipes_file=recipes_file,
        on_overflow=on_overflow,
        revision=revision,
        layer=layer,
        budget=budget,
        device=device,
        dtype=dtype,
    )
    embedder = texts.Embedder(model=loaded, kind=kind, instruction=instruction, batch_size=batch_size)
    stamp = embedder.stamp()
    if output is None or to_stdout:
        writer: texts.Writer = texts.JsonlWriter(sys.stdout.buffer, stamp)
    else:
        writer = texts.open_writer(output, stamp, overwrite=overwrite)
    with Progress(reader.expected, shown=not quiet and not (to_stdout and sys.stdout.isatty())) as progress:
        count = texts.embed_stream(
            reader,
            embedder.encode,
            writer,
            faults=embedder.faults,
            leave_out=reader.leave_out,
            progress=progress,
        )
    if not quiet:
        rate = count / max(progress.seconds, 1e-9)
        words = "text" if count == 1 else "texts"
        target = "standard output" if to_stdout else output
        out.note(f"embedded {count:,} {words} in {progress.seconds:.1f} s ({rate:,.0f} texts/s) → {target}")
    session.report_skipped(reader, array=output if output is not None and output.lower().endswith(".npy") else None)
    session.report_cuts(embedder, on_overflow)
