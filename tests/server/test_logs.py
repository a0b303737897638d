"""What is counted and logged: all that an operator asks for, and nothing that was written in confidence."""

from __future__ import annotations

import json
import logging
import re
import socket

import pytest

import serving
from echoembed.server import logs
from echoembed.server.settings import Keys, Limits, Settings

SECRET, KEY = "a confidential sentence", "key-that-nobody-may-see"


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="echoembed.server")
    logging.getLogger("echoembed.server").propagate = True
    form = logs.JsonLines()
    return lambda: [json.loads(form.format(record)) for record in caplog.records if record.name == "echoembed.server"]


@pytest.fixture
def client():
    settings = Settings(keys=Keys.read(None, {"ECHOEMBED_API_KEY": KEY}))
    with serving.client(serving.service(settings=settings)) as one:
        one.headers["Authorization"] = f"Bearer {KEY}"
        yield one


def value(client, name, **labels):
    return client.app_under_test.service.metrics.registry.get_sample_value(f"echoembed_{name}", labels)


def test_a_request_is_a_line_with_its_id_and_its_numbers(client, lines):
    answer = client.post(
        "/embed", json={"inputs": ["a", "b " * 600], "truncate": True}, headers={"X-Request-Id": "my-1"}
    )
    [line] = [one for one in lines() if one["event"] == "request"]
    assert answer.headers["x-request-id"] == line["id"] == "my-1"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/embed", 200)
    assert (line["texts"], line["truncated_texts"]) == (2, 1)
    assert line["tokens"] > 0
    assert {"ms", "model_ms", "time", "level"} <= set(line)


@pytest.mark.parametrize("given", ["", "x" * 65, 'a"b', "a b", "a\tb", "é"])
def test_an_id_that_could_be_more_than_an_id_is_replaced(client, given):
    answer = client.post("/embed", json={"inputs": "a"}, headers=[("X-Request-Id", given.encode("latin-1"))])
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


def test_texts_and_keys_are_in_no_log_and_no_metric(client, lines, caplog):
    for body in (
        {"inputs": SECRET},
        {"inputs": [SECRET, ""]},
        {"inputs": [SECRET, 5]},
        {"inputs": SECRET, "x": SECRET},
    ):
        client.post("/embed", json=body)
    client.post("/v1/embeddings", json={"input": "a", "model": SECRET, "instruction": SECRET, "user": SECRET})
    client.post(f"/{SECRET}", json={"inputs": SECRET})
    client.get("/embed", params={"inputs": SECRET})
    client.request(SECRET.replace(" ", ""), "/embed")
    client.post("/embed", json={"inputs": SECRET}, headers={"Authorization": "Bearer wrong-" + KEY})

    async def broken(*_: object, **__: object):
        raise RuntimeError(f"a fault with {SECRET} in it")

    client.app_under_test.service.embed = broken
    assert client.post("/embed", json={"inputs": SECRET}).status_code == 500
    written = (
        json.dumps(lines()) + caplog.text.replace(f"a fault with {SECRET} in it", "") + client.get("/metrics").text
    )
    for word in (*SECRET.split()[1:], SECRET.replace(" ", ""), KEY):
        assert word not in written


