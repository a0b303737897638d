"""``echoembed recipes``: the table of recipes, or one recipe with its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session

EPILOG = opt.examples(
    "echoembed recipes",
    "echoembed recipes echo",
    'echoembed recipes echo --text "A text of your own."',
    "echoembed recipes my-recipe --recipes-file my.toml --json",
)
WIDE_ENOUGH = 140
SAMPLE = "The cat sat on the mat."


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe, and its prompt for a text.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", "-t", help=f"The text for the prompt of NAME. Default: {SAMPLE!r}.")
    ] = None,
    json: opt.Json = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Use this model's tokenizer for NAME. Default: the bundled model's."),
    ] = None,
    recipes_file: Annotated[Path | None, typer.Option(help="TOML file with your own recipes, which are added.")] = None,
) -> None:
    """List the recipes, or show one recipe and its prompt for a text."""
    from echoembed import load_recipes
    from echoembed import recipes as table

    given = [option for option, value in (("--model", model), ("--text", text)) if value is not None]
    if name is None and given:
        raise typer.BadParameter("is for one recipe; add its NAME", param_hint=" and ".join(given))
    rows = {**table, **(load_recipes(recipes_file) if recipes_file else {})}
    if name is None and json:
        out.print_json({row.name: {**row.as_dict(), "fingerprint": row.fingerprint()} for row in rows.values()})
    elif name is None:
        columns = ["recipe", "reads", "pooling", "attention", "budget", "description"]
        cells = [
            [
                row.name,
                str(row.template("query").copies),
                row.pooling,
                row.attention,
                "context" if row.budget is None else str(row.budget),
                row.description,
            ]
            for row in rows.values()
        ]
        shown_columns = len(columns) if out.console().width >= WIDE_ENOUGH else len(columns) - 1
        out.print_table(columns[:shown_columns], [line[:shown_columns] for line in cells], right=["reads", "budget"])
    else:
        facts = session.shown_recipe(name, recipes_file, model, SAMPLE if text is None else text)
        if json:
            out.print_json(facts)
        else:
            out.print_facts(facts)
