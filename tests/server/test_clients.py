"""Real clients of other services, unchanged, against the running server: their vectors are the library's.

Each is skipped where it is not installed; `make test-clients` installs all of them.
"""

from __future__ import annotations

import numpy as np
import pytest

import echoembed
import serving

TEXTS = ["A cat sat on the mat.", "The rain fell\nover the old town.", "Nobody waits."]
MODEL = "tiny"


@pytest.fixture(scope="module")
def model():
    """Queries and documents have different vectors, so that a wrong side shows."""
    return echoembed.load(serving.TINY, recipe=serving.ASYMMETRIC)


@pytest.fixture(scope="module")
def address(model):
    with serving.running(loaded=model) as server:
        yield server.address


@pytest.fixture(scope="module")
def expected(model):
    return {kind: model.encode(TEXTS, task=kind) for kind in ("query", "document")}


def close(found, wanted) -> bool:
    return bool(np.abs(np.asarray(found, dtype=np.float64) - wanted).max() < 1e-5)


# OpenAI's.


@pytest.fixture
def openai(address):
    library = pytest.importorskip("openai")
    return library.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai(openai, expected, encoding):
    more = {} if encoding is None else {"encoding_format": encoding}
    answer = openai.embeddings.create(model=MODEL, input=TEXTS, **more)
    rows = [row.embedding for row in answer.data]
    if encoding == "base64":
        import base64

        rows = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
    assert close(rows, expected["query"])
    assert answer.usage.prompt_tokens > 0


def test_openai_says_which_side_by_a_field_or_by_the_models_name(openai, expected):
    by_field = openai.embeddings.create(model=MODEL, input=TEXTS, extra_body={"task": "document"})
    by_name = openai.embeddings.create(model=f"{MODEL}:document", input=TEXTS)
    for answer in (by_field, by_name):
        assert close([row.embedding for row in answer.data], expected["document"])
    names = [one.id for one in openai.models.list()]
    assert names == [MODEL, f"{MODEL}:query", f"{MODEL}:document"]
    assert [openai.models.retrieve(name).id for name in names] == names


def test_openai_dimensions(openai, expected):
    [row] = openai.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=8).data
    cut = expected["query"][0, :8]
    assert close(row.embedding, cut / np.linalg.norm(cut))


def test_openai_reads_the_reason_and_does_not_repeat_what_cannot_succeed(openai):
    import openai as library

    for body, kind in (({"input": ""}, library.BadRequestError), ({"input": "town " * 900}, library.APIStatusError)):
        with pytest.raises(kind) as refused:
            openai.with_options(max_retries=2).embeddings.create(model=MODEL, **body)
        assert refused.value.body["message"] in str(refused.value)
        assert refused.value.status_code < 500
    with pytest.raises(library.NotFoundError, match="is not served here"):
        openai.embeddings.create(model="text-embedding-3-small", input="a")


async def _asked_at_once(address: str) -> list[object]:
    import asyncio

    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="unused") as client:
        return await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in TEXTS * 5))


def test_openai_at_once(openai, address, expected):
    import asyncio

    answers = asyncio.run(_asked_at_once(address))
    assert close([answer.data[0].embedding for answer in answers], np.tile(expected["query"], (5, 1)))


# What is built on it.


def test_langchain_with_its_switch(address, expected):
    library = pytest.importorskip("langchain_openai")
    settings = {"base_url": f"{address}/v1", "api_key": "unused", "check_embedding_ctx_length": False}
    documents = library.OpenAIEmbeddings(model=f"{MODEL}:document", **settings)
    queries = library.OpenAIEmbeddings(model=f"{MODEL}:query", **settings)
    assert close(documents.embed_documents(TEXTS), expected["document"])
    assert close([queries.embed_query(text) for text in TEXTS], expected["query"])


def test_llama_index(address, expected):
    """It makes blanks of line breaks before it sends a text."""
    library = pytest.importorskip("llama_index.embeddings.openai")
    one = library.OpenAIEmbedding(model_name=MODEL, api_base=f"{address}/v1", api_key="unused", max_retries=0)
    plain = [0, 2]
    assert close(one.get_text_embedding_batch([TEXTS[at] for at in plain]), expected["query"][plain])
    assert close(one.get_query_embedding(TEXTS[0]), expected["query"][0])


def test_chroma(address, expected):
    library = pytest.importorskip("chromadb.utils.embedding_functions")
    openai = library.OpenAIEmbeddingFunction(api_key="unused", api_base=f"{address}/v1", model_name=f"{MODEL}:document")
    assert close(openai(TEXTS), expected["document"])
    tei = library.HuggingFaceEmbeddingServer(url=f"{address}/embed")
    assert close(tei(TEXTS), expected["query"])


