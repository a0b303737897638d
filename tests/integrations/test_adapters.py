"""Our adapters in the real tools: documents are documents, queries queries, to the last digit but rounding.

``make test-integrations`` installs the tools in their own environment; elsewhere a test whose tool is missing skips.
"""

import asyncio
import os
import subprocess
import sys
import time
from importlib.metadata import distribution

import numpy as np
import pytest

from echoembed import errors
from two_sides import DOCUMENTS, QUERY

CLOSE = 1e-6


def close(one, other):
    np.testing.assert_allclose(np.asarray(one, np.float64), other, atol=CLOSE)


def test_langchain(model, sides):
    pytest.importorskip("langchain_core")
    from echoembed.integrations.langchain import EchoEmbeddings

    embeddings = EchoEmbeddings(model)
    close(embeddings.embed_documents(DOCUMENTS), sides[0])
    close(embeddings.embed_query(QUERY), sides[1])
    close(asyncio.run(embeddings.aembed_query(QUERY)), sides[1])
    with pytest.raises(errors.TextError):
        embeddings.embed_documents(["fine", ""])


def test_langchain_vector_store_finds_the_document(model):
    pytest.importorskip("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    from echoembed.integrations.langchain import EchoEmbeddings

    store = InMemoryVectorStore.from_texts(DOCUMENTS, EchoEmbeddings(model))
    found = store.similarity_search_with_score(QUERY, k=3)
    scores = model.encode_document(DOCUMENTS) @ model.encode_query(QUERY)
    assert [document.page_content for document, _ in found] == [DOCUMENTS[n] for n in np.argsort(-scores)]
    close([score for _, score in found], np.sort(scores)[::-1])


def test_llama_index(model, sides):
    pytest.importorskip("llama_index.core")
    from echoembed.integrations.llama_index import EchoEmbedding

    embedding = EchoEmbedding(model)
    pair = EchoEmbedding(model, embed_batch_size=2)  # the last batch is not full
    close(pair.get_text_embedding_batch(text for text in DOCUMENTS), sides[0])
    close(asyncio.run(pair.aget_text_embedding_batch(text for text in DOCUMENTS)), sides[0])
    close(pair.get_agg_embedding_from_queries(query for query in (QUERY, QUERY)), sides[1])
    close(asyncio.run(pair.aget_agg_embedding_from_queries(query for query in (QUERY, QUERY))), sides[1])
    close(embedding.get_text_embedding_batch(DOCUMENTS), sides[0])
    close(embedding.get_text_embedding(DOCUMENTS[0]), sides[0][0])
    close(embedding.get_query_embedding(QUERY), sides[1])
    close(asyncio.run(embedding.aget_query_embedding(QUERY)), sides[1])
    close(asyncio.run(embedding.aget_text_embedding(DOCUMENTS[0])), sides[0][0])


def test_llama_index_does_not_try_a_bad_text_again(model):
    pytest.importorskip("llama_index.core")
    from echoembed.integrations.llama_index import EchoEmbedding

    calls = []
    embedding = EchoEmbedding(model)
    encode = model.encode_document
    embedding._model = type(
        "Counting", (), {"encode_document": lambda _, *a, **k: calls.append(1) or encode(*a, **k)}
    )()
    with pytest.raises(errors.TextError):
        embedding.get_text_embedding("")
    assert len(calls) == 1


def test_chroma_stores_documents_and_comes_back(folder, sides, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    from echoembed.integrations.chroma import EchoFunction

    client = chromadb.PersistentClient(path=str(tmp_path))
    collection = client.create_collection("texts", embedding_function=EchoFunction(folder))
    collection.add(ids=["0", "1", "2"], documents=DOCUMENTS)
    close(collection.get(include=["embeddings"])["embeddings"], sides[0])
    again = client.get_collection("texts")  # the function comes from what was stored
    found = again.query(query_texts=[QUERY], n_results=3, include=["distances"])
    scores_N = sides[0] @ sides[1]
    assert found["ids"][0] == [str(row) for row in np.argsort(-scores_N)]
    np.testing.assert_allclose(found["distances"][0], 1 - np.sort(scores_N)[::-1], atol=1e-5)
    with pytest.raises(Exception, match="empty"):
        collection.add(ids=["3"], documents=[""])


def lancedb_function(folder):
    """What users get by our name from LanceDB's registry."""
    from lancedb.embeddings import get_registry

    import echoembed.integrations.lancedb  # noqa: F401 (registers "echoembed")

    return get_registry().get("echoembed").create(name=folder)


def test_lancedb_embeds_rows_and_queries(folder, sides, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    from lancedb.pydantic import LanceModel, Vector

    function = lancedb_function(folder)

    class Row(LanceModel):
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(tmp_path).create_table("texts", schema=Row)
    table.add([{"text": text} for text in DOCUMENTS])
    close(np.stack(table.to_arrow().column("vector").to_pylist()), sides[0])
    again = lancedb.connect(tmp_path).open_table("texts")  # the function comes from what was stored
    found = again.search(QUERY).distance_type("cosine").limit(3).to_list()
    scores_N = sides[0] @ sides[1]
    assert [row["text"] for row in found] == [DOCUMENTS[n] for n in np.argsort(-scores_N)]
    np.testing.assert_allclose([row["_distance"] for row in found], 1 - np.sort(scores_N)[::-1], atol=1e-5)


def test_lancedb_does_not_try_a_bad_text_again(folder, monkeypatch):
    pytest.importorskip("lancedb")
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(Exception, match="empty"):
        lancedb_function(folder).compute_source_embeddings_with_retry(["fine", ""])
    assert slept == []


def test_llm_plugin_embeds_both_sides(folder, sides, monkeypatch):
    llm = pytest.importorskip("llm")
    monkeypatch.setenv("ECHOEMBED_LLM_MODEL", folder)
    monkeypatch.setattr(sys, "_called_from_test", True, raising=False)  # llm then loads no plugin by itself
    import echoembed.integrations.llm as plugin

    if not llm.pm.has_plugin("echoembed"):
        llm.pm.register(plugin, "echoembed")
    close(list(llm.get_embedding_model("echoembed").embed_multi(DOCUMENTS)), sides[0])
    close(llm.get_embedding_model("echoembed-query").embed(QUERY), sides[1])


def test_llm_finds_the_plugin_by_its_entry_point():
    pytest.importorskip("llm")
    if not distribution("echoembed").entry_points.select(group="llm"):
        pytest.skip("echoembed was installed before it had the entry point")
    done = subprocess.run(
        [sys.executable, "-m", "llm", "embed-models"],
        env={**os.environ, "LLM_LOAD_PLUGINS": "echoembed"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "echoembed-query" in done.stdout


def test_scikit_learn_pipeline_clones_pickles_and_takes_a_series(folder, sides):
    import pickle

    pd = pytest.importorskip("pandas")
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from echoembed.integrations.sklearn import EchoVectorizer

    vectorizer = clone(EchoVectorizer(folder, kind="document")).fit(DOCUMENTS)
    close(vectorizer.transform(pd.Series(DOCUMENTS)), sides[0])
    close(EchoVectorizer(folder).fit(None).transform([QUERY])[0], sides[1])
    pipeline = make_pipeline(EchoVectorizer(folder), LogisticRegression()).fit(pd.Series(DOCUMENTS), [0, 1, 1])
    again = pickle.loads(pickle.dumps(pipeline))
    assert list(again.predict(DOCUMENTS)) == list(pipeline.predict(DOCUMENTS))


def several_of(adapter, model, folder):
    """The calls of an adapter that take several texts."""
    if adapter == "langchain_core":
        from echoembed.integrations.langchain import EchoEmbeddings

        return [EchoEmbeddings(model).embed_documents]
    if adapter == "chromadb":
        from echoembed.integrations.chroma import EchoFunction

        return [EchoFunction(folder), EchoFunction(folder).embed_query]
    if adapter == "llama_index.core":
        from echoembed.integrations.llama_index import EchoEmbedding

        one = EchoEmbedding(model)
        at_once = (one.aget_text_embedding_batch, one.aget_agg_embedding_from_queries)
        waiting = [lambda texts, call=call: asyncio.run(call(texts)) for call in at_once]
        return [one.get_text_embedding_batch, one.get_agg_embedding_from_queries, *waiting]
    if adapter == "lancedb":
        return [lancedb_function(folder).generate_embeddings]
    if adapter == "llm":
        from echoembed.integrations.llm import EchoModel

        return [lambda texts: list(EchoModel("document").embed_batch(texts))]
    from echoembed.integrations.sklearn import EchoVectorizer

    return [EchoVectorizer(folder).fit(None).transform]


@pytest.mark.parametrize("adapter", ["langchain_core", "llama_index.core", "chromadb", "lancedb", "llm", "sklearn"])
def test_a_text_or_a_table_in_place_of_several_texts_is_refused(adapter, model, folder, monkeypatch):
    """As lists, they are characters and names of columns."""
    pytest.importorskip(adapter)
    pd = pytest.importorskip("pandas")
    monkeypatch.setenv("ECHOEMBED_LLM_MODEL", folder)
    for embed in several_of(adapter, model, folder):
        for wrong in ("bread", pd.DataFrame({"text": DOCUMENTS}), {"text": DOCUMENTS[0]}):
            with pytest.raises(errors.TextError, match=r"Got texts = .*a list of str"):
                embed(wrong)


def test_scikit_learn_knows_whether_it_is_fitted_and_names_the_columns(folder, sides):
    pd = pytest.importorskip("pandas")
    from sklearn.exceptions import NotFittedError

    from echoembed.integrations.sklearn import EchoVectorizer

    vectorizer = EchoVectorizer(folder, kind="document")
    for early in (lambda: vectorizer.transform(DOCUMENTS), vectorizer.get_feature_names_out):
        with pytest.raises(NotFittedError):
            early()
    frame = vectorizer.set_output(transform="pandas").fit_transform(DOCUMENTS)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(vectorizer.get_feature_names_out())
    close(frame.to_numpy(), sides[0])


def test_scikit_learn_is_refused_a_kind_that_does_not_exist_before_any_text_is_read(folder):
    pytest.importorskip("sklearn")
    from echoembed.integrations.sklearn import EchoVectorizer

    with pytest.raises(errors.ModelError, match=r"kind = 'documents'.*query, document"):
        EchoVectorizer(folder, kind="documents").fit(DOCUMENTS)
