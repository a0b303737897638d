"""However many texts a caller hands over at a time: packs are full, memory is a group's, vectors are the library's."""

from __future__ import annotations

import pickle
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import echoembed
from echoembed import recipes
from echoembed.errors import ModelError, TextError
from echoembed.model.encode import encode_prompts
from echoembed.model.layers import layer_states
from loaded import tiny

MANY = [f"{'rain fell over the old town ' * (number % 7)}and number {number} waited" for number in range(240)]


@pytest.fixture(scope="module")
def exact():
    return echoembed.load("tiny", device="cpu", deterministic=True)


@pytest.fixture(scope="module")
def library(exact):
    """The same modules in the library's own class."""
    return of_the_library(exact)


def of_the_library(model):
    plain = SentenceTransformer(modules=list(model), device="cpu")
    plain.prompts, plain.truncate_dim = model.prompts, model.truncate_dim
    return plain


def test_tools_that_know_the_librarys_models_by_name_know_ours(exact):
    assert "sentence_transformers" in str(type(exact))  # as KeyBERT and BERTopic look


@contextmanager
def forwards(model):
    """The shape of the ids of every forward of the language model, meanwhile."""
    shapes = []
    hook = model[0].model.register_forward_pre_hook(
        lambda _module, _args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    try:
        yield shapes
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_packs_are_full_whatever_the_batch_size(batch_size):
    model = echoembed.load("tiny", device="cpu")
    most = 2048
    with forwards(model) as shapes:
        model.encode(MANY, batch_size=batch_size)
    tokens = [length for _, length in shapes]
    assert sum(tokens) / len(tokens) > 0.75 * most
    assert max(tokens) <= most


def test_fewer_tokens_to_a_pack_are_more_packs_and_the_same_vectors():
    few = echoembed.load("tiny", device="cpu", pack_tokens=300)
    with forwards(few) as shapes:
        vectors = few.encode(MANY)
    assert max(length for _, length in shapes) <= 300
    assert np.abs(vectors - echoembed.load("tiny", device="cpu").encode(MANY)).max() < 1e-6


def test_a_padded_forward_takes_the_batch_size():
    model = tiny(engine="padded")
    with forwards(model) as shapes:
        model.encode(MANY[:20], batch_size=6)
        encode_prompts(model, model[0].reader.render(MANY[:20]), batch_size=6)
    assert [texts for texts, _ in shapes] == 2 * [6, 6, 6, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt_name": "document"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"truncate_dim": 16, "normalize_embeddings": True},
        {"precision": "int8"},
        {"precision": "ubinary"},
        {"output_value": "token_embeddings"},
        {"output_value": None},
        {"batch_size": 1000},
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["encode", "encode_query", "encode_document"])
def test_results_are_the_librarys_to_the_bit(exact, library, verb, settings):
    texts = MANY[:40]
    found, wanted = (getattr(model, verb)(texts, **settings) for model in (exact, library))
    assert type(found) is type(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        if isinstance(theirs, dict):
            assert ours.keys() == theirs.keys()
            ours, theirs = ours["sentence_embedding"], theirs["sentence_embedding"]
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


SEQUENCES = {
    "tuple": tuple,
    "array": np.array,
    "objects": lambda texts: np.array(texts, dtype=object),
    "masked, none of them": lambda texts: np.ma.masked_array(np.array(texts), mask=[False] * len(texts)),
}
if hasattr(np.dtypes, "StringDType"):  # NumPy 2 has it
    SEQUENCES["strings of any length"] = lambda texts: np.array(texts, dtype=np.dtypes.StringDType())
    SEQUENCES["backwards twice"] = lambda texts: np.array(texts[::-1], dtype=np.dtypes.StringDType())[::-1]


@pytest.mark.parametrize("kind", SEQUENCES)
def test_texts_come_in_any_sequence(exact, kind):
    given = SEQUENCES[kind](MANY[:9])
    for verb in ("encode", "encode_document"):
        assert np.array_equal(getattr(exact, verb)(given), getattr(exact, verb)(MANY[:9]))


def missing_text():
    return np.array(["a text", None], dtype=np.dtypes.StringDType(na_object=None))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.array([b"a text"]), "of type bytes. A text must be a str: decode it first"),
        (np.arange(3), "The text is 0, of type int"),
        (np.zeros(16_000, dtype=np.float32), "The text is 0.0, of type float"),
        (np.zeros((8, 8, 3), dtype=np.uint8), "The text is of type list"),
        (np.array("a text"), "The text is of type ndarray"),
        (np.array([("a", 1)], dtype=[("text", "U5"), ("number", int)]), "The text is of type tuple"),
        (torch.zeros(3), "of type Tensor"),
        ([np.zeros(3)], "of type ndarray"),
        pytest.param(
            missing_text,
            "The text is None",
            marks=pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no such strings"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_holds_no_texts_is_refused_as_such_and_not_as_sound_or_pictures(exact, given, said):
    with pytest.raises(TextError) as caught:
        exact.encode(given() if callable(given) else given)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("truncate_dim", 0),
        ("truncate_dim", -1),
        ("truncate_dim", 2.5),
        ("truncate_dim", True),
        ("truncate_dim", "8"),
        ("batch_size", "8"),
        ("batch_size", None),
        ("batch_size", 2.5),
        ("output_value", "embedding"),
    ],
)
def test_a_number_that_would_cut_vectors_wrongly_is_refused_by_name(exact, field, value, monkeypatch):
    allowed = rf"^Got {field} = {re.escape(repr(value))}\. Allowed: .* Change it\.$"
    with pytest.raises(ModelError, match=allowed):
        exact.encode(MANY[:3], **{field: value})
    if field == "truncate_dim":  # the model's own
        monkeypatch.setattr(exact, field, value)
        with pytest.raises(ModelError, match=allowed):
            exact.encode(MANY[0])