# TEI's.


def test_huggingface_hub(address, expected, monkeypatch):
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # other tests of this process may be offline
    for client in (InferenceClient(model=address), InferenceClient(base_url=address)):
        assert close(client.feature_extraction(TEXTS[0]), expected["query"][:1])
        asked = {"prompt_name": "document", "truncate": True, "truncation_direction": "right", "normalize": True}
        assert close(client.feature_extraction(TEXTS[1], **asked), expected["document"][1:2])
    client = InferenceClient(model=address)
    cosines = expected["query"] @ expected["query"][0]
    assert close(client.sentence_similarity(TEXTS[0], TEXTS), cosines)
    with pytest.raises(Exception, match="at least one visible"):
        client.feature_extraction(" ")


# Cohere's, voyage's, Ollama's and Mistral's.


def test_cohere(address, expected):
    library = pytest.importorskip("cohere")
    client = library.ClientV2(api_key="unused", base_url=address)
    for side, kind in (("search_query", "query"), ("search_document", "document")):
        answer = client.embed(texts=TEXTS, model=MODEL, input_type=side, embedding_types=["float"])
        assert close(answer.embeddings.float_, expected[kind])
    ranked = client.rerank(model=MODEL, query=TEXTS[0], documents=TEXTS, top_n=2, max_tokens_per_doc=4096)
    scores = expected["document"] @ expected["query"][0]
    assert [row.index for row in ranked.results] == np.argsort(-scores)[:2].tolist()
    assert close([row.relevance_score for row in ranked.results], np.sort(scores)[::-1][:2])
    with pytest.raises(library.BadRequestError, match="visible"):
        client.embed(texts=[""], model=MODEL, input_type="search_query", embedding_types=["float"])


def test_coheres_older_client(address, expected):
    library = pytest.importorskip("cohere")
    client = library.Client(api_key="unused", base_url=address)
    for side, kind in (("search_query", "query"), ("search_document", "document")):
        assert close(client.embed(texts=TEXTS, model=MODEL, input_type=side).embeddings, expected[kind])
        by_type = client.embed(texts=TEXTS, model=MODEL, input_type=side, embedding_types=["float"])
        assert close(by_type.embeddings.float_, expected[kind])
    ranked = client.rerank(model=MODEL, query=TEXTS[0], documents=TEXTS, top_n=1)
    assert ranked.results[0].index == int(np.argmax(expected["document"] @ expected["query"][0]))


def test_voyage(address, expected):
    library = pytest.importorskip("voyageai")
    client = library.Client(api_key="unused", base_url=f"{address}/v1")
    for kind in ("query", "document"):
        assert close(client.embed(TEXTS, model=MODEL, input_type=kind).embeddings, expected[kind])
    cut = client.embed(TEXTS, model=MODEL, output_dimension=8).embeddings
    assert {len(row) for row in cut} == {8}
    scores = expected["document"] @ expected["query"][0]
    ranked = client.rerank(TEXTS[0], TEXTS, model=MODEL, top_k=2)
    assert [row.index for row in ranked.results] == np.argsort(-scores)[:2].tolist()
    with pytest.raises(library.error.InvalidRequestError, match="visible"):
        client.embed([""], model=MODEL)


def test_ollama(address, expected):
    library = pytest.importorskip("ollama")
    client = library.Client(host=address)
    assert close(client.embed(model=f"{MODEL}:document", input=TEXTS).embeddings, expected["document"])
    assert close(client.embeddings(model=f"{MODEL}:query", prompt=TEXTS[1]).embedding, expected["query"][1])
    assert [one.model for one in client.list().models] == [MODEL, f"{MODEL}:query", f"{MODEL}:document"]
    with pytest.raises(library.ResponseError, match=r"^input is blank"):
        client.embed(model=MODEL, input=" ")


def test_mistral(address, expected):
    library = pytest.importorskip("mistralai.client")
    client = library.Mistral(api_key="unused", server_url=address)
    answer = client.embeddings.create(model=f"{MODEL}:document", inputs=TEXTS)
    assert close([row.embedding for row in answer.data], expected["document"])
    names = [MODEL, f"{MODEL}:query", f"{MODEL}:document"]
    assert [one.id for one in client.models.list().data] == names
    assert [client.models.retrieve(model_id=name).id for name in names] == names


# Which brings its own form of each service's requests.


def test_litellm(address, expected):
    library = pytest.importorskip("litellm")
    for provider, base in (("openai", f"{address}/v1"), ("ollama", address)):
        settings = {"api_base": base, "api_key": "unused"}
        answer = library.embedding(model=f"{provider}/{MODEL}:document", input=TEXTS, **settings)
        assert close([row["embedding"] for row in answer.data], expected["document"])
