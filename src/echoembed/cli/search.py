"""``echoembed search``: the nearest texts of a corpus to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session
from echoembed.cli.groups import ModelOptions

PASSAGE = 200
EPILOG = opt.examples(
    'echoembed search notes-corpus "Who bakes bread before dawn?"',
    'echoembed search dump "interest rates" -k 20 --where "year > 2020" --hybrid --json',
)


def search(
    options: ModelOptions,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the corpus.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many texts to show.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="A filter on columns, as in SQL: \"year > 2020 AND lang = 'en'\"."),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Also find texts that share words with the query.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare the query with all vectors, even if there is an index.")
    ] = False,
    json: opt.Json = False,
    recipe: opt.Recipe = None,
    instruction: opt.Instruction = None,
) -> None:
    """Show the texts of a corpus that are nearest to a query.

    The query is read with the recipe's query template, by the model that built the corpus. Any other model is refused,
    because its vectors must not be compared with these. The first search builds an index beside the shards.
    """
    from echoembed.corpus import Corpus

    corpus = Corpus(folder)
    if recipe is not None or options != ModelOptions() or corpus.manifest.load is None:
        corpus = Corpus(folder, session.load_again(corpus.manifest, options, recipe))
    else:
        session.silence()
    hits = corpus.search(query, k, where=where, hybrid=hybrid, exact=exact, instruction=instruction)
    for remark in corpus.remarks:
        out.warn(f"{remark}.")
    if json:
        out.print_json([hit.as_dict() for hit in hits])
        return
    names = [column.name for column in corpus.manifest.keep]
    rows = [
        [f"{hit.score:.3f}", out.short(hit.id), *(out.short(str(hit.kept[name])) for name in names), _passage(hit.text)]
        for hit in hits
    ]
    score = "cosine" if hybrid else "score"  # with words, the order is not that of the cosines
    out.print_table([score, "id", *names, "passage"], rows, right=[score])


def _passage(text: str) -> str:
    return out.short(text, PASSAGE)
