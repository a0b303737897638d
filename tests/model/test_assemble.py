"""What decides the vectors survives saving, prompts mean what their names say, and no zero vector leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import echoembed
import tiny_models
from echoembed import Recipe
from echoembed.errors import ModelError, TextError
from echoembed.model.assemble import assemble
from echoembed.model.transformer import transformer_of
from echoembed.model.variants import under

TWO = Recipe(
    name="two",
    query_template="{bos}Question, {instruction}: {text:pool}",
    document_template="{bos}Answer: {text:pool}",
    instruction="any",
)
LONG = (
    "the cat sat on a mat while rain fell over old town and river carried its boats to harbour where nobody waits " * 4
)
TEXTS = ["the cat sat", "rain fell over the old town", LONG]
LOADERS = {
    "ours": lambda folder: echoembed.load(folder, device="cpu"),
    "the library's": lambda folder: SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
}
by_both_loaders = pytest.mark.parametrize("loader", LOADERS)


def two(**options: object) -> SentenceTransformer:
    return echoembed.load(tiny_models.folder("llama"), recipe=TWO, device="cpu", **options)


def changed() -> SentenceTransformer:
    """A model of which everything differs that the library saves and our fingerprint covers."""
    model = two(layer=2, budget=50, normalize=False)
    model.prompts["query"], model.prompts["mine"] = "seek", "find the same"
    model.default_prompt_name = "mine"
    model.similarity_fn_name = "dot"
    model.truncate_dim = 20
    model.max_seq_length = 40
    return model


def settings(model: SentenceTransformer) -> dict[str, object]:
    """What the library would save of a model, and what its modules would."""
    said = {key: value for key, value in model._get_model_config().items() if key != "__version__"}
    modules = {str(n): module.get_config_dict() for n, module in enumerate(model) if hasattr(module, "get_config_dict")}
    return {**said, **modules, "max_seq_length": model.max_seq_length, "dimension": model.get_embedding_dimension()}


@by_both_loaders
def test_all_that_the_library_saves_survives(loader, tmp_path):
    model = changed()
    again = LOADERS[loader](echoembed.save(model, tmp_path / "model"))
    assert settings(again) == settings(model)
    with pytest.warns(echoembed.TruncationWarning):
        assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert echoembed.fingerprint(again) != ""


def test_nothing_that_the_library_saves_is_missing_above(tmp_path):
    """The guard: a setting that a newer library saves must be changed above, and read in the file that it writes."""
    model = changed()
    untouched, touched = settings(two()), settings(model)
    assert [key for key in touched if key not in ("model_type", "1") and touched[key] == untouched.get(key)] == []
    folder = echoembed.save(model, tmp_path / "model")
    written = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert set(written) - {"__version__"} <= set(touched)


def test_all_that_the_fingerprint_covers_survives(tmp_path):
    first = echoembed.load(echoembed.save(changed(), tmp_path / "1"), device="cpu")
    second = echoembed.load(echoembed.save(first, tmp_path / "2"), device="cpu")
    assert echoembed.fingerprint(first) == echoembed.fingerprint(second)
    prints = {echoembed.fingerprint(first)}
    for setting, value in (("truncate_dim", None), ("max_seq_length", None)):
        other = echoembed.load(tmp_path / "1", device="cpu")
        setattr(other, setting, value)
        prints.add(echoembed.fingerprint(other))
    assert len(prints) == 3


@by_both_loaders
def test_a_pooling_of_the_users_own_survives(loader, tmp_path):
    model = two()
    model[1] = Pooling(32, pooling_mode="max")
    again = LOADERS[loader](echoembed.save(model, tmp_path / "model"))
    assert again[1].pooling_mode == model[1].pooling_mode
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert not np.allclose(again.encode(TEXTS), two().encode(TEXTS), atol=1e-2)


@pytest.mark.parametrize(
    "damage",
    [
        {"truncate_dim": 0},
        {"truncate_dim": "8"},
        {"truncate_dim": 33},
        {"similarity_fn_name": "novel"},
        {"prompts": ["query"]},
        {"prompts": {"query": 5}},
        {"default_prompt_name": "nowhere"},
    ],
)
def test_settings_that_cannot_be_are_refused(damage, tmp_path):
    folder = echoembed.save(two(), tmp_path / "model")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ModelError, match=next(iter(damage))) as caught:
        echoembed.load(folder, device="cpu")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("most", [0, -1, "many", 2.5])
def test_a_saved_length_that_cannot_be_is_refused(most, tmp_path):
    folder = echoembed.save(two(), tmp_path / "model")
    path = folder / "0_EchoTransformer" / "echoembed_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_seq_length": most}))
    with pytest.raises(ModelError, match="max_seq_length"):
        echoembed.load(folder, device="cpu")


# Prompts by name

QUERY, DOCUMENT = "<s> Question, any: a cat", "<s> Answer: a cat"
NAMES = {"query": QUERY, "text": DOCUMENT, "document": DOCUMENT, "passage": DOCUMENT, "corpus": DOCUMENT}


def read(model: SentenceTransformer, **call: str) -> str:
    """The prompt that ``encode`` reads for a text."""
    shown: list[str] = []
    transformer = transformer_of(model)
    render = type(transformer.reader).render

    def watched(reader, texts, **options):
        prompts = render(reader, texts, **options)
        shown.extend(prompt.text for prompt in prompts)
        return prompts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(transformer.reader), "render", watched)
        model.encode("a cat", **call)
    return shown[-1]


@pytest.fixture(scope="module", params=["from load", *LOADERS])
def named(request, tmp_path_factory) -> SentenceTransformer:
    model = two()
    model.prompts["mine"] = "seek"
    if request.param == "from load":
        return model
    return LOADERS[request.param](echoembed.save(model, tmp_path_factory.mktemp("named") / "model"))


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_prompt_says_which_template(named, name):
    assert read(named, prompt_name=name) == NAMES[name]
    vector = named.encode(TEXTS[:2], prompt_name=name)
    side = "encode_query" if NAMES[name] == QUERY else "encode_document"
    assert np.array_equal(vector, getattr(named, side)(TEXTS[:2]))


@pytest.mark.parametrize("empty", ["", None])
def test_a_tool_that_loads_a_folder_with_empty_prompts_gets_both_sides(tmp_path, empty):
    folder = str(echoembed.save(two(), tmp_path / "model"))
    prompts = {"query": empty, "text": empty}  # as LlamaIndex gives them
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu", prompts=prompts)
    for name, prompt in NAMES.items():
        assert read(model, prompt_name=name) == prompt
    told = SentenceTransformer(folder, trust_remote_code=True, device="cpu", prompts={"query": "seek", "text": ""})
    assert read(told, prompt_name="query") == "<s> Question, seek: a cat"


def test_names_of_the_users_own_prompts_are_instructions(named):
    assert read(named, prompt_name="mine") == "<s> Question, seek: a cat"
    assert read(named, prompt_name="mine", task="query") == "<s> Question, seek: a cat"
    assert read(named) == QUERY


@pytest.mark.parametrize("name", NAMES)
def test_a_task_says_more_than_a_prompts_name(named, name):
    assert read(named, prompt_name=name, task="query") == QUERY
    assert read(named, prompt_name=name, task="document") == DOCUMENT


def test_an_unknown_name_is_refused(named):
    with pytest.raises(ValueError, match="'pasage'"):
        named.encode("a cat", prompt_name="pasage")
    with pytest.raises(TextError, match=r"Got prompt_name 'pasage'\. Allowed: 'query', .* Did you mean 'passage'\?"):
        two().encode("a cat", prompt_name="pasage")


def test_a_default_prompt_may_be_a_kind_of_text(tmp_path):
    model = two()
    model.default_prompt_name = "document"
    assert read(model) == DOCUMENT
    for load in LOADERS.values():
        again = load(echoembed.save(model, tmp_path / "model", overwrite=True))
        assert read(again) == DOCUMENT
        assert read(again, prompt_name="query") == QUERY


def test_several_processes_know_the_names():
    model = two()
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = model.encode(TEXTS[:2], prompt_name="document", pool=pool)
    finally:
        model.stop_multi_process_pool(pool)
    assert np.allclose(found, model.encode_document(TEXTS[:2]), atol=1e-6)


# No zero vector


class Rectified(torch.nn.Module):
    """Leaves nothing but what is above a threshold, from a dimension on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, features: dict[str, torch.Tensor], **_: object) -> dict[str, torch.Tensor]:
        vectors = features["sentence_embedding"].clone()
        vectors[:, : self.first] = 0
        return {**features, "sentence_embedding": vectors}


