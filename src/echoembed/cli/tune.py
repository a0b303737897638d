"""``echoembed tune``: search for the recipe that makes a model the best zero-shot embedder of your own texts."""

from __future__ import annotations

import json as json_
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.recipe import Recipe

EPILOG = opt.examples(
    "echoembed tune smollm2-135m --texts notes.txt -o tuned",
    "echoembed tune smollm2-135m --texts notes.txt --pairs judged.jsonl --cost 1.0 -o tuned",
    "echoembed embed -m tuned notes.txt -o notes.parquet",
)


def tune(
    options: groups.ModelOptions,
    name: opt.ModelArgument = None,
    texts: Annotated[Path | None, typer.Option(help="File of texts like those that you will embed.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="JSON lines of judged pairs: sentence1, sentence2, and score (or label, 0 or 1)."),
    ] = None,
    cost: Annotated[
        float,
        typer.Option(min=0.01, help="Highest cost of embedding; 1 is the cost of a classical embedding."),
    ] = 1.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the best model.")] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the vectors. Default: in the cache."),
    ] = None,
    most: Annotated[int, typer.Option("--max-texts", min=64, help="Use a sample of at most this many texts.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of samples and intervals.", min=0)] = 42,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that exists.")] = False,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Search prompts, layers, poolings and calibrations for the best embedder of your own texts, without training.

    The model reads each prompt once, for all layers, and the search tries everything else on the kept vectors. With
    judged pairs, the best recipe is the one that ranks the pairs as people did. Without them, it is the one under which
    the two halves of a text find each other. It is chosen on one half of the texts within the allowed cost, and scored
    on the other half.

    The best model is saved with its calibration; pass its folder to 'echoembed embed -m FOLDER' or any other verb. The
    folder also has a table (tune.json) and a picture (frontier.png). A stopped search continues where it was.
    """
    if texts is None:
        raise typer.BadParameter("name a file of texts", param_hint="--texts")
    if output is None:
        raise typer.BadParameter("name a folder for the model that is found", param_hint="--output")
    options = groups.with_model(options, name)
    from echoembed import errors, plots

    if options.layer is not None:
        raise errors.tune_layer_given(options.layer)

    if output.exists() and not overwrite:
        raise errors.output_exists(output)
    session.check_names(options, [None])
    read, judged = _texts(texts, most, seed), None if pairs is None else _pairs(pairs)
    plots.figure("")  # fails now, rather than after minutes, if matplotlib is missing
    session.silence()
    from echoembed import save
    from echoembed.evaluation.layers import LayerStore, default_folder
    from echoembed.files import write_text
    from echoembed.model.transformer import transformer_of
    from echoembed.tune import report
    from echoembed.tune.search import tune as search

    layer_store = LayerStore(store or default_folder())
    with out.kept(f"finished readings are kept in {layer_store.folder}, and the same command continues from there"):
        result = search(
            partial(_load, options),
            read,
            pairs=judged,
            most_cost=cost,
            store=layer_store,
            budget=options.budget,
            seed=seed,
            say=(lambda _: None) if quiet else out.note,
        )
    folder = save(result.model, output, overwrite=overwrite)
    write_text(folder / "tune.json", json_.dumps(report.record(result), indent=1))
    title = f"Score against cost: {transformer_of(result.model).name}"
    plots.save(report.picture(result, title), folder / "frontier")
    if json:
        out.print_json({**report.record(result), "folder": str(folder)})
        return
    out.print_table(report.COLUMNS, report.rows(result), right=("cost", "score", "95 %"))
    for line in report.notes(result):
        out.note(line)
    out.print_line(str(folder))


def _load(options: groups.ModelOptions, recipe: Recipe) -> SentenceTransformer:
    """Load the model that the options name, with a recipe."""
    import echoembed

    arguments = {field.name: getattr(options, field.name) for field in fields(options)}
    del arguments["recipes_file"], arguments["budget"]  # the recipe holds the budget
    return echoembed.load(recipe=recipe, overflow="ignore", **arguments)


def _texts(path: Path, most: int, seed: int) -> list[str]:
    """Read a file of texts, and return a sample of at most ``most``."""
    import random

    from echoembed.texts import TextReader

    read = [item.text for item in TextReader([str(path)])]
    if len(read) <= most:
        return read
    return random.Random(seed).sample(read, most)  # noqa: S311


def _pairs(path: Path) -> list[tuple[str, str, float]]:
    """Read judged pairs: two sentences and a score."""
    from echoembed.evaluation import rows

    fields = {"sentence1": rows.TEXT, "sentence2": rows.TEXT, "score": rows.NUMBER, "label": rows.NUMBER}
    read = rows.read_rows(path, fields, optional=("score", "label"))
    return [(row["sentence1"], row["sentence2"], float(row.get("score", row.get("label", 0.0)))) for row in read]
