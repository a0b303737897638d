"""Export for loaders that know nothing of us: the recipe's template becomes a rule of the tokenizer.

A tokenizer may put fixed tokens around every text, as BERT's puts [CLS] and [SEP]. The same rule can hold a whole
template, copies of the text among it, and truncation then cuts the text alone. So a recipe that pools the last token of
its prompt needs no code of ours: the folder is a plain language model with last-token pooling. Where queries and
documents have templates of their own, the folder holds the model once for each, under the library's router.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from echoembed import errors
from echoembed.integrations.stock_tokenizer import write_tokenizer
from echoembed.model.backbone import quiet
from echoembed.model.calibration import Calibration
from echoembed.model.moments import removes
from echoembed.model.probes import BOUND_TEXTS
from echoembed.model.save import CARD, whole_folder
from echoembed.model.transformer import EchoTransformer, transformer_of
from echoembed.model.weights import to_save
from echoembed.numerics import TOLERANCE
from echoembed.prompts.template import Kind

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# The settings and paths that every version of the library reads, and servers with it.
_POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_MODULES = "sentence_transformers.models"
_ROUTER = "0_Router"
_ODD_TEXTS = (
    " Two blanks  inside, one in front, one behind. ",
    'She asked: "Is it open?"',
    "First line.\n\nSecond line, with a tab:\t7 boxes.",
    "▁low Ġbar </s> <s> [SEP] <|im_end|>",
    "Two of them..",
    " ?",
    "long " * 2000,
)
_CARD = """# {name}, read with the recipe {recipe!r}, for any loader

