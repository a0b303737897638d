"""The options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_MODEL = "Model"
_READING = "Reading texts"
_COMPUTING = "Computing"
Engine = Literal["packed", "padded"]

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT|FILE|-...",
        help="Texts; files (.txt, .jsonl, .csv and .tsv, also as .gz, and .parquet); or - for standard input.",
    ),
]
Texts = Annotated[
    list[str] | None, typer.Option("--text", "-t", help="A text, whatever it looks like. May be repeated.")
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name on the Hugging Face hub, folder, GGUF file, or tiny, the bundled model. Default: the recipe's "
        "checkpoint, else smollm2-135m.",
        rich_help_panel=_MODEL,
    ),
]
ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help="The model, as --model names it.")]
Adapter = Annotated[
    str | None,
    typer.Option(
        help="Adapter from 'echoembed train': a folder, a name on the hub, tiny-echo or smollm2-echo. Loads its base "
        "model too.",
        rich_help_panel=_MODEL,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Row of 'echoembed recipes'. Default: the recipe saved with the model, else echo.",
        rich_help_panel=_MODEL,
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Row of 'echoembed recipes'; repeat it. Default: all of --recipes-file, else classical and echo.",
        rich_help_panel=_MODEL,
    ),
]
RecipesFile = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with your own recipes, for --recipe; if it has only one, that is used by default.",
        rich_help_panel=_MODEL,
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel=_MODEL)]
Layer = Annotated[
    int | None, typer.Option(help="Pool this layer instead of the recipe's; -1 is the last.", rich_help_panel=_MODEL)
]
Budget = Annotated[
    int | None,
    typer.Option(help="Most tokens of text in each copy, instead of the recipe's budget.", rich_help_panel=_MODEL),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1 or mps. Default: a GPU if there is one.", rich_help_panel=_COMPUTING),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8"] | None,
    typer.Option(
        help="Dtype of the weights. For many texts on a CPU, choose auto: the fastest dtype whose vectors prove close"
        " to float32's. Default: float32 on a CPU, else as saved.",
        rich_help_panel=_COMPUTING,
    ),
]
EngineOption = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        help="packed computes no padding; padded is the plain forward. Default: packed, if it proves equal on this "
        "model.",
        rich_help_panel=_COMPUTING,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="A text's vector has the same bits alone, in any batch and in any order; slower.",
        rich_help_panel=_COMPUTING,
    ),
]

Kind = Annotated[
    Literal["query", "document"], typer.Option(help="The recipe's template to use.", rich_help_panel=_MODEL)
]
Instruction = Annotated[
    str | None,
    typer.Option(
        help="The instruction for the recipe's template, where the template has a place for one.",
        rich_help_panel=_MODEL,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1,
        help="Texts in a padded forward; the packed engine does not use this number.",
        rich_help_panel=_COMPUTING,
    ),
]
PaddedTexts = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Texts in a padded forward; the packed engine uses --pack-tokens instead. Default: 32.",
        rich_help_panel=_COMPUTING,
    ),
]
PackTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most tokens in a forward of the packed engine. Fewer take less memory; more may be faster on a GPU. "
        "Default: 256 to 2,048 on a CPU, by the model's width; 16,384 on a GPU.",
        rich_help_panel=_COMPUTING,
    ),
]
OnOverflow = Annotated[
    Literal["warn", "error", "ignore"],
    typer.Option(help="What to do with a text over the budget; all but error cut it.", rich_help_panel=_READING),
]

Format = Annotated[
    Literal["txt", "jsonl", "csv", "tsv", "parquet"] | None,
    typer.Option(
        "--format",
        help="Format of all inputs. Default: by suffix; standard input is txt, one text per line.",
        rich_help_panel=_READING,
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        help="Separator of columns in .csv and .tsv: a character, or tab. Default: a comma; in .tsv, a tab.",
        rich_help_panel=_READING,
    ),
]
Column = Annotated[str, typer.Option(help="Column, or JSON key, that holds the text.", rich_help_panel=_READING)]
IdColumn = Annotated[
    str | None,
    typer.Option(
        help="Column, or JSON key, that holds the id. Default: texts are numbered from 0.", rich_help_panel=_READING
    ),
]
OnBadText = Annotated[
    Literal["error", "skip"],
    typer.Option(help="What to do with a text that cannot be embedded, such as a blank one.", rich_help_panel=_READING),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
OverwriteModel = Annotated[bool, typer.Option("--overwrite", help="Replace a folder in which a model was saved.")]


def examples(*lines: str) -> str:
    """Return the end of a help page: commands to copy."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]{line}[/cyan]" for line in lines)])
