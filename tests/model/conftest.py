"""The bundled model, its vectors and its saved folder, which several files of this folder test."""

from __future__ import annotations

import pytest

import echoembed
from loaded import TEXTS


@pytest.fixture(scope="module")
def model():
    return echoembed.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def vectors(model):
    return model.encode(TEXTS)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return echoembed.save(model, tmp_path_factory.mktemp("saved") / "model")
