"""``echoembed compare``: the same texts under several recipes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from echoembed.texts import Item

EPILOG = opt.examples(
    'echoembed compare "She loves to travel in summer, especially to cold places." '
    '"She loves to travel in summer, especially to hot places." "She loves to visit cold places in summer."',
    "echoembed compare sentences.txt -r classical -r echo -r echo-last",
    "echoembed compare sentences.txt --heatmap recipes.png",
)


def compare(
    texts: groups.TextOptions,
    model: groups.ModelOptions,
    encoding: groups.EncodeOptions,
    recipe: opt.Recipes = None,
    json: opt.Json = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(help="Draw a matrix per recipe: .png, .svg or .pdf. Needs matplotlib."),
    ] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """Show the similarity of each pair of texts under several recipes, side by side.

    Compare the order of the pairs, not the numbers: each recipe has its own range of cosines.
    """
    reader = texts.reader()
    names = list(dict.fromkeys(recipe or session.names_in(model.recipes_file) or ["classical", "echo"]))
    session.check_names(model, names)
    if heatmap is not None:
        from echoembed.cli.heatmap import check_heatmap

        check_heatmap(heatmap, overwrite=overwrite)
        reader.refuse_as_output(heatmap)
        session.refuse_inputs(heatmap, [model.recipes_file])
    items = session.few_texts(reader, least=2)
    matrices: dict[str, list[list[float]]] = {}
    by_recipe: dict[str, tuple[list[Item], NDArray[np.float32]]] = {}
    stamps: dict[str, dict[str, str]] = {}
    for name in names:
        loaded = session.load(model, name, on_overflow=texts.on_overflow)
        embedder = session.embedder(loaded, encoding)
        items, vectors_ND = by_recipe[name] = session.embed_few(embedder, items, reader, least=2)
        stamps[name] = embedder.stamp()._asdict()
        session.report_cuts(embedder, texts.on_overflow)
    for name, (embedded, vectors_ND) in by_recipe.items():  # a text that one recipe leaves out is not shown at all
        matrices[name] = session.cosines(vectors_ND[[item in items for item in embedded]])
    if json:
        recipes = {name: {"matrix": matrices[name], **stamps[name]} for name in names}
        out.print_json({"texts": [item.text for item in items], "recipes": recipes})
    else:
        out.print_table(["", "text"], [[str(n), out.short(item.text, 90)] for n, item in enumerate(items, start=1)])
        rows = [
            [f"{a + 1} and {b + 1}", *(f"{matrices[name][a][b]:.3f}" for name in names)]
            for a, b in combinations(range(len(items)), 2)
        ]
        out.print_table(["pair", *names], rows, right=names)
    if heatmap is not None:
        from echoembed.cli.heatmap import draw_heatmap

        draw_heatmap(heatmap, [item.text for item in items], matrices, overwrite=overwrite)
        out.note(f"drew {len(names)} recipes → {heatmap}")
    session.report_skipped(reader)
