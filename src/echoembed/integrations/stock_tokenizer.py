"""A recipe's template as a rule of the tokenizer: what is done to a text, and which tokens stand around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from echoembed.model.transformer import EchoTransformer
    from echoembed.prompts.template import Kind

# A final full stop or question mark that follows more than blanks: ``prompts.text.prepare`` takes it off for PromptEOL.
_FINAL_MARK = r"\S\s*\K[.?]\z"


def write_tokenizer(transformer: EchoTransformer, kind: Kind, folder: Path) -> None:
    """Write a tokenizer that makes of a text what the recipe reads of it, and the length at which it cuts texts.

    Args:
        transformer: The model and its recipe.
        kind: Which of its templates.
        folder: Where to; it exists.
    """
    from transformers import PreTrainedTokenizerFast

    backend, original = _with_template(transformer, kind), transformer.tokenizer
    assert original is not None  # every text model has one
    names = {name: str(token) for name, token in original.special_tokens_map.items() if isinstance(token, str)}
    names["pad_token"] = transformer.pieces.token(transformer.pad_id)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        split_special_tokens=True,  # a text that spells </s> stays text
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **names,
    )
    limit = _limit(transformer, kind)
    if limit is not None:
        tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)
    settings = {"max_seq_length": limit, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _limit(transformer: EchoTransformer, kind: Kind) -> int | None:
    """What truncation must be told: the fixed tokens and one copy of the text; copies are made after it."""
    room = transformer.reader.room(task=kind)
    layout = transformer.reader.renderers[kind].layout(transformer.reader.instruction)
    return None if room is None else room + sum(len(ids) for ids in layout if ids is not None)


def _with_template(transformer: EchoTransformer, kind: Kind) -> Tokenizer:
    """The tokenizer with the template around every text."""
    from tokenizers import Regex, Tokenizer, normalizers, processors

    reader = transformer.reader
    renderer = reader.renderers[kind]
    blank = renderer.blank_before_text()
    if blank is None:  # the text comes first: the tokenizer's own habits at its edge hold
        assert transformer.tokenizer is not None
        tokenizer = Tokenizer.from_str(transformer.tokenizer.backend_tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
    else:
        tokenizer = transformer.pieces.backend()
    # 1. What is done to the text itself.
    steps: list[Any] = []
    if transformer.recipe.preparation == "prompteol":
        steps += [normalizers.Replace(Regex(_FINAL_MARK), ""), normalizers.Replace('"', "'")]
    if blank:
        steps.append(normalizers.Prepend(" "))
    if steps:
        existing = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([*steps, *existing])
    # 2. What stands around it, by ids: names of the parts stand for them.
    layout = renderer.layout(reader.instruction)
    parts = {f"template_{place}": ids for place, ids in enumerate(layout) if ids}
    order = ["$A" if ids is None else f"template_{place}" for place, ids in enumerate(layout) if ids != ()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(order),
        pair="$A $B",
        special_tokens=[
            {"id": name, "ids": list(ids), "tokens": [transformer.pieces.token(id_) for id_ in ids]}
            for name, ids in parts.items()
        ],
    )
    return tokenizer
