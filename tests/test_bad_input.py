"""Whatever is wrong, it is refused by name in one line that says what to do, and no vector comes of it."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

import echoembed
from echoembed import Recipe
from echoembed.errors import (
    EchoembedError,
    FileError,
    ModelError,
    OverBudgetError,
    RecipeError,
    TemplateError,
    TextError,
)
from echoembed.model.transformer import EchoTransformer

TINY = Path(echoembed.__file__).parent / "tiny"
TEXT = "a small boat on a wide river"
INSTRUCTED = Recipe(
    name="instructed", query_template="{bos}{instruction} {text} {text:pool}", instruction="Read twice:"
)


@cache
def model(recipe: str | Recipe | None = None) -> SentenceTransformer:
    return echoembed.load(TINY, device="cpu", recipe=recipe)


@cache
def weights() -> dict[str, torch.Tensor]:
    return load_file(TINY / "model.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return echoembed.save(model(), tmp_path_factory.mktemp("saved") / "model")


def linked(source: Path, target: Path) -> Path:
    """A copy of a folder whose files are links, so that one of them can be replaced."""
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).symlink_to(path)
    return target


def replaced(folder: Path, file: str, content: bytes | str | dict | list | None) -> Path:
    """The folder with one file written anew, or without it."""
    (folder / file).unlink(missing_ok=True)
    if isinstance(content, (dict, list)):
        content = json.dumps(content)
    if content is not None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def configured(folder: Path, **changes: object) -> Path:
    return replaced(folder, "config.json", {**json.loads((folder / "config.json").read_text()), **changes})


def weighted(folder: Path, **changes: torch.Tensor | None) -> Path:
    """The folder with some tensors changed, or left out."""
    tensors = {name: tensor for name, tensor in {**weights(), **changes}.items() if tensor is not None}
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refused(call: Callable[[], object], kind: type[EchoembedError], item: str, remedy: str) -> str:
    """The call raises an error of that class, in one line that names the item and says what to do."""
    with pytest.raises(EchoembedError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert item in message
    assert remedy in message
    return message


# Texts: what is given to encode, and what the message says of it

LEAVE_OUT = "leave it out"
TEXTS = [
    ("", "The text is empty", LEAVE_OUT),
    (" ", "The text is blank (' ')", LEAVE_OUT),
    ("\n\t \u3000", r"The text is blank ('\n\t", LEAVE_OUT),
    (None, "The text is None, of type NoneType", "must be a str: convert it"),
    (5, "The text is 5, of type int", "must be a str: convert it"),
    (float("nan"), "The text is nan, of type float", "must be a str: convert it"),
    (b"bytes", "The text is b'bytes', of type bytes", "must be a str: decode it first"),
    (bytearray(b"\n"), r"The text is bytearray(b'\n'), of type bytearray", "must be a str: decode it first"),
    (["a", "b"], "The text is of type list", "pass list(texts), each text by itself"),
    (("a", "b"), "The text is of type tuple", "pass list(texts), each text by itself"),
    ({"text": "a"}, "The text is of type dict", "give the value that holds the text"),
    (True, "The text is True, of type bool", "must be a str: convert it"),
    (np.nan, "of type float", "must be a str: convert it"),
    (Path("a"), "The text is PosixPath('a'), of type PosixPath", "must be a str: convert it"),
    ("half \ud83d", "a lone surrogate, U+D83D, at position 5", "Decode it correctly"),
    ("\udc00", "a lone surrogate, U+DC00, at position 0", "Decode it correctly"),
    ("a\x00b", "a control character, U+0000, at position 1", "remove the character"),
    ("ring \x07", "a control character, U+0007, at position 5", "remove the character"),
    ("\x1b[31mred", "a control character, U+001B, at position 0", "remove the character"),
    ("\x7f", "a control character, U+007F, at position 0", "remove the character"),
    ("caf\x9d", "a control character, U+009D, at position 3", "remove the character"),
]


@pytest.mark.parametrize(("text", "item", "remedy"), TEXTS, ids=[ascii(text)[:30] for text, *_ in TEXTS])
def test_a_text_that_cannot_be_is_refused_before_anything_runs(text, item, remedy, monkeypatch):
    monkeypatch.setattr(EchoTransformer, "forward", lambda *_: pytest.fail("the model ran"))
    for call in (
        lambda: model().encode([text]),
        lambda: model().encode([TEXT, text, TEXT]),
        lambda: model().encode_query([TEXT, text]),
        lambda: model().encode_document([text]),
        lambda: echoembed.render(model(), text),
        lambda: echoembed.check_text(text),
    ):
        refused(call, TextError, item, remedy)
    if not isinstance(text, (list, tuple)):  # which are batches
        refused(lambda: model().encode(text), TextError, item, remedy)


# The public functions: id, call, error class, item, remedy

ENCODE = [
    ("task", lambda: model().encode(TEXT, task="foo"), TextError, "Got task 'foo'", "Allowed: 'query' and 'document'"),
    ("task list", lambda: model().encode(TEXT, task=["query"]), TextError, "Got task ['query']", "Leave it out"),
    (
        "prompt",
        lambda: model().encode(TEXT, prompt="Find:"),
        TextError,
        "the instruction 'Find:'",
        "Leave it out, or use",
    ),
    ("prompt int", lambda: model(INSTRUCTED).encode(TEXT, prompt=5), TextError, "The instruction is 5", "convert it"),
    ("prompt NUL", lambda: model(INSTRUCTED).encode(TEXT, prompt="\0"), TextError, "U+0000", "remove the character"),
    ("prompt blank", lambda: model(INSTRUCTED).encode(TEXT, prompt=" "), TextError, "instruction is blank", LEAVE_OUT),
    (
        "prompt too long",
        lambda: model(INSTRUCTED).encode(TEXT, prompt="find it " * 600),
        TextError,
        "of a context of 1024, which leaves no room for the text",
        "Shorten the instruction, or choose",
    ),
    (
        "library settings",
        lambda: model().encode(TEXT, processing_kwargs={"text": {"max_length": 3}}),
        ModelError,
        "Got processing_kwargs",
        "recipes say what is read",
    ),
    (
        "render kind",
        lambda: echoembed.render(model(), TEXT, kind="foo"),
        TextError,
        "Got task 'foo'",
        "Allowed: 'query'",
    ),
    (
        "render instruction",
        lambda: echoembed.render(model(), TEXT, instruction="Find:"),
        TextError,
        "Recipe 'echo' has no {instruction} slot in its query template",
        "Leave it out, or use",
    ),
    ("render no model", lambda: echoembed.render("tiny", TEXT), ModelError, "Got model = 'tiny'", "echoembed.load"),
    ("fingerprint no model", lambda: echoembed.fingerprint(None), ModelError, "Got model = None", "echoembed.load"),
    ("describe no model", lambda: echoembed.describe(5), ModelError, "Got model = 5", "echoembed.load"),
    (
        "describe another's model",
        lambda: echoembed.describe(SentenceTransformer(modules=[torch.nn.Identity()])),
        ModelError,
        "Got model = SentenceTransformer(",
        "echoembed.load",
    ),
]
LOAD = [
    ("recipe near", {"recipe": "ehco"}, RecipeError, "There is no recipe 'ehco'", "Did you mean 'echo'"),
    ("recipe far", {"recipe": "zzzz"}, RecipeError, "There is no recipe 'zzzz'", "List them with 'echoembed recipes'"),
    ("recipe empty", {"recipe": ""}, RecipeError, "There is no recipe ''", "List them"),
    ("recipe number", {"recipe": 5}, RecipeError, "There is no recipe 5", "pass an echoembed.Recipe"),
    (
        "recipe dict",
        {"recipe": {"name": "echo"}},
        RecipeError,
        "There is no recipe {'name'",
        "pass an echoembed.Recipe",
    ),
    ("dtype", {"dtype": "float8"}, ModelError, "Got dtype = 'float8'", "Allowed: float32, bfloat16, float16"),
    ("dtype int8", {"dtype": torch.int8}, ModelError, "Got dtype = torch.int8", "Allowed: float32"),
    ("dtype number", {"dtype": 16}, ModelError, "Got dtype = 16", "Change it"),
    ("device", {"device": "gpu"}, ModelError, "Got device = 'gpu'", "None for the best there is"),
    ("device absent", {"device": "cuda:99"}, ModelError, "Got device = 'cuda:99'", "such as cpu"),
    ("device number", {"device": 5.5}, ModelError, "Got device = 5.5", "such as cpu"),
    ("layer high", {"layer": 7}, ModelError, "has 6 layers, but layer 7 was asked for", "Allowed: 0 (the token"),
    ("layer low", {"layer": -8}, ModelError, "has 6 layers, but layer -8 was asked for", "or -1 (the last) to -7"),
    ("layer word", {"layer": "last"}, RecipeError, "layer = 'last'", "a whole number, -1 for the last layer"),
    ("layer float", {"layer": 1.0}, RecipeError, "layer = 1.0", "Change that field"),
    ("budget 0", {"budget": 0}, ModelError, "budget = 0", "a whole number of tokens above 0"),
    ("budget -1", {"budget": -1}, ModelError, "budget = -1", "a whole number of tokens above 0"),
    ("budget word", {"budget": "x"}, ModelError, "budget = 'x'", "None: the recipe's"),
    ("revision", {"revision": "v1"}, ModelError, "Got revision 'v1' for 'tiny'", "Leave it out"),
    ("no model's name", {"model": 5}, ModelError, "5 is not a model's name", "Correct the name"),
    ("empty name", {"model": ""}, ModelError, "'' is not a model's name", "Correct the name"),
    ("list of names", {"model": ["a"]}, ModelError, "['a'] is not a model's name", "Correct the name"),
    ("name with NUL", {"model": "a\0b"}, ModelError, r"'a\x00b' is not a model's name", "Correct the name"),
    ("name with blank", {"model": "a b/c", "local_files_only": True}, ModelError, "'a b/c' is not", "Correct the name"),
    ("missing folder", {"model": "./no-such"}, ModelError, "The folder './no-such' does not exist", "Check the path"),
    ("missing path", {"model": Path("no-such")}, ModelError, "The folder 'no-such' does not exist", "Check the path"),
    ("file", {"model": __file__}, ModelError, "test_bad_input.py' is a file", "Give the folder that holds them"),
    (
        "not in the cache",
        {"model": "no-such-org/no-such-model", "local_files_only": True},
        ModelError,
        "'no-such-org/no-such-model' is not in the cache",
        "Load it once without local_files_only",
    ),
    (
        "recipe that wants a special token for text",
        {"recipe": Recipe(name="x", query_template="Say </s> {text:pool}")},
        TemplateError,
        "spells the special token '</s>' as text at position 4",
        "Write {bos} or {eos}",
    ),
    (
        "template longer than the context",
        {"recipe": Recipe(name="x", query_template="say it " * 600 + "{text:pool}")},
        TextError,
        "of a context of 1024, which leaves no room",
        "Shorten the template, or choose a model with a longer context",
    ),
]


@pytest.mark.parametrize(("call", "kind", "item", "remedy"), [r[1:] for r in ENCODE], ids=[r[0] for r in ENCODE])
def test_a_call_that_cannot_be_is_refused(call, kind, item, remedy):
    refused(call, kind, item, remedy)


@pytest.mark.parametrize(("options", "kind", "item", "remedy"), [r[1:] for r in LOAD], ids=[r[0] for r in LOAD])
def test_a_model_that_is_asked_for_wrongly_is_refused(options, kind, item, remedy):
    refused(lambda: echoembed.load(**{"model": "tiny", "device": "cpu", **options}), kind, item, remedy)


def test_settings_of_a_loaded_model_are_checked_too():
    own = echoembed.load("tiny", device="cpu")
    for value in (0, -1, "many", 2.5):
        refused(
            lambda value=value: setattr(own, "max_seq_length", value), ModelError, f"= {value!r}", "above 0, or None"
        )
    own.max_seq_length = 10
    refused(lambda: own.encode(TEXT), TextError, "of a context of 10", "Choose a recipe that reads the text once")


# Folders: id, what is done to a whole model's folder, item, remedy

FETCH = "Fix what the reason names, or choose another"
ANOTHER_KIND = "Choose a language model such as a Llama"
NAN, LAYER = float("nan"), "model.layers.3.mlp.up_proj.weight"
FOLDERS = [
    ("no config", lambda d: replaced(d, "config.json", None), "has no config.json", "Give the folder or model"),
    ("config no JSON", lambda d: replaced(d, "config.json", "{nonsense"), "config.json' is broken", "Copy or download"),
    ("config a list", lambda d: replaced(d, "config.json", [1]), "it holds a list, not a dict", "Copy or download"),
    (
        "config empty",
        lambda d: replaced(d, "config.json", {}),
        "cannot be loaded: 'ValueError: Unrecognized model",
        FETCH,
    ),
    ("config unknown", lambda d: configured(d, model_type="frobnicator"), "model type `frobnicator`", FETCH),
    ("config of a wrong type", lambda d: configured(d, hidden_size="big"), "expected int, got str", FETCH),
    ("config that contradicts", lambda d: configured(d, num_attention_heads=3), "not a multiple", FETCH),
    ("config of another size", lambda d: configured(d, hidden_size=128), "would be of shape", "Use the config.json"),
    (
        "config with more layers",
        lambda d: configured(d, num_hidden_layers=7),
        "lacks 9 of its weights (layers.6",
        "fetch",
    ),
    ("quantised", lambda d: configured(d, quantization_config={"quant_method": "gptq", "bits": 4}), "GPTQ", FETCH),
    *(
        (kind, lambda d, kind=kind: replaced(d, "config.json", {"model_type": kind}), f"of type {kind!r}", ANOTHER_KIND)
        for kind in ("vit", "clip", "t5", "whisper", "bart", "wav2vec2")
    ),
    (
        "BERT under a causal recipe",
        lambda d: replaced(d, "config.json", {"model_type": "bert"}),
        "it is a masked language model",
        "choose a recipe with the attention it has",
    ),
    ("no tokenizer", lambda d: replaced(d, "tokenizer.json", None), "has no tokenizer", "save_pretrained"),
    (
        "tokenizer no JSON",
        lambda d: replaced(d, "tokenizer.json", "x"),
        "tokenizer.json' is broken",
        "Copy or download",
    ),
    ("tokenizer empty", lambda d: replaced(d, "tokenizer.json", {}), "cannot be loaded", FETCH),
    ("tokenizer settings", lambda d: replaced(d, "tokenizer_config.json", []), "it holds a list", "Copy or download"),
    ("no weights", lambda d: replaced(d, "model.safetensors", None), "has no weights to load", "save_pretrained"),
    (
        "pickled weights",
        lambda d: replaced(replaced(d, "model.safetensors", None), "pytorch_model.bin", b"pickle"),
        "has pickled weights (pytorch_model.bin) and no safetensors",
        "Convert them",
    ),
    (
        "weights cut short",
        lambda d: replaced(d, "model.safetensors", (TINY / "model.safetensors").read_bytes()[:1_000_000]),
        "model.safetensors' is damaged",
        "Copy or download it again",
    ),
    ("weights garbled", lambda d: replaced(d, "model.safetensors", b"\xff" * 999), "is damaged", "Copy or download"),
    ("weights empty", lambda d: replaced(d, "model.safetensors", b""), "is damaged", "Copy or download"),
    (
        "a tensor missing",
        lambda d: weighted(d, **{LAYER: None}),
        "lacks 1 of its weights (layers.3.mlp.up_proj.weight)",
        "fetch the model",
    ),
    (
        "a tensor misshapen",
        lambda d: weighted(d, **{LAYER: torch.zeros(3, 3)}),
        "of shape (3, 3)",
        "Use the config.json",
    ),
    (
        "a tensor not finite",
        lambda d: weighted(d, **{LAYER: torch.full_like(weights()[LAYER], NAN)}),
        "gave states that are not finite numbers",
        "check its weights",
    ),
    (
        "shards missing",
        lambda d: replaced(
            replaced(d, "model.safetensors", None),
            "model.safetensors.index.json",
            {"weight_map": {"a": "model-1.safetensors"}},
        ),
        "lacks 1 file(s) that model.safetensors.index.json names: model-1.safetensors",
        "Copy or download the missing ones",
    ),
    (
        "another library's pipeline",
        lambda d: replaced(d, "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}]),
        "is a sentence-transformers model with modules of its own",
        "load(..., recipe='...')",
    ),
    (
        "path out of the folder",
        lambda d: replaced(d, "modules.json", [{"type": "x.Y", "path": "../../etc"}]),
        "each module needs a path inside the model's folder",
        "Copy or download",
    ),
]


@pytest.mark.parametrize(("change", "item", "remedy"), [r[1:] for r in FOLDERS], ids=[r[0] for r in FOLDERS])
def test_a_folder_that_is_no_whole_model_is_refused(change, item, remedy, tmp_path):
    folder = change(linked(TINY, tmp_path / "broken"))
    message = refused(lambda: echoembed.load(folder, device="cpu"), ModelError, item, remedy)
    assert "broken" in message  # the folder is named


def test_a_model_with_the_tokenizer_of_another_makes_no_vector(tmp_path):
    small = {name: tensor[:500] if "embed" in name else tensor for name, tensor in weights().items()}
    folder = weighted(configured(linked(TINY, tmp_path / "broken"), vocab_size=500), **small)
    own = echoembed.load(folder, device="cpu")
    refused(
        lambda: own.encode("antidisestablishmentarianism"), ModelError, "embeddings for 500 tokens", "to the same model"
    )


MODULES = [
    ("modules.json", [{"type": "somewhere.else.Module", "path": "0_EchoTransformer"}], "sentence-transformers model"),
    ("modules.json", "{nonsense", "modules.json' is broken"),
    ("0_EchoTransformer/echoembed_config.json", "{nonsense", "is broken"),
    ("0_EchoTransformer/echoembed_config.json", {}, "has an unreadable echoembed_config.json"),
    ("0_EchoTransformer/echoembed_config.json", None, "has an unreadable echoembed_config.json"),
    ("0_EchoTransformer/model.safetensors", None, "has no weights"),
    ("0_EchoTransformer/model.safetensors", b"cut", "is damaged"),
    ("0_EchoTransformer/tokenizer.json", None, "has no tokenizer"),
    ("0_EchoTransformer/config.json", None, "has no config.json"),
    ("1_Pooling/config.json", "{nonsense", "is broken"),
]


@pytest.mark.parametrize(("file", "content", "item"), MODULES, ids=[f"{f} {str(c)[:12]}" for f, c, _ in MODULES])
def test_a_saved_model_that_is_not_whole_is_refused(file, content, item, saved, tmp_path):
    folder = replaced(linked(saved, tmp_path / "broken"), file, content)
    assert "broken" in refused(lambda: echoembed.load(folder, device="cpu"), ModelError, item, "")


@pytest.mark.parametrize("cut", ["no", 1, None])
def test_whether_a_saved_model_was_cut_is_yes_or_no(cut, saved, tmp_path):
    file = "0_EchoTransformer/echoembed_config.json"
    folder = linked(saved, tmp_path / "broken")
    replaced(folder, file, {**json.loads((folder / file).read_text()), "cut": cut})
    refused(lambda: echoembed.load(folder, device="cpu"), ModelError, f"echoembed_config.json (cut = {cut!r})", "")


def test_a_module_from_elsewhere_is_refused_and_not_imported(saved, tmp_path, monkeypatch):
    """Also one that is a proper module of the library's kind, and could be imported."""
    (tmp_path / "elsewhere.py").write_text(
        "from sentence_transformers.sentence_transformer.modules import Normalize\n\n\nclass Module(Normalize): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = json.loads((saved / "modules.json").read_text())
    for type_ in ("elsewhere.Module", "echoembed.errors.near"):
        changed = [*rows[:2], {**rows[2], "type": type_}]
        folder = replaced(linked(saved, tmp_path / type_), "modules.json", changed)
        message = refused(
            lambda folder=folder: echoembed.load(folder, device="cpu"), ModelError, repr(type_), "not run"
        )
        assert "Allowed: echoembed's and sentence-transformers' own" in message
    assert "elsewhere" not in sys.modules


def test_a_saved_recipe_that_cannot_be_is_refused(saved, tmp_path):
    path = "0_EchoTransformer/echoembed_config.json"
    settings = json.loads((saved / path).read_text())
    settings["recipe_fields"]["pooling"] = "max"
    folder = replaced(linked(saved, tmp_path / "broken"), path, settings)
    refused(lambda: echoembed.load(folder, device="cpu"), ModelError, "pooling = 'max'", "save the model again")


# Saving


def test_an_existing_folder_is_not_written_over(saved):
    before = sorted(path.stat().st_mtime_ns for path in saved.rglob("*"))
    refused(lambda: echoembed.save(model(), saved), FileError, f"{saved}' exists already", "(overwrite=True)")
    assert sorted(path.stat().st_mtime_ns for path in saved.rglob("*")) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_nothing_behind_and_what_was_there_as_it_was(overwrite, tmp_path, monkeypatch):
    def full(self, path, **_):
        (Path(path) / "half").write_text("written")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SentenceTransformer, "save_pretrained", full)
    if overwrite:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "modules.json").touch()
    before = sorted(tmp_path.rglob("*"))
    call = lambda: echoembed.save(model(), tmp_path / "model", overwrite=overwrite)  # noqa: E731
    refused(call, FileError, "No space left on device", "No partial file was left")
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_the_disk_does_not_take_leave_nothing_behind(tmp_path):
    """Without a stand-in: the system refuses to write more than a megabyte, and safetensors says so in its own way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        message = refused(lambda: echoembed.save(model(), tmp_path / "model"), FileError, "File too large", "has room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "model") in message
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    refused(
        lambda: echoembed.save(model(), tmp_path / "file" / "model"),
        FileError,
        "cannot be written",
        "Choose a folder",
    )
    refused(lambda: echoembed.save(None, tmp_path / "none"), ModelError, "Got model = None", "echoembed.load")
    assert not (tmp_path / "none").exists()


# Recipes and their files (field by field in test_recipe.py)


def test_recipes_are_refused_through_the_public_names(tmp_path):
    refused(lambda: Recipe(name="x", query_template="{text}"), TemplateError, "'{text}'", "{text:pool}")
    refused(lambda: Recipe(name="x", query_template=5), RecipeError, "query_template = 5", "Change that field")
    refused(
        lambda: Recipe(name="x", query_template="\ud800{text:pool}"),
        RecipeError,
        r"'\ud800{text:pool}'",
        "valid Unicode",
    )
    refused(lambda: echoembed.load_recipes(tmp_path / "no.toml"), RecipeError, "no.toml", "It must be TOML")
    (tmp_path / "my.toml").write_text("[a]\nquery_template = '{text:pool}'\nlayr = 3\n")
    refused(lambda: echoembed.load_recipes(tmp_path / "my.toml"), RecipeError, "key 'layr'", "Did you mean 'layer'?")


# No vector that is none


ODD = [
    *(
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u0301",
        "\u202e",
        "</s>",
        "<s><s>",
        "<pad>",
        "{text:pool}",
        "a\tb\r\n",
        "🏳️‍🌈",
        "\U0010ffff",
    ),
    *("\ue000", "x" * 3000, " a", "a ", ".", "0", np.str_("boat"), "\x0b\x0c a", "\x85a", "\u2028a"),
]


@pytest.mark.parametrize("recipe", ["echo", "sgpt-5.8b"])
@pytest.mark.filterwarnings("ignore::echoembed.TruncationWarning", "ignore::echoembed.RecipeWarning")
def test_odd_input_gives_a_whole_vector_or_an_error(recipe):
    whole = 0
    for text in ODD:
        try:
            vector = model(recipe).encode([text])[0]
        except EchoembedError:
            continue
        assert vector.dtype == np.float32
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        whole += 1
    assert whole >= len(ODD) - 2


def test_a_megabyte_of_one_word_is_cut_with_a_warning_and_soon_done():
    own = echoembed.load("tiny", device="cpu")
    with pytest.warns(echoembed.TruncationWarning, match="1 of 1 texts were over the budget"):
        vector = own.encode("abcdefghij" * 100_000)
    assert np.isfinite(vector).all()
    assert own[0].reader.render(["abcdefghij" * 100_000])[0].dropped > 100_000


def test_a_text_over_the_budget_is_refused_where_that_was_asked():
    own = echoembed.load("tiny", device="cpu", budget=4, overflow="error")
    refused(lambda: own.encode(TEXT * 3), OverBudgetError, "tokens over the limit of 4", "raise the budget")


def test_states_that_are_not_finite_make_no_vector(monkeypatch):
    own = echoembed.load("tiny", device="cpu")
    with torch.no_grad():
        own[0].model.embed_tokens.weight.fill_(NAN)
    refused(lambda: own.encode(TEXT), ModelError, "tiny gave states that are not finite", "No vector was made")


def test_nothing_is_no_error():
    assert len(model().encode([])) == 0


def test_the_table_is_long_enough():
    assert len(TEXTS) + len(ENCODE) + len(LOAD) + len(FOLDERS) + len(MODULES) > 80