def test_a_fault_is_logged_with_its_place_and_answered_with_its_id(client, lines):
    async def broken(*_: object, **__: object):
        raise RuntimeError("a secret")

    client.app_under_test.service.embed = broken
    answer = client.post("/v1/embeddings", json={"input": "a"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    [line] = [one for one in lines() if one.get("status") == 500]
    assert (line["level"], line["error"]) == ("error", "RuntimeError")
    assert any("test_logs.py" in place for place in line["at"])
    assert "a secret" not in json.dumps(line) + answer.text
    assert line["id"] in answer.json()["error"]["message"]


def test_requests_texts_tokens_and_cuts_are_counted(client):
    usage = client.post("/v1/embeddings", json={"input": ["a", "b"], "task": "document"}).json()["usage"]
    client.post("/embed", json={"inputs": "b " * 600, "truncate": True})
    client.post("/embed", json={})
    client.get("/no/such/route")
    assert value(client, "requests_total", route="/v1/embeddings", status="200") == 1
    assert value(client, "requests_total", route="/embed", status="400") == 1
    assert value(client, "requests_total", route="other", status="404") == 1
    assert value(client, "texts_total", kind="document") == 2
    assert value(client, "texts_total", kind="query") == 1
    assert value(client, "tokens_total") > usage["prompt_tokens"]
    assert value(client, "truncated_texts_total") == 1
    assert value(client, "truncated_tokens_total") > 0
    assert value(client, "queue_seconds_count") == 2
    assert value(client, "request_seconds_count", route="/embed") == 2
    assert value(client, "queue_tokens") == value(client, "queue_requests") == value(client, "held_bytes") == 0
    assert value(client, "up") == 1


def test_the_text_form_is_prometheus(client):
    from prometheus_client.parser import text_string_to_metric_families

    client.post("/embed", json={"inputs": "a"})
    families = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert {"echoembed_requests", "echoembed_pack_fill", "echoembed_queue_seconds", "process_open_fds"} <= families


def requests_counted(server, route, status):
    registry = server.server.service.metrics.registry
    return registry.get_sample_value("echoembed_requests_total", {"route": route, "status": status})


CHUNKED = b"Host: localhost\r\nX-Request-Id: my-2\r\nTransfer-Encoding: chunked\r\n"
MALFORMED = {
    "a chunk without a size, on a good route": (b"POST /embed", b"Content-Type: application/json\r\n", "/embed"),
    "refused for its type as well": (b"POST /embed", b"", "/embed"),
    "refused for its path as well": (b"POST /nothing", b"", "other"),
    "refused for its method as well": (b"POST /info", b"", "/info"),
    "with an answer that reads no body": (b"GET /health", b"", "/health"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body_is_answered_counted_and_logged_once(name, lines, caplog):
    start, header, route = MALFORMED[name]
    with serving.running() as server:
        answer = server.send(start + b" HTTP/1.1\r\n" + CHUNKED + header + b'\r\n5\r\n{"inp\r\nzz\r\n', close=False)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"x-request-id") + answer.count(b"Bad Request") == 1
    assert requests_counted(server, route, "400") == 1
    [line] = [one for one in lines() if one["event"] == "request"]
    assert (line["route"], line["status"]) == (route, 400)
    assert id_of(answer) == line["id"] == "my-2"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def id_of(answer: bytes) -> str:
    [id_] = re.findall(rb"(?i)\r\nx-request-id: (.*?)\r\n", answer)
    return id_.decode()


def test_bytes_that_are_no_request_are_counted_and_logged_once(lines):
    with serving.running() as server:
        answer = server.send(b"hello\r\n\r\n", close=False)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert requests_counted(server, "other", "400") == 1
    [line] = [one for one in lines() if one["event"] == "request"]
    assert (line["route"], line["status"], line["id"]) == ("other", 400, id_of(answer))


def test_bytes_that_are_no_request_after_a_good_one_have_an_id_of_their_own(lines):
    with serving.running() as server:
        answer = server.send(
            b"GET /info HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: one\r\n\r\nhello\r\n\r\n", close=False
        )
    ids = [id_.decode() for id_ in re.findall(rb"(?i)\r\nx-request-id: (.*?)\r\n", answer)]
    assert ids[0] == "one" != ids[1]
    assert set(ids) == {one["id"] for one in lines() if one["event"] == "request"}


def test_a_request_on_a_connection_too_many_is_counted_and_logged_with_its_id(lines):
    settings = Settings(port=0, limits=Limits(connections=1))
    with serving.running(settings=settings) as server, socket.create_connection((server.host, server.port)):
        answer = server.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: my-3\r\n\r\n", close=False)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert requests_counted(server, "other", "429") == 1
    [line] = [one for one in lines() if one["event"] == "request"]
    assert (line["route"], line["status"], line["id"]) == ("other", 429, "my-3")
    assert id_of(answer) == "my-3"
