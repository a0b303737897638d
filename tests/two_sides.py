"""A recipe whose two templates differ, so that a text on the wrong side shows; texts with line breaks."""

from pathlib import Path

import echoembed

TINY = Path(echoembed.__file__).parent / "tiny"
RECIPE = echoembed.Recipe(
    name="sides",
    query_template="{bos}Find what answers: {text}\nAgain: {text:pool}",
    document_template="{bos}Rewrite the paragraph: {text}\nRewritten: {text:pool}",
)
DOCUMENTS = ["A baker makes bread\nbefore dawn.\n\nIt is sold by noon.", "Stocks fell.", "The cat\tsat down."]
QUERY = "Who bakes\nbread?"
