"""``echoembed embed``: from texts to vectors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.progress import Progress, shown_rate

if TYPE_CHECKING:
    from echoembed.texts import Embedder, RemoteEmbedder

EPILOG = opt.examples(
    'echoembed embed "The cat sat on the mat."',
    "echoembed embed notes.txt -o notes.npy",
    "echoembed embed docs.jsonl --column body --id-column key --kind document -o docs.parquet",
    "echoembed embed dump.jsonl -o dump.parquet --dtype auto",
    "zcat dump.jsonl.gz | echoembed embed - --format jsonl -o dump.parquet",
    'echoembed embed "The cat sat on the mat." --server http://127.0.0.1:8080',
)


def embed(
    texts: groups.TextOptions,
    model: groups.ModelOptions,
    encoding: groups.EncodeOptions,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help=".jsonl, .npy or .parquet; the file appears when it is complete. Default: JSONL to standard output.",
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show neither progress nor a closing line.")] = False,
    id_column: opt.IdColumn = None,
    recipe: opt.Recipe = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Embed with the model and recipe of a running 'echoembed serve', instead of loading a model.",
        ),
    ] = None,
) -> None:
    """Turn texts into vectors, one for each, in the order of the texts.

    The recipe's query template is used, or with --kind document its document template. Vectors have length 1. .jsonl
    and .parquet contain id, text, vector and fingerprint. V.npy contains only vectors: V.npy.jsonl has the id and
    text of each row, and V.npy.json says where the vectors come from. Memory does not grow with the length of a file.
    """
    from echoembed.texts import JsonlWriter, Writer, check_output, embed_stream, open_writer, output_files

    reader = texts.reader(id_column=id_column)
    file = None if output in (None, "-") else output
    if file is not None:
        reader.refuse_as_output(*output_files(file))
        for written in output_files(file):
            session.refuse_inputs(written, [model.recipes_file])
        check_output(file, overwrite=overwrite)
    else:
        session.check_standard_output(reader)
    if server is None:
        session.check_names(model, [recipe])
    session.check_texts(reader, quiet=quiet)
    if server is None:
        loaded = session.load(model, recipe, on_overflow=texts.on_overflow)
        embedder: Embedder | RemoteEmbedder = session.embedder(loaded, encoding)
    else:
        embedder = session.remote(server, model, recipe, encoding, on_overflow=texts.on_overflow)
    stamp = embedder.stamp()
    if file is None:
        writer: Writer = JsonlWriter(sys.stdout.buffer, stamp)
    else:
        writer = open_writer(file, stamp, overwrite=overwrite)
    show_progress = not quiet and not (file is None and sys.stdout.isatty())
    kept_text = "nothing was written" if file else "the vectors that were printed are all there is"
    with out.kept(kept_text), Progress(reader.expected, shown=show_progress) as progress:
        count = embed_stream(
            reader,
            embedder.encode,
            writer,
            faults=embedder.faults,
            leave_out=reader.leave_out,
            progress=progress,
        )
    if not quiet:
        rate = shown_rate(count, progress.seconds)
        target = file or "standard output"
        out.note(f"embedded {out.counted(count, 'text')} in {progress.seconds:.1f} s ({rate} texts/s) → {target}")
    session.report_skipped(reader, array=file if file is not None and file.lower().endswith(".npy") else None)
    session.report_cuts(embedder, texts.on_overflow)
