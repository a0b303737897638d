"""Small models under recipes, the texts that they embed, and what they read."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer

import echoembed
import tiny_models
from echoembed import Recipe

TEXTS = [
    "The cat sat on the mat.",
    "Rain",
    "The river carried its boats past the old town to the harbour, where nobody waited for them but the rain.",
    "She said that she would come back in the morning, and she did.",
    "\u65e5\u672c\u8a9e, na\u00efve and \U0001f642",
]
TWO = Recipe(
    name="two",
    query_template="{bos}Question, {instruction}: {text:pool}",
    document_template="{bos}Answer: {text:pool}",
    instruction="any",
)


def tiny(recipe: str | Recipe = "echo", family: str = "llama", **kwargs):
    return echoembed.load(tiny_models.folder(family), recipe=recipe, device="cpu", **kwargs)


def prompts_read(model: SentenceTransformer, run) -> list[str]:
    """What the language model is given while ``run`` runs, as text, in order."""
    read: list[str] = []
    first = model[0]

    def look(_module, _args, inputs):
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            read.append(first.tokenizer.decode(ids[mask.bool()]))

    handle = first.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return read
