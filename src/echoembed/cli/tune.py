"""``echoembed tune``: search for the recipe that makes a model the best zero-shot embedder of your own texts."""

from __future__ import annotations

import json as json_
import os
from collections.abc import Callable
from dataclasses import fields
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
    texts: Annotated[
        Path | None, typer.Option(help="File of texts like those that you will embed; - for standard input.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="JSON lines of judged pairs: sentence1, sentence2, and score (or label, 0 or 1) in all."),
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
    file_format: opt.Format = None,
    delimiter: opt.Delimiter = None,
    column: opt.Column = "text",
    on_bad_text: opt.OnBadText = "error",
    overwrite: opt.OverwriteModel = False,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Search prompts, layers, poolings and calibrations for the best embedder of your own texts, without training.

    The model reads each prompt once, for all layers, and the search tries everything else on the kept vectors. With
    judged pairs, the best recipe is the one that ranks the pairs as people did. Without them, fewer prompts and
    poolings are tried, and the best is the one under which the two halves of a text find each other and vectors lie
    evenly. The recipe is chosen on one half of the pairs or texts, within the allowed cost, and scored on the other.

    The best model is saved with its calibration; pass its folder to 'echoembed embed -m FOLDER' or any other verb. The
    folder also has a table (tune.json) and a picture (frontier.png). A stopped search continues where it was.
    """
    if texts is None:
        raise typer.BadParameter("name a file of texts", param_hint="--texts")
    if output is None:
        raise typer.BadParameter("name a folder for the model that is found", param_hint="--output")
    options = groups.with_model(options, name)
    from echoembed import errors, plots

    # 1. Report everything that can be wrong before the model reads the first text.
    if options.layer is not None:
        raise errors.tune_layer_given(options.layer)
    if options.recipes_file is not None:
        raise typer.BadParameter("a search has the prompts of the table; leave it out", param_hint="--recipes-file")
    if options.dtype == "int8":
        raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16, to save the model")
    session.check_target(output, overwrite=overwrite, inputs=[texts, pairs, store, *session.inputs_of(options)])
    session.check_names(options, [None])
    from echoembed.texts import TextReader

    if str(texts) != "-" and not os.path.exists(texts):  # noqa: PTH110 (also of a name that no file can have)
        raise errors.file_unreadable(str(texts), "there is no such file")
    reader = TextReader(
        ["-" if str(texts) == "-" else texts],
        file_format=file_format,
        delimiter=delimiter,
        column=column,
        on_bad_text=on_bad_text,
    )
    read, judged = _sample([item.text for item in reader], most, seed), None if pairs is None else _pairs(pairs)
    session.report_skipped(reader)
    plots.figure("")  # fails now, rather than after minutes, if matplotlib is missing
    session.silence()
    # 2. Search.
    from echoembed import save
    from echoembed.evaluation.layers import LayerStore, default_folder
    from echoembed.model.save import whole_folder
    from echoembed.model.transformer import transformer_of
    from echoembed.tune import report
    from echoembed.tune.search import tune as search

    layer_store = LayerStore(store or default_folder())
    with out.kept(f"finished readings are kept in {layer_store.folder}, and the same command continues from there"):
        result = search(
            _loader(options),
            read,
            pairs=judged,
            most_cost=cost,
            store=layer_store,
            budget=options.budget,
            seed=seed,
            say=(lambda _: None) if quiet else out.note,
        )
    # 3. Save the model, the table and the picture.
    with whole_folder(output, overwrite=overwrite) as folder:
        save(result.model, folder, overwrite=True)
        (folder / "tune.json").write_text(json_.dumps(report.record(result), indent=1), encoding="utf-8")
        title = f"Score against cost: {transformer_of(result.model).name}"
        plots.save(report.picture(result, title), folder / "frontier")
    if json:
        out.print_json({**report.record(result), "folder": str(output)})
        return
    out.print_table(report.COLUMNS, report.rows(result), right=("cost", "score", "95 %"))
    for line in report.notes(result):
        out.note(line)
    out.print_line(str(output))


def _loader(options: groups.ModelOptions) -> Callable[[Recipe], SentenceTransformer]:
    """Return a function that loads the model that the options name, with a recipe, and always in the same dtype."""
    arguments = {field.name: getattr(options, field.name) for field in fields(options)}
    del arguments["recipes_file"], arguments["budget"]  # the recipe holds the budget

    def load(recipe: Recipe) -> SentenceTransformer:
        import echoembed
        from echoembed.model.transformer import transformer_of

        model = echoembed.load(recipe=recipe, overflow="ignore", **arguments)
        transformer = transformer_of(model)
        arguments["dtype"] = "int8" if transformer.int8 else transformer.model.dtype  # auto chooses once
        return model

    return load


def _sample(texts: list[str], most: int, seed: int) -> list[str]:
    """Return all texts, or a sample of at most ``most``."""
    import random

    return texts if len(texts) <= most else random.Random(seed).sample(texts, most)  # noqa: S311


def _pairs(path: Path) -> list[tuple[str, str, float]]:
    """Read judged pairs: two sentences and a score, or a label, in every row."""
    from echoembed.evaluation import rows

    sentences = {"sentence1": rows.GOOD_TEXT, "sentence2": rows.GOOD_TEXT}
    numbers = {"score": rows.NUMBER, "label": rows.NUMBER}
    read = rows.read_rows(path, {**sentences, **numbers}, optional=list(numbers))
    number = "label" if all("label" in row and "score" not in row for row in read) else "score"
    if any(number not in row for row in read):
        rows.read_rows(path, {**sentences, number: rows.NUMBER})  # names the row that has none
    return [(row["sentence1"], row["sentence2"], float(row[number])) for row in read]
