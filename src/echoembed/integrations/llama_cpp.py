"""Notes for llama.cpp: what to run for a recipe, what to send, what comes back, and what llama.cpp cannot do.

llama.cpp reads weights from a GGUF file and pools in one of four ways, all over a whole prompt. It knows no recipe: the
prompt must be rendered here and sent as token ids. What it can pool of it depends on the recipe.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from echoembed import errors
from echoembed.model.save import CARD, whole_folder
from echoembed.model.weights import sketch
from echoembed.recipe import recipes
from echoembed.sources.files import ADAPTER_CONFIG

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.model.transformer import EchoTransformer

EXAMPLE = "A baker makes bread before dawn."
_STEP = 512  # llama.cpp's own batch; sizes are multiples of it
_HEAD = """# {model}, read with the recipe {recipe!r}, in llama.cpp

{file}

    llama-server -m {path} --embedding --pooling {pooling} --parallel 1 -c {size} -b {size} -ub {size}

`--embedding` serves states. `-ub {size}` takes a prompt of the whole budget at once; llama.cpp refuses a longer one
rather than cutting it. Send the token ids of the rendered prompt, never the text: llama.cpp would put its own
tokens around it, and read a text that spells a special token as that token.

    curl {url}/embeddings -H 'Content-Type: application/json' -d @request.json

`request.json` is the prompt of {example!r}, `vector.json` its vector by echoembed. Weights in
fewer bits and llama.cpp's own rounding move a vector a little; at a cosine below 0.99 something is wrong.

"""
_LAST = """The recipe pools the prompt's last token, and so does `--pooling last`: `embedding` of the answer has one
row, of length 1, which is the vector.
"""
_CHANGED = """The recipe pools the last token, and then the vector is {how}, which llama.cpp does not do. With
`--pooling none` it gives the state of every token, and echoembed does both.
"""
_SPAN = """The recipe pools a part of the prompt, which no `--pooling` of llama.cpp does: `mean` would take the template
and the first reading too, and give other vectors. With `--pooling none`, `embedding` of the answer has a row for
each token; of the example, rows {start} to {stop} are pooled, counted from 0.
"""
_PYTHON = """
From Python, echoembed renders, pools and calibrates, whatever the recipe pools, and refuses a server whose states are
of another model. Start the server with `--pooling none`:

```python
{imports}import echoembed
from echoembed.integrations.remote import RemoteModel, TokenStates

{load}
remote = RemoteModel(model, TokenStates(url="{url}"))
vectors = remote.encode(["A text."], task="document")
```