def test_a_call_by_position_is_a_call_by_name(exact):
    found = exact.encode(MANY[:9], "document", None, 2)
    assert np.array_equal(found, exact.encode_document(MANY[:9]))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.encode(MANY[:3], batch_size=0),
        lambda model: model.encode(MANY[:3], precision="int3"),
        lambda model: model.encode(MANY[:3], colour="red"),
        lambda model: model.encode([*MANY[:3], " "]),
        lambda model: model.encode([*MANY[:3], 7]),
        lambda model: model.encode(MANY[:3], prompt_name="Query"),
        lambda model: model.encode(),
    ],
)
def test_what_the_library_refuses_is_refused_in_its_words(exact, library, call):
    errors = []
    for model in (exact, library):
        with pytest.raises(Exception) as error:  # noqa: PT011 (whichever the library raises)
            call(model)
        errors.append((type(error.value), str(error.value)))
    assert errors[0] == errors[1]


def test_no_texts_give_what_the_library_gives(exact, library):
    assert np.array_equal(exact.encode([]), library.encode([]))


def test_one_long_text_among_short_ones_takes_no_more_room_than_its_group():
    model = tiny(budget=900)
    most = model[0].selector.choice(model[0].model).engine.most_tokens(model[0].model)
    sizes = []
    model[0].register_forward_hook(lambda _module, _args, output: sizes.append(output["token_embeddings"].shape))
    model.encode([*MANY, "rain " * 900])
    prompts = model[0].reader.render(["rain " * 900])
    assert max(rows * states for rows, states, _ in sizes) <= max(4 * most, len(prompts[0].ids))
    assert sum(rows for rows, states, _ in sizes if states > 1) == len(MANY) + 1


def test_pooling_that_is_not_the_recipes_is_done_by_its_own_module():
    model = tiny()
    width = model.get_embedding_dimension()
    other = type(model)(modules=[model[0], Pooling(width, pooling_mode="max"), Normalize()], device="cpu")
    assert np.abs(other.encode(MANY[:40]) - of_the_library(other).encode(MANY[:40])).max() < 1e-6
    prompts = model[0].reader.render(MANY[:40])
    assert np.abs(encode_prompts(other, prompts) - other.encode(MANY[:40])).max() < 1e-6


def test_the_librarys_own_class_fills_packs_where_it_is_asked_to(exact, library):
    packed = echoembed.load(
        "tiny", device="cpu"
    )  # ``exact`` computes text by text where this PyTorch's products depend on the number of rows
    with forwards(packed) as shapes:
        of_the_library(packed).encode(MANY, batch_size=len(MANY), texts_a_forward=32)
    assert np.mean([length for _, length in shapes]) > 0.75 * 2048
    assert np.array_equal(library.encode(MANY, batch_size=len(MANY), texts_a_forward=32), exact.encode(MANY))


@pytest.mark.parametrize("recipe", ["echo", "echo-last", "classical-bidirectional"])
@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_prompts_give_what_their_texts_give(recipe, engine):
    model = tiny(recipe, engine=engine)
    prompts = model[0].reader.render(MANY[:50])
    library = of_the_library(model).encode(MANY[:50])
    assert np.abs(encode_prompts(model, prompts, batch_size=7) - library).max() < 5e-6
    assert np.abs(model.encode(MANY[:50], batch_size=7) - library).max() < 5e-6


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_cut_at_a_layer_can_be_pickled_as_several_processes_need(family):
    """transformers reads hidden states, with which a cut is proved, by hooks that cannot be pickled."""
    bag = replace(recipes["bag-of-words"], calibration="none")
    for recipe in (bag, replace(recipes["echo"], depth=0.6), replace(recipes["echo"], beside=(bag,))):
        model = tiny(recipe, family)
        again = pickle.loads(pickle.dumps(model))
        assert np.array_equal(again.encode(MANY[:5]), model.encode(MANY[:5]))
    model = tiny("classical", family, engine="padded")
    states, _ = layer_states(model, model[0].reader.render(MANY[:3]))
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(layer_states(again, model[0].reader.render(MANY[:3]))[0], states)


def test_a_pickled_model_goes_on_as_it_was(exact, tmp_path):
    torch.save(exact, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(again) is type(exact)
    assert np.array_equal(again.encode(MANY[:5]), exact.encode(MANY[:5]))