A plain language model whose tokenizer puts the recipe's prompt around every text, with the state of the prompt's last
token as the vector. It needs no package but sentence-transformers, and brings no code:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
vectors = model.encode_document(["A text."])
```

{prompts}

A longer text is cut there; the prompt around it stays whole. What differs from echoembed: an empty text is embedded
rather than refused, and a prompt given to `encode` is put in front of the text{added}. llama.cpp does not read
`tokenizer.json`: it needs the prompt from you.
"""


def export_stock(model: SentenceTransformer, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a model as a folder that plain sentence-transformers reads, without this package and without remote code.

    Args:
        model: From ``load``; its recipe must pool the last token of the prompt, causally, at the last layer.
        folder: Where to; must not exist unless ``overwrite``.
        overwrite: Whether a folder that exists is replaced: an empty one, or one with a saved model.

    Returns:
        The folder. It has been loaded by the library alone, and its vectors of probe texts are those of ``model``.

    Raises:
        FileError: If the folder exists, or cannot be written.
        ModelError: If the recipe needs our code, the model is not from ``load``, or its weights are in int8.
    """
    transformer = transformer_of(model)
    if transformer.int8:
        raise errors.ModelError.bad_value("model", "a model in int8", "float32, bfloat16 or float16 to export it")
    _check(transformer)
    with quiet(bar=False), whole_folder(folder, overwrite=overwrite) as unfinished:
        # 1. The language model, once for each template.
        kinds = _kinds(transformer)
        places = {kind: unfinished / _ROUTER / kind if len(kinds) > 1 else unfinished for kind in kinds}
        for kind, place in places.items():
            place.mkdir(parents=True, exist_ok=True)
            to_save(transformer.model).save_pretrained(place)
            write_tokenizer(transformer, kind, place)
        # 2. The modules that follow it, and how they are chained.
        _write_modules(model, kinds, unfinished)
        # 3. Nobody gets it unless its vectors are ours.
        differing = _verify(model, transformer, unfinished)
        (unfinished / CARD).write_text(_card(transformer, kinds, differing), encoding="utf-8")
    return Path(folder).expanduser()


def _check(transformer: EchoTransformer) -> None:
    """Refuse a recipe that takes more than the last state of a prompt."""
    recipe = transformer.recipe
    reason = ""
    if recipe.beside:
        reason = "it puts the vectors of several prompts side by side, and a plain loader reads one"
    elif recipe.attention != "causal":
        reason = "it takes the causal mask away, and a plain loader would leave it on"
    elif recipe.looks_back:
        reason = "it changes which tokens see each other, and a plain loader does not"
    elif recipe.pooling != "last":
        reason = f"its pooling is {recipe.pooling!r} over a part of the prompt, and a plain loader pools all of it"
    elif transformer.cut:
        reason = "it pools a layer below the last, and a plain loader has the last alone"
    for kind in get_args(Kind):
        prompt = transformer.reader.render(["a b"], task=kind)[0]
        if not reason and not transformer.reader.renderers[kind].copies_alike():
            reason = "only some of its copies of the text follow a blank, and a tokenizer's rule repeats one copy"
        if not reason and prompt.span[1] != len(prompt.ids):
            reason = f"the token it pools is not the last one of the {kind} prompt"
    if reason:
        raise errors.export_impossible(recipe.name, "--stock", reason)


def _kinds(transformer: EchoTransformer) -> list[Kind]:
    """The kinds of text that need a tokenizer of their own; the query's serves both where the templates are one."""
    recipe = transformer.recipe
    return ["query"] if recipe.query_template == recipe.document_template else ["query", "document"]


def _write_modules(model: SentenceTransformer, kinds: list[Kind], folder: Path) -> None:
    first = {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.Transformer"}
    if len(kinds) > 1:
        first |= {"path": _ROUTER, "type": f"{_MODULES}.Router"}
        types = dict.fromkeys(kinds, f"{_MODULES}.Transformer")
        bare = "document" if model.default_prompt_name == "document" else "query"
        routes = {"types": types, "structure": {kind: [kind] for kind in kinds}, "parameters": {"default_route": bare}}
        _write(folder / _ROUTER / "router_config.json", routes)
    modules = [first]
    for place, module in enumerate(list(model)[1:], start=1):
        name = "Dense" if isinstance(module, Calibration) else type(module).__name__
        path = folder / f"{place}_{name}"
        path.mkdir()
        if isinstance(module, Calibration):
            _dense(module).save(str(path))
        elif name == "Pooling":
            modes = {f"pooling_mode_{mode}": mode == "lasttoken" for mode in _POOLINGS}
            width = transformer_of(model).get_embedding_dimension()
            _write(path / "config.json", {"word_embedding_dimension": width, **modes, "include_prompt": True})
        else:
            module.save(str(path))  # type: ignore[operator]
        modules.append({"idx": place, "name": str(place), "path": path.name, "type": f"{_MODULES}.{name}"})
    _write(folder / "modules.json", modules)
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": model.similarity_fn_name,
        "truncate_dim": model.truncate_dim,
    }
    _write(folder / "config_sentence_transformers.json", settings)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _dense(calibration: Calibration) -> Any:
    """The same map as the library's linear layer."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    width, out = calibration.width, calibration.get_embedding_dimension()
    shift_D = calibration.shift_D.cpu().double()
    turn_KD = torch.eye(width, dtype=torch.float64)
    if calibration.matrix_DK is not None:
        matrix_DK = calibration.matrix_DK.cpu().double()
        turn_KD = turn_KD - matrix_DK @ matrix_DK.T if removes(calibration.kind) else matrix_DK.T
    if calibration.scale_D is not None:
        turn_KD = turn_KD * calibration.scale_D.cpu().double()
    layer = Dense(width, out, activation_function=torch.nn.Identity())
    with torch.no_grad():
        layer.linear.weight.copy_(turn_KD)
        layer.linear.bias.copy_(-(turn_KD @ shift_D))
    return layer


def _verify(model: SentenceTransformer, transformer: EchoTransformer, folder: Path) -> list[str]:
    """Compare with the folder as the library alone loads it; returns the added tokens with which texts differ.

    Raises:
        ModelError: If ids or vectors are not ours.
    """
    from sentence_transformers import SentenceTransformer

    name, reader = transformer.recipe.name, replace(transformer.reader, overflow="ignore")
    stock = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": transformer.model.dtype})

    def differing(texts: list[str]) -> list[str]:
        different = set()
        for kind in get_args(Kind):
            for text, prompt in zip(texts, reader.render(texts, task=kind), strict=True):
                features = stock.preprocess([text], task=kind)
                if features["input_ids"][0].tolist() != list(prompt.ids):
                    different.add(text)
        return [text for text in texts if text in different]

    if wrong := differing([text for text in (*BOUND_TEXTS, *_ODD_TEXTS) if reader.can_read(text)]):
        raise errors.export_impossible(
            name, "--stock", f"its tokenizer cannot hold the template, seen with {errors.quoted(wrong[0], 40)}"
        )
    texts = [*BOUND_TEXTS[:4], *_ODD_TEXTS[:4]]
    ours_KND, stock_KND = (
        np.stack([side.encode(texts, task=kind, show_progress_bar=False) for kind in get_args(Kind)])
        for side in (model, stock)
    )
    distance = float(np.abs(ours_KND - stock_KND).max() / np.abs(ours_KND).max())
    if not distance <= TOLERANCE[transformer.model.dtype]:
        raise errors.export_impossible(name, "--stock", f"the library alone gives vectors that are {distance:.1e} away")
    assert transformer.tokenizer is not None
    added = [
        token
        for token, id_ in transformer.tokenizer.get_added_vocab().items()
        if id_ not in transformer.pieces.special_ids
    ]
    return [token for token in added if differing([f"Yes.{token}No.", f"a {token} b"])]


def _card(transformer: EchoTransformer, kinds: list[Kind], differing: list[str]) -> str:
    reader, lines = transformer.reader, []
    for kind in kinds:
        prompt = reader.render(["…"], task=kind)[0].text
        read = "Every text" if len(kinds) == 1 else f"A {kind}"
        lines.append(f"{read} of at most {reader.room(task=kind)} tokens is read as `{prompt!r}`.")
    added = f"; a text that spells {', '.join(differing)} has another vector" if differing else ""
    name = Path(transformer.name).name
    return _CARD.format(name=name, recipe=transformer.recipe.name, prompts="\n".join(lines), added=added)