Beyond llama.cpp: recipes that pool another layer than the last, or take the causal mask away.
"""
_ROW = "model = echoembed.load({name!r}, recipe={recipe!r})"
_FILE = """# The recipe is not one of echoembed's table.
recipe = echoembed.Recipe(**json.loads(Path("recipe.json").read_text(encoding="utf-8")))
model = echoembed.load({name!r}, recipe=recipe)"""
_SAVED = """# Where echoembed.save has written the model: its vectors are {how}, which no name says.
model = echoembed.load("SAVED_FOLDER")"""
_URL = "http://127.0.0.1:8080"


def write_notes(model: SentenceTransformer, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a folder that says how llama.cpp serves a model under its recipe: README.md, a request and its vector.

    Args:
        model: From ``load``.
        folder: Where to; must not exist unless ``overwrite``.
        overwrite: Whether a folder that exists is replaced: an empty one, or one with a saved model.

    Returns:
        The folder.

    Raises:
        FileError: If the folder exists, or cannot be written.
        ModelError: If llama.cpp cannot give the states that the recipe pools, no GGUF file has the model's weights, or
            the model is not from ``load``.
    """
    from echoembed.model.describe import describe
    from echoembed.model.transformer import transformer_of

    transformer, facts = transformer_of(model), describe(model)
    recipe = transformer.recipe
    faults = {
        "reads several prompts": bool(recipe.beside),
        "takes the causal mask away": recipe.attention != "causal",
        "lets tokens see or weigh later ones": recipe.looks_back,
        "weighs tokens by their frequency": recipe.counts_tokens,
        "pools a layer below the last": transformer.cut,
    }
    reason = next((fault for fault, is_so in faults.items() if is_so), "")
    if reason:
        raise errors.export_impossible(recipe.name, "--gguf", f"it {reason}, and llama.cpp does not")
    if _has_weights_of_its_own(transformer):
        reason = "an adapter or training has changed the model's weights, and no GGUF file has these"
        raise errors.export_impossible(recipe.name, "--gguf", reason)
    # 1. What llama.cpp can do of the recipe.
    prompt = transformer.reader.render([EXAMPLE], task="document")[0]
    how = _changed(model)
    pools_last = recipe.pooling == "last" and prompt.span[1] == len(prompt.ids) and not how
    longest = max(
        sum(len(ids) if ids is not None else room for ids in renderer.layout(transformer.reader.instruction))
        for kind, renderer in transformer.reader.renderers.items()
        for room in [transformer.reader.room(task=kind) or _STEP]
    )
    size = -(-longest // _STEP) * _STEP
    # 2. The page.
    file = facts.get("file")
    name = Path(str(file)).name if file else "MODEL.gguf"
    if file:
        source = f"The weights are `{name}` (SHA-256 `{facts['file_sha256']}`), the file that echoembed itself reads."
    else:
        source = (
            "There is no GGUF file of these weights here. `convert_hf_to_gguf.py FOLDER --outtype f32` of llama.cpp\n"
            "makes one of the model's own folder, not of one that echoembed has saved."
        )
    page = _HEAD.format(
        model=Path(transformer.name).name,
        recipe=recipe.name,
        file=source,
        path=name,
        pooling="last" if pools_last else "none",
        size=size,
        url=_URL,
        example=EXAMPLE,
    )
    if pools_last:
        page += _LAST
    elif recipe.pooling == "last" and how:
        page += _CHANGED.format(how=how)
    else:
        page += _SPAN.format(start=prompt.span[0], stop=prompt.span[1] - 1)
    # 3. How the very same model is loaded.
    in_file = not how and recipes.get(recipe.name) != recipe
    load = _SAVED if how else _FILE if in_file else _ROW
    place = transformer.base.name if transformer.base else transformer.name  # a saved model has its source's name
    page += _PYTHON.format(
        imports="import json\nfrom pathlib import Path\n\n" if in_file else "",
        load=load.format(name=place, recipe=recipe.name, how=how),
        url=_URL,
    )
    # 4. The folder, whole.
    vector_D = model.encode_document([EXAMPLE], show_progress_bar=False)[0]
    with whole_folder(folder, overwrite=overwrite) as unfinished:
        request = {"input": [list(prompt.ids)], "encoding_format": "float"}
        parts = {"request.json": request, "vector.json": [float(value) for value in vector_D]}
        parts |= {"recipe.json": recipe.as_dict()} if in_file else {}
        for part, content in parts.items():
            (unfinished / part).write_text(json.dumps(content) + "\n", encoding="utf-8")
        (unfinished / CARD).write_text(page, encoding="utf-8")
    return Path(folder).expanduser()


def _has_weights_of_its_own(transformer: EchoTransformer) -> bool:
    """Return whether the weights are others than those of the files that the model was loaded from."""
    merged = bool(transformer.adapter) or (transformer.base is not None and bool(transformer.base.adapters))
    merged = merged or (transformer.weights_folder / ADAPTER_CONFIG).is_file()
    return merged or not (transformer.int8 or sketch(transformer.model) == transformer.sketch)


def _changed(model: SentenceTransformer) -> str:
    """Say what is done to a pooled vector, apart from scaling it to length 1; empty for nothing."""
    from echoembed.model.calibration import Calibration

    calibrated = any(isinstance(module, Calibration) for module in model)
    cut = "" if model.truncate_dim is None else f"cut to {model.truncate_dim} dimensions"
    return " and ".join(filter(None, ("calibrated" * calibrated, cut)))
