"""``echoembed similarity``: compare every text with every other."""

from __future__ import annotations

from echoembed.cli import groups, session
from echoembed.cli import options as opt
from echoembed.cli import output as out

EPILOG = opt.examples(
    'echoembed similarity "A cat sat." "A feline rested." "Stocks fell."',
    "echoembed similarity sentences.txt --recipe classical",
    "echoembed similarity sentences.txt --json",
)


def similarity(
    texts: groups.TextOptions,
    model: groups.ModelOptions,
    encoding: groups.EncodeOptions,
    recipe: opt.Recipe = None,
    json: opt.Json = False,
) -> None:
    """Show how similar texts are: the cosine of each pair, from -1 to 1.

    Compare cosines only with others of the same model and recipe: a single cosine says little.
    """
    reader = texts.reader()
    session.check_names(model, [recipe])
    items = session.few_texts(reader)
    loaded = session.load(model, recipe, on_overflow=texts.on_overflow)
    embedder = session.embedder(loaded, encoding)
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
    session.report_cuts(embedder, texts.on_overflow)
