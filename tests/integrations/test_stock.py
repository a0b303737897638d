"""A stock folder gives our vectors to whoever has sentence-transformers alone; what would not is refused by name."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import AddedToken

import echoembed
import tiny_models
from child import ENVIRONMENT, WITHOUT_US
from echoembed import errors
from echoembed.integrations.stock import export_stock
from echoembed.model.transformer import transformer_of
from two_sides import DOCUMENTS

TEXTS = [
    *DOCUMENTS,
    'He said: "Why?"',
    "ends here.",
    " ? ",
    "</s> and <pad> spelled",
    "long words " * 600,
    "東京, naïve 🚀",
]
CHILD = (
    WITHOUT_US
    + """
import numpy as np
from sentence_transformers import SentenceTransformer
assert importlib.util.find_spec("echoembed") is None
model = SentenceTransformer({folder!r}, device="cpu")
assert not any("echo" in type(module).__module__ for module in model)
texts = {texts!r}
np.savez({out!r}, documents=model.encode_document(texts), queries=model.encode_query(texts), bare=model.encode(texts))
"""
)
ONE_TEMPLATE = ("prompteol", "echo-last", "classical-last", "echo-one-word")
TWO_TEMPLATES = ("classical-finetuned", "echo-finetuned-last", "e5-mistral-7b")


def without_us(folder, tmp_path):
    """Vectors of TEXTS by a process that cannot import echoembed."""
    out = str(tmp_path / "out.npz")
    code = CHILD.format(folder=str(folder), texts=TEXTS, out=out)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning", "ignore::echoembed.TruncationWarning")
@pytest.mark.parametrize("recipe", [*ONE_TEMPLATE, *TWO_TEMPLATES])
def test_vectors_are_ours_where_our_package_is_missing(recipe, tmp_path):
    model = echoembed.load("tiny", recipe=replace(echoembed.recipes[recipe], checkpoint="", budget=40), device="cpu")
    folder = export_stock(model, tmp_path / "model")
    vectors = without_us(folder, tmp_path)
    np.testing.assert_allclose(vectors["documents"], model.encode_document(TEXTS), atol=2e-6)
    np.testing.assert_allclose(vectors["queries"], model.encode_query(TEXTS), atol=2e-6)
    np.testing.assert_allclose(vectors["bare"], model.encode(TEXTS), atol=2e-6)


@pytest.mark.parametrize("kind", ["mean", "z-score", "components-3", "z-components-3", "whiten-8"])
def test_a_calibration_becomes_a_layer_of_the_library(kind, tmp_path):
    recipe = replace(echoembed.recipes["prompteol"], calibration=kind, budget=40)
    texts = [f"{text} {number}" for number in range(20) for text in DOCUMENTS]
    model = echoembed.calibrate(echoembed.load("tiny", recipe=replace(recipe, calibration="none")), texts, kind)
    vectors = without_us(export_stock(model, tmp_path / "model"), tmp_path)
    np.testing.assert_allclose(vectors["documents"], model.encode_document(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("echo", "pooling is 'mean'"),
        ("classical-bidirectional", "causal mask"),
        ("echo-deep", "pooling is 'mean'"),
        ("metaeol", "several prompts"),
        (replace(echoembed.recipes["prompteol"], layer=2), "layer below the last"),
        (echoembed.Recipe(name="amid", query_template="{bos}{text:pool} ends.", pooling="last"), "not the last one"),
        (echoembed.Recipe(name="odd", query_template="{bos}{text} {text:pool}", pooling="last"), "follow a blank"),
    ],
    ids=["echo", "bidirectional", "echo-deep", "metaeol", "layer", "amid", "odd"],
)
def test_a_recipe_that_needs_our_code_is_refused_by_name(recipe, reason, tmp_path):
    model = echoembed.load("tiny", recipe=recipe)
    with pytest.raises(errors.ModelError, match="cannot be exported with --stock") as caught:
        export_stock(model, tmp_path / "model")
    assert reason in str(caught.value)
    assert transformer_of(model).recipe.name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_vectors_are_not_ours_is_never_left(tmp_path, monkeypatch):
    """A tokenizer that cannot hold the template, as if the library had changed under it."""
    model = echoembed.load("tiny", recipe="prompteol")
    monkeypatch.setattr("echoembed.integrations.stock_tokenizer._FINAL_MARK", r"never")
    with pytest.raises(errors.ModelError, match="cannot hold the template"):
        export_stock(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_cut_keeps_the_prompt_around_the_text(tmp_path):
    model = echoembed.load("tiny", recipe=replace(echoembed.recipes["echo-last"], budget=16), overflow="ignore")
    folder = export_stock(model, tmp_path / "model")
    from sentence_transformers import SentenceTransformer

    stock = SentenceTransformer(str(folder), device="cpu")
    text = "word " * 500
    ids = transformer_of(model).reader.render([text], task="document")[0].ids
    assert stock.preprocess([text])["input_ids"][0].tolist() == list(ids)
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == len(ids) - 16


# For this model type, transformers builds a tokenizer of its own from vocabulary and merges, without our rules.
REBUILT = ("qwen2",)
CAUSAL = ("llama", "qwen2", "qwen3", "gemma", "gpt2", "bloom", "opt")


@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning", "ignore::echoembed.TruncationWarning")
@pytest.mark.parametrize("recipe", ["prompteol", "echo-last", "e5-mistral-7b"])
@pytest.mark.parametrize("family", CAUSAL)
def test_every_kind_of_tokenizer_holds_the_template_or_is_refused(family, recipe, tmp_path):
    from sentence_transformers import SentenceTransformer

    chosen = replace(echoembed.recipes[recipe], checkpoint="", budget=24)
    model = echoembed.load(str(tiny_models.folder(family)), recipe=chosen, device="cpu")
    if family in REBUILT:
        with pytest.raises(errors.ModelError, match="cannot hold the template"):
            export_stock(model, tmp_path / "model")
        return
    stock = SentenceTransformer(str(export_stock(model, tmp_path / "model")), device="cpu")
    texts = [text for text in TEXTS if transformer_of(model).reader.can_read(text)]
    for kind in ("query", "document"):
        ours, theirs = (side.encode(texts, task=kind) for side in (model, stock))
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_the_card_names_added_tokens_that_the_folder_reads_otherwise(tmp_path):
    """An added token ends what stands before it: the full stop there is taken off, which ours leaves."""
    from transformers import AutoTokenizer

    source = tiny_models.copy(tiny_models.folder("llama"), tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([AddedToken("<box>", normalized=False)])
    tokenizer.save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    model = echoembed.load(str(source), recipe="prompteol")
    assert config
    assert "<box>" in (export_stock(model, tmp_path / "model") / "README.md").read_text()
