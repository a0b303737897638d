"""What is given in place of texts is refused by what it is."""

from __future__ import annotations

import numpy as np
import pytest

import echoembed
from echoembed.errors import TextError

TEXTS = ["one", "two"]


@pytest.fixture(scope="module")
def model():
    return echoembed.load("tiny", recipe="classical", layer=1, device="cpu")


@pytest.mark.parametrize("given", [tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object)])
def test_sequences_of_texts_are_taken(model, given):
    np.testing.assert_allclose(model.encode(given), model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    "given", [(text for text in TEXTS), set(TEXTS), dict.fromkeys(TEXTS).keys(), [TEXTS], [tuple(TEXTS)], [iter(TEXTS)]]
)
def test_a_collection_in_place_of_a_text_is_named_as_one(model, given):
    with pytest.raises(TextError, match=r"several texts a list of str: pass list\(texts\)"):
        model.encode(given)


def test_a_series_is_named_as_a_collection(model):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TextError, match=r"of type Series.*pass list\(texts\)"):
        model.encode(pandas.Series(TEXTS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "one"}, "of type dict.*give the value that holds the text"),
        ([{"text": "one"}], "of type dict.*give the value that holds the text"),
        (b"one", "of type bytes.*decode it first"),
        ([b"one"], "of type bytes.*decode it first"),
        ([7], "of type int.*convert it"),
    ],
)
def test_what_is_no_text_is_refused_with_what_to_do(model, given, message):
    with pytest.raises(TextError, match=message):
        model.encode(given)
