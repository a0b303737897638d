"""A model whose two templates differ, by itself and as a folder, and what its vectors must be."""

import pytest

import echoembed
from two_sides import DOCUMENTS, QUERY, RECIPE, TINY


@pytest.fixture(scope="session")
def model():
    return echoembed.load(TINY, recipe=RECIPE)


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """The model as a folder, for tools that take a name."""
    return str(echoembed.save(model, tmp_path_factory.mktemp("saved") / "model"))


@pytest.fixture(scope="session")
def sides(model):
    """What documents and the query must be: float32 of shape (3, D) and (D,), far from the other template's."""
    documents_ND = model.encode_document(DOCUMENTS)
    query_D = model.encode_query(QUERY)
    assert abs(documents_ND - model.encode_query(DOCUMENTS)).max() > 1e-2
    assert abs(query_D - model.encode_document(QUERY)).max() > 1e-2
    return documents_ND, query_D
