"""``echoembed similarity``: every text against every other."""

from __future__ import annotations

from echoembed.cli import options as opt
from echoembed.cli import output as out
from echoembed.cli import session

EPILOG = opt.examples(
    'echoembed similarity "A cat sat." "A feline rested." "Stocks fell."',
    "echoembed similarity sentences.txt --recipe classical",
    "echoembed similarity sentences.txt --json",
)


def similarity(
    inputs: opt.Inputs = None,
    text: opt.Texts = None,
    json: opt.Json = False,
    format: opt.Format = None,
    column: opt.Column = "text",
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
    """Show how similar texts are: the cosine of each pair, from -1 to 1.

    Cosines are for comparing pairs under one model and recipe; by themselves they say little.
    """
    from echoembed.texts import Embedder, TextReader

    reader = TextReader(inputs or [], texts=text or [], format=format, column=column, on_bad_text=on_bad_text)
    items = session.few_texts(reader)
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
    embedder = Embedder(model=loaded, kind=kind, instruction=instruction, batch_size=batch_size)
    items, vectors_ND = session.embed_few(embedder, items, reader)
    matrix = session.cosines(vectors_ND)
    if json:
        out.print_json({"texts": [item.text for item in items], "matrix": matrix, **embedder.stamp()._asdict()})
    else:
        numbers = [str(number) for number in range(1, len(items) + 1)]
        rows = [
            [number, out.short(item.text), *(f"{value:.3f}" for value in row)]
            for number, item, row in zip(numbers, items, matrix, strict=True)
        ]
        out.print_table(["", "text", *numbers], rows, right=numbers)
    session.report_skipped(reader)
    session.report_cuts(embedder, on_overflow)