def with_zeros(first: int, **options: object) -> SentenceTransformer:
    base = two(normalize=False, **options)
    return assemble([*base, Rectified(first), Normalize()], name="x", device="cpu")


@pytest.mark.parametrize(
    "options", [{}, {"engine": "padded"}, {"deterministic": True}, {"dtype": "bfloat16"}, {"dtype": "int8"}]
)
def test_no_vector_of_zeros_leaves_encode(options):
    assert (np.abs(with_zeros(31, **options).encode(TEXTS)).max(axis=1) > 0).all()
    model = with_zeros(32, **options)
    for call in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(ModelError, match="came out as 32 zeros"):
            call(TEXTS)


def test_no_vector_of_zeros_is_left_where_dimensions_are_cut_off():
    model = with_zeros(8)
    assert model.encode(TEXTS, truncate_dim=9).any(axis=1).all()
    for call in (
        lambda: model.encode(TEXTS, truncate_dim=8),
        lambda: model.encode(TEXTS[0], truncate_dim=3, normalize_embeddings=True),
        lambda: model.encode_document(TEXTS, truncate_dim=1, convert_to_tensor=True),
    ):
        with pytest.raises(ModelError, match="zeros"):
            call()
    model.truncate_dim = 4
    with pytest.raises(ModelError, match="came out as 4 zeros"):
        model.encode(TEXTS)


