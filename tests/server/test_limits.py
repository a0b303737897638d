"""The limits that are told are the ones that hold: one less, the limit itself, one more."""

from __future__ import annotations

import dataclasses
import json
import socket

import numpy as np
import pytest

import serving
from echoembed import errors
from echoembed.model.transformer import transformer_of
from echoembed.server.settings import Limits, Settings

E = "/v1/embeddings"


@pytest.fixture(scope="module")
def client():
    with serving.client(texts=5, body_bytes=20_000, instruction_characters=40) as one:
        yield one


@pytest.fixture(scope="module")
def info(client):
    return client.get("/info").json()


def text_of(tokens: int) -> str:
    """A text of exactly so many tokens."""
    text = "a" + " a" * (tokens - 1)
    [piece] = transformer_of(serving.model()).pieces.encode([" " + text])
    assert len(piece.ids) == tokens
    return text


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)])
def test_tokens_of_a_text(client, info, over, status):
    for kind, limit in info["max_text_tokens"].items():
        answer = client.post(E, json={"input": ["a", text_of(limit + over)], "task": kind})
        assert answer.status_code == status
        if status == 413:
            error = answer.json()["error"]
            assert (error["param"], error["code"]) == ("input[1]", "text_too_long")
    assert info["max_input_length"] == min(info["max_text_tokens"].values())
    assert client.post("/embed", json={"inputs": text_of(info["max_input_length"] + over)}).status_code == status


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)])
def test_texts_of_a_request(client, info, over, status):
    texts = ["a"] * (info["max_client_batch_size"] + over)
    for path, body in (
        (E, {"input": texts}),
        ("/embed", {"inputs": texts}),
        ("/rerank", {"query": "a", "texts": texts}),
    ):
        assert client.post(path, json=body).status_code == status


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)])
def test_bytes_of_a_body(client, info, over, status):
    body = json.dumps({"input": "a"}).encode()
    body += b" " * (info["max_body_bytes"] + over - len(body))
    answer = client.post(E, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)])
def test_tokens_of_a_request(over, status):
    read = [len(prompt.ids) for prompt in serving.service().encoder.read(["a cat", "the rain"], "query")]
    with serving.client(request_tokens=sum(read) - over) as one:
        assert one.get("/info").json()["max_request_tokens"] == sum(read) - over
        assert one.post(E, json={"input": ["a cat", "the rain"]}).status_code == status


def test_the_largest_request_fits_the_queue():
    """Else a request within every limit could be refused for ever."""
    with serving.client(texts=3) as one:
        limit = one.get("/info").json()["max_text_tokens"]["query"]
        answer = one.post(E, json={"input": [text_of(limit)] * 3})
        assert answer.status_code == 200
        assert answer.json()["usage"]["prompt_tokens"] <= one.get("/info").json()["max_request_tokens"]


def test_the_largest_request_fits_the_queue_with_several_prompts_of_each_text():
    loaded = serving.model(recipe="prompteol-bag")
    with serving.client(serving.service(serving.ServedModel(loaded), texts=3)) as one:
        limit = one.get("/info").json()["max_text_tokens"]["query"]
        answer = one.post(E, json={"input": [text_of(limit)] * 3})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["prompt_tokens"] <= one.get("/info").json()["max_request_tokens"]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_a_limit_that_is_no_positive_number_is_refused(name, value):
    with pytest.raises(errors.ServerError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 400)])
def test_dimensions(client, info, over, status):
    dimensions = info["echoembed"]["dimension"] + over
    answer = client.post(E, json={"input": "a", "dimensions": dimensions})
    assert answer.status_code == status
    if status == 200:
        assert np.linalg.norm(answer.json()["data"][0]["embedding"]) == pytest.approx(1, abs=1e-6)


def test_what_is_cut_is_told_in_headers_and_only_where_it_was_asked_for(client, info):
    limit = info["max_text_tokens"]["query"]
    long, longer = text_of(limit + 3), text_of(limit + 8)
    for path, body in (
        (E, {"input": ["a", long, longer], "truncate": True}),
        (E, {"input": ["a", long, longer], "truncation": True}),
        ("/embed", {"inputs": ["a", long, longer], "truncate": True}),
        ("/api/embed", {"input": ["a", long, longer], "truncate": True}),
        ("/v2/embed", {"texts": ["a", long, longer], "truncate": "END", "input_type": "search_query"}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 200
        assert answer.headers["x-echoembed-truncated-texts"] == "2"
        assert answer.headers["x-echoembed-truncated-tokens"] == "11"
    whole = client.post(E, json={"input": "a", "truncate": True})
    assert "x-echoembed-truncated-texts" not in whole.headers
    cut = client.post(E, json={"input": [long, text_of(limit)], "truncate": True}).json()["data"]
    assert cut[0]["embedding"] == pytest.approx(cut[1]["embedding"], abs=1e-5)


def test_what_all_requests_hold_is_bounded_and_given_back():
    with serving.client(held_bytes=600) as one:
        refused = one.post(E, json={"input": "a " * 400})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert one.app_under_test.held.bytes == 0
        assert one.post(E, json={"input": "a"}).status_code == 200
        assert one.app_under_test.held.bytes == 0


def test_one_connection_too_many_is_told_so_and_room_is_made_when_others_end():
    settings = Settings(port=0, limits=Limits(connections=3))
    with serving.running(settings=settings) as server:
        idle = [socket.create_connection((server.host, server.port)) for _ in range(3)]
        try:
            status, content = server.post(E, {"input": "a"})
            assert (status, content["error"]["code"]) == (429, "overloaded")
        finally:
            for one in idle:
                one.close()
        statuses = [server.post(E, {"input": "a"})[0] for _ in range(20)]
        assert statuses[-1] == 200
