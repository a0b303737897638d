"""Requests that nobody should send get the answer the documentation promises: a 4xx with a reason, never a 5xx."""

from __future__ import annotations

import http.client
import json
import re

import pytest

import serving
from echoembed.server.settings import KEY_VARIABLE, Keys, Settings

KEY = "k3y-of-the-first-client"
E = "/v1/embeddings"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client():
    with serving.client(body_bytes=64 * 1024, texts=8, instruction_characters=50) as one:
        yield one


def deep(count: int, opening: str = "[", closing: str = "]") -> bytes:
    return b'{"input": ' + opening.encode() * count + closing.encode() * count + b"}"


BODIES: list[tuple[str, str, bytes, int]] = [
    # Broken JSON.
    ("nothing", E, b"", 400),
    ("a blank", E, b"   ", 400),
    ("half an object", E, b'{"input": "a"', 400),
    ("single quotes", E, b"{'input': 'a'}", 400),
    ("a comma too many", E, b'{"input": "a",}', 400),
    ("a comment", E, b'{"input": "a"} // so', 400),
    ("two objects", E, b'{"input": "a"}{"input": "b"}', 400),
    ("NaN", E, b'{"input": "a", "dimensions": NaN}', 400),
    ("minus infinity", E, b'{"input": "a", "dimensions": -Infinity}', 400),
    ("NUL after the object", E, b'{"input": "a"}\x00', 400),
    ("an escape that is none", E, rb'{"input": "\x61"}', 400),
    ("a line break in a string", E, b'{"input": "a\nb"}', 400),
    ("not JSON at all", E, b"input=a&model=tiny", 400),
    # Other JSON.
    ("an array", E, b'["a"]', 400),
    ("a string", E, b'"a"', 400),
    ("a number", E, b"1", 400),
    ("null", E, b"null", 400),
    ("true", E, b"true", 400),
    ("an empty object", E, b"{}", 400),
    # Wrong types.
    ("input null", E, b'{"input": null}', 400),
    ("input a number", E, b'{"input": 5}', 400),
    ("input an object", E, b'{"input": {"a": 1}}', 400),
    ("input empty", E, b'{"input": []}', 400),
    ("input of lists of texts", E, b'{"input": [["a"]]}', 400),
    ("input of nulls", E, b'{"input": [null]}', 400),
    ("input mixed", E, b'{"input": ["a", 1]}', 400),
    ("input true", E, b'{"input": true}', 400),
    ("model a number", E, b'{"input": "a", "model": 1}', 400),
    ("model a list", E, b'{"input": "a", "model": ["tiny"]}', 400),
    ("dimensions in quotes", E, b'{"input": "a", "dimensions": "8"}', 400),
    ("dimensions a fraction", E, b'{"input": "a", "dimensions": 8.5}', 400),
    ("dimensions true", E, b'{"input": "a", "dimensions": true}', 400),
    ("dimensions 0", E, b'{"input": "a", "dimensions": 0}', 400),
    ("dimensions below 0", E, b'{"input": "a", "dimensions": -1}', 400),
    ("dimensions above the model's", E, b'{"input": "a", "dimensions": 257}', 400),
    ("truncate in quotes", E, b'{"input": "a", "truncate": "true"}', 400),
    ("truncate 1", E, b'{"input": "a", "truncate": 1}', 400),
    ("an encoding that is none", E, b'{"input": "a", "encoding_format": "hex"}', 400),
    ("an output type that is not given", E, b'{"input": "a", "output_dtype": "int8"}', 400),
    ("a field that is none", E, b'{"input": "a", "dimension": 8}', 400),
    ("a field of the language", E, b'{"input": "a", "__proto__": {"x": 1}}', 400),
    ("messages", E, b'{"messages": [{"role": "user", "content": "a"}]}', 400),
    # Numbers.
    ("a huge number", E, b'{"input": "a", "dimensions": ' + b"9" * 400 + b"}", 400),
    ("a number of many digits", E, b'{"input": "a", "dimensions": ' + b"9" * 5000 + b"}", 400),
    ("a huge exponent", E, b'{"input": "a", "dimensions": 1e999}', 400),
    ("a long fraction", E, b'{"input": "a", "dimensions": 0.' + b"3" * 3000 + b"}", 400),
    # Nesting.
    ("deep arrays", E, deep(20_000), 400),
    ("deep objects", E, b'{"input": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", 400),
    ("arrays never closed", E, b'{"input": ' + b"[" * 30_000, 400),
    # Unicode.
    ("bytes that are not UTF-8", E, b'{"input": "\xff\xfe"}', 400),
    ("UTF-8 cut in a letter", E, b'{"input": "\xc3"}', 400),
    ("overlong UTF-8", E, b'{"input": "\xc0\xaf"}', 400),
    ("UTF-16", E, '{"input": "a"}'.encode("utf-16"), 400),
    ("UTF-32", E, '{"input": "a"}'.encode("utf-32"), 400),
    ("a byte order mark", E, b'\xef\xbb\xbf{"input": "a"}', 400),
    ("half a surrogate pair", E, rb'{"input": "\ud800"}', 400),
    ("half a pair in the model's name", E, rb'{"input": "a", "model": "\udfff"}', 404),
    ("half a pair in a field's name", E, rb'{"input": "a", "\ud800": 1}', 400),
    ("NUL in a text", E, rb'{"input": "a\u0000b"}', 400),
    ("an escape character in a text", E, rb'{"input": "a\u001bb"}', 400),
    ("a blank text", E, b'{"input": " \\n\\t "}', 400),
    ("an empty text among others", E, b'{"input": ["a", ""]}', 400),
    ("line breaks in the model's name", E, rb'{"input": "a", "model": "a\r\nX-Evil: 1"}', 404),
    # Keys twice.
    ("input twice", E, b'{"input": "a", "input": "b"}', 400),
    ("a key twice inside", "/embed", b'{"inputs": {"sentences": ["a"], "sentences": ["b"]}}', 400),
    ("one key in two spellings", E, rb'{"input": "a", "inp\u0075t": "b"}', 400),
    # Sizes.
    ("a body too large", E, b'{"input": "' + b"a " * 40_000 + b'"}', 413),
    ("a body far too large", E, b'{"input": "' + b"a" * 400_000 + b'"}', 413),
    ("too many texts", E, b'{"input": ["a","a","a","a","a","a","a","a","a"]}', 413),
    ("a text too long", E, b'{"input": "' + b"a " * 700 + b'"}', 413),
    ("an instruction too long", E, b'{"input": "a", "instruction": "' + b"x" * 51 + b'"}', 400),
    # Models and paths: none is looked for anywhere.
    ("another model", E, b'{"input": "a", "model": "text-embedding-3-small"}', 404),
    ("a model that is a path", E, b'{"input": "a", "model": "../../etc/passwd"}', 404),
    ("a model that is a folder", E, b'{"input": "a", "model": "/tmp"}', 404),
    ("a model with a third kind", E, b'{"input": "a", "model": "tiny:passage"}', 404),
    # Other routes.
    ("TEI: no inputs", "/embed", b"{}", 400),
    ("TEI: token ids", "/embed", b'{"inputs": [1, 2]}', 400),
    ("TEI: cut on the left", "/embed", b'{"inputs": "a", "truncation_direction": "left"}', 400),
    ("TEI: a prompt that is none", "/embed", b'{"inputs": "a", "prompt_name": "s2p_query"}', 400),
    ("TEI: nothing at the root", "/", b"{}", 400),
    ("TEI: similarity without sentences", "/similarity", b'{"inputs": {"source_sentence": "a"}}', 400),
    (
        "TEI: similarity to nothing",
        "/similarity",
        b'{"inputs": {"source_sentence": "a", "sentences": []}}',
        400,
    ),
    ("TEI: similarity of ids", "/similarity", b'{"inputs": {"source_sentence": "a", "sentences": [1]}}', 400),
    ("TEI: without special tokens", "/tokenize", b'{"inputs": "a", "add_special_tokens": false}', 400),
    ("Cohere: no side", "/v2/embed", b'{"texts": ["a"]}', 400),
    (
        "Cohere: bits",
        "/v2/embed",
        b'{"texts": ["a"], "input_type": "search_query", "embedding_types": ["ubinary"]}',
        400,
    ),
    ("rerank: no documents", "/rerank", b'{"query": "a"}', 400),
    ("rerank: documents and texts", "/rerank", b'{"query": "a", "documents": ["b"], "texts": ["c"]}', 400),
    ("rerank: none", "/v2/rerank", b'{"query": "a", "documents": []}', 400),
    ("rerank: objects without a text", "/v2/rerank", b'{"query": "a", "documents": [{"title": "b"}]}', 400),
    ("rerank: the best -1", "/v2/rerank", b'{"query": "a", "documents": ["b"], "top_n": -1}', 400),
    ("rerank: the best 0", "/v2/rerank", b'{"query": "a", "documents": ["b"], "top_n": 0}', 400),
    ("Ollama: options", "/api/embed", b'{"model": "tiny", "input": "a", "options": {"seed": 1}}', 400),
    ("page: too much", "/compare", json.dumps({"query": "a", "texts": ["b"] * 33}).encode(), 413),
    ("page: nothing", "/compare", b'{"query": "a", "texts": []}', 400),
]


@pytest.mark.parametrize(("path", "body", "status"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_a_hostile_body_is_refused(client, path, body, status):
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    refused_well(answer, answer.text)


def test_a_key_with_half_a_surrogate_pair_is_told_as_that(client):
    answer = client.post(E, content=rb'{"input": "a", "\ud800": 1}', headers=JSON)
    assert "surrogate" in answer.json()["message"]
    assert "  " not in answer.json()["message"]


METHODS = [
    ("HEAD", E, "POST"),
    ("GET", E, "POST"),
    ("DELETE", "/", "GET, HEAD, POST"),
    ("PUT", "/info", "GET, HEAD"),
    ("POST", "/health", "GET, HEAD"),
    ("POST", "/metrics", "GET, HEAD"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_another_method_is_named_with_those_that_are_allowed(client, method, path, allowed):
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert f"'{method}'" in answer.headers["x-error-message"]
    assert allowed in answer.headers["x-error-message"]
    for one in allowed.split(", "):
        assert client.request(one, path).status_code != 405


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/info", {"Host": "evil.example"}, 403),
        ("POST", "/info", {}, 405),
        ("GET", "/embed", {}, 405),
        ("PUT", "/embed", {}, 405),
        ("POST", "/", {"Host": "evil.example"}, 403),
        ("POST", "/embed", {}, 415),
    ],
)
def test_every_refusal_of_teis_routes_has_teis_form(client, method, path, headers, status):
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}


@pytest.mark.parametrize("path", ["/", E, "/nothing"])
def test_the_page_and_other_routes_have_openais_form(client, path):
    answer = client.get(path, headers={"Host": "evil.example"})
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def refused_well(answer, text: str) -> None:
    """The body and the headers of every error, as clients read them."""
    content = json.loads(text)
    message = content["error"]["message"] if isinstance(content["error"], dict) else content["error"]
    assert message
    assert len(message.splitlines()) == 1
    assert answer.headers["x-error-message"].isascii()
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", answer.headers["x-request-id"])
    assert "x-evil" not in answer.headers
    assert "Traceback" not in text


REQUESTS = [
    ("no content type", "POST", E, {}, 415),
    ("a form", "POST", E, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ("plain text, as pages elsewhere may send", "POST", E, {"Content-Type": "text/plain"}, 415),
    ("another charset", "POST", E, {"Content-Type": "application/json; charset=latin-1"}, 415),
    ("XML", "POST", E, {"Content-Type": "application/xml"}, 415),
    ("a content type cut short", "POST", E, {"Content-Type": "application"}, 415),
    ("compressed", "POST", E, {**JSON, "Content-Encoding": "gzip"}, 415),
    ("read", "GET", E, {}, 405),
    ("put", "PUT", E, JSON, 405),
    ("delete", "DELETE", E, {}, 405),
    ("options, as another page's browser asks", "OPTIONS", E, {"Origin": "https://elsewhere.example"}, 405),
    ("a method of its own", "FROBNICATE", E, {}, 405),
    ("post to what is read", "POST", "/info", JSON, 405),
    ("post to the metrics", "POST", "/metrics", JSON, 405),
    ("delete the page", "DELETE", "/", {}, 405),
    ("nothing there", "POST", "/v1/nothing", JSON, 404),
    ("a slash too many", "POST", "/v1/embeddings/", JSON, 404),
    ("two slashes", "POST", "//v1/embeddings", JSON, 404),
    ("up and down", "POST", "/v1/../v1/embeddings", JSON, 404),
    ("up and down, written otherwise", "GET", "/%2e%2e/%2e%2e/etc/passwd", {}, 404),
    ("a file of the page's folder", "GET", "/index.html", {}, 404),
    ("a module of the package", "GET", "/page/../app.py", {}, 404),
    ("NUL in the path", "GET", "/%00", {}, 404),
    ("upper case", "POST", "/V1/Embeddings", JSON, 404),
    ("another host", "POST", E, {**JSON, "Host": "evil.example"}, 403),
    ("another host with this address in it", "POST", E, {**JSON, "Host": "127.0.0.1.evil.example"}, 403),
]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS]
)
def test_a_hostile_request_is_refused(method, path, headers, status, raw_server):
    """Over a socket, for clients tidy up such paths before they send them."""
    body = b'{"input": "a"}' if method in ("POST", "PUT") else b""
    named = {"Host": "localhost", "Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    answer = raw_server.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body, close=False)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"access-control" not in answer.lower()


@pytest.fixture(scope="module")
def raw_server():
    from echoembed.server.settings import Limits, Settings

    limits = Limits(body_bytes=64 * 1024, body_seconds=0.2, header_seconds=0.2)
    with serving.running(settings=Settings(port=0, limits=limits)) as server:
        yield server


HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD = b'{"input": "a"}'
WIRE: list[tuple[str, list[bytes], bytes]] = [
    ("no HTTP", [b"hello\r\n\r\n"], b" 400 "),
    ("TLS", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], b" 400 "),
    ("HTTP/2", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], b" 404 "),
    ("no host", [b"GET /health HTTP/1.1\r\n\r\n"], b" 400 "),
    ("a header without a colon", [b"GET /health HTTP/1.1\r\nHost: localhost\r\nbroken\r\n\r\n"], b" 400 "),
    ("a header with a blank before the colon", [b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n"], b" 400 "),
    ("headers without end", [b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * 200_000], b""),
    ("a length that is no number", [HEAD + b"Content-Length: ten\r\n\r\n" + GOOD], b" 400 "),
    ("a length below 0", [HEAD + b"Content-Length: -5\r\n\r\n" + GOOD], b" 400 "),
    ("two lengths", [HEAD + b"Content-Length: 14\r\nContent-Length: 3\r\n\r\n" + GOOD], b" 400 "),
    ("a length of 20 digits", [HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"], b" 413 "),
    ("no length", [HEAD + b"\r\n" + GOOD], b" 400 "),
    ("a chunk size that is none", [HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], b" 400 "),
    ("another transfer encoding", [HEAD + b"Transfer-Encoding: gzip\r\n\r\n"], b" 501 "),
    ("a body cut short", [HEAD + b"Content-Length: 100\r\n\r\n" + GOOD], b""),
    ("a body that never ends", [HEAD + b"Content-Length: 100\r\n\r\n", GOOD], b" 408 "),
    ("chunks without end", [HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"], b" 408 "),
    ("headers that never end", [HEAD], b""),
    ("nothing at all", [], b""),
]
OPEN = ("a body that never ends", "chunks without end", "headers that never end", "nothing at all")


@pytest.mark.parametrize(("name", "parts", "status"), WIRE, ids=[row[0] for row in WIRE])
def test_bytes_that_are_no_request_end_the_connection(raw_server, name, parts, status):
    answer = raw_server.send(*parts, close=name not in OPEN)
    if status == b" 501 ":
        assert answer.split(b"\r\n")[0].split(b" ")[1] in (b"400", b"501")
    elif status:
        assert status in answer.split(b"\r\n")[0], answer[:300]
        assert b"X-Error-Message".lower() in answer.lower()
    else:
        assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]


def test_chunked_bodies_and_slow_ones_are_read(raw_server):
    chunks = [b"%x\r\n%s\r\n" % (1, GOOD[at : at + 1]) for at in range(len(GOOD))]
    answer = raw_server.send(
        HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", *chunks, b"0\r\n\r\n", close=False
    )
    assert b" 200 " in answer.split(b"\r\n")[0]


def test_pipelined_requests_are_answered_in_order(raw_server):
    def one(body: bytes, more: bytes = b"") -> bytes:
        return HEAD + more + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    answer = raw_server.send(one(GOOD) + one(b"{}") + one(GOOD, b"Connection: close\r\n"), close=False)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400", b"200"]


LARGE = b'{"input": "' + b"a" * 6_000_000 + b'"}'
EARLY = [
    ("no key", E, {**JSON, "Authorization": "Bearer wrong"}, 401),
    ("no route", "/v1/nothing", {**JSON, "Authorization": f"Bearer {KEY}"}, 404),
    ("another method", "/info", {**JSON, "Authorization": f"Bearer {KEY}"}, 405),
    ("no JSON", E, {"Content-Type": "text/plain", "Authorization": f"Bearer {KEY}"}, 415),
]


@pytest.fixture(scope="module")
def keyed_server():
    with serving.running(settings=Settings(port=0, keys=Keys.read(None, {KEY_VARIABLE: KEY}))) as server:
        yield server


@pytest.mark.parametrize(("path", "headers", "status"), [row[1:] for row in EARLY], ids=[row[0] for row in EARLY])
def test_a_refusal_reaches_the_sender_of_a_large_body_and_the_connection_serves_on(keyed_server, path, headers, status):
    for method in ("POST", "PUT"):
        expected = 405 if method == "PUT" and status == 415 else status
        connection = http.client.HTTPConnection(keyed_server.host, keyed_server.port, timeout=serving.LONG)
        try:
            for _ in range(2):
                connection.request(method, path, LARGE, headers)
                answer = connection.getresponse()
                assert answer.status == expected
                refused_well(answer, answer.read().decode())
        finally:
            connection.close()


def test_another_host_is_told_so_however_large_its_body_is():
    with serving.running() as server:
        for _ in range(3):
            assert server.ask("POST", E, LARGE, **{**JSON, "Host": "evil.example"})[0] == 403


def test_a_client_that_asks_first_is_refused_before_it_sends_its_body(raw_server):
    head = b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    answer = raw_server.send(head, close=False)
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_the_server_is_well_after_all_of_it(raw_server):
    assert raw_server.get("/health") == (200, {"status": "ok"})
    assert raw_server.post(E, {"input": "a"})[0] == 200
    assert not re.search(rb'status="5\d\d"', raw_server.get("/metrics")[1])


def test_the_table_is_as_long_as_promised():
    assert len(BODIES) + len(REQUESTS) + len(WIRE) >= 60