def test_other_recipes_of_the_same_weights_are_held_to_it_too():
    model = under(with_zeros(32), TWO)
    with pytest.raises(ModelError, match="zeros"):
        model.encode(TEXTS)


def with_dense(kept: int) -> SentenceTransformer:
    """A model whose last module leaves zeros in all but the last dimensions."""
    base = two(normalize=False)
    dense = Dense(32, 8, activation_function=torch.nn.ReLU())
    with torch.no_grad():
        dense.linear.weight.zero_()
        dense.linear.bias.fill_(-1)
        dense.linear.bias[8 - kept :] = 1
    return SentenceTransformer(modules=[*base, dense], device="cpu")


@by_both_loaders
def test_a_dense_module_that_rectifies_is_no_exception(loader, tmp_path):
    model = LOADERS[loader](echoembed.save(with_dense(0), Path(tmp_path) / "model"))
    for call in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(ModelError, match="came out as 8 zeros"):
            call(TEXTS)


@by_both_loaders
def test_nor_are_dimensions_that_are_cut_off_behind_one(loader, tmp_path):
    model = LOADERS[loader](echoembed.save(with_dense(2), Path(tmp_path) / "model"))
    assert model.encode(TEXTS, truncate_dim=7).any(axis=1).all()
    with pytest.raises(ModelError, match="came out as 6 zeros"):
        model.encode(TEXTS, truncate_dim=6)


def test_nor_do_they_leave_another_process(tmp_path):
    model = LOADERS["the library's"](echoembed.save(with_dense(2), Path(tmp_path) / "model"))
    pool = model.start_multi_process_pool(["cpu"])
    try:
        assert model.encode(TEXTS[:2], pool=pool).any(axis=1).all()
        with pytest.raises(Exception, match="zeros"):
            model.encode(TEXTS[:2], pool=pool, truncate_dim=6)
    finally:
        model.stop_multi_process_pool(pool)


@by_both_loaders
def test_a_bare_encode_uses_the_template_that_was_chosen_for_it(loader, tmp_path):
    model = two(bare="document")
    assert echoembed.describe(model)["bare_encode"] == "the document template"
    assert echoembed.describe(two())["bare_encode"] == "the query template"
    again = LOADERS[loader](echoembed.save(model, tmp_path / "model"))
    for kept in (model, again):
        assert np.array_equal(kept.encode(TEXTS), two().encode_document(TEXTS))
        assert np.array_equal(kept.encode_query(TEXTS), two().encode_query(TEXTS))
        assert np.array_equal(kept.encode(TEXTS, task="query"), two().encode_query(TEXTS))
    back = echoembed.load(tmp_path / "model", bare="query", device="cpu")
    assert np.array_equal(back.encode(TEXTS), two().encode_query(TEXTS))
    with pytest.raises(ModelError, match="query, document or None"):
        two(bare="passage")
