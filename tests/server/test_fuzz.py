"""What nobody thought of: requests made from the OpenAPI document, and bytes made from good requests.

A fixed number of each in the suite; `make fuzz` sets ECHOEMBED_FUZZ_SECONDS and goes on for as long, with new seeds.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings

import serving
from echoembed.server.settings import Limits, Settings

SECONDS = float(os.environ.get("ECHOEMBED_FUZZ_SECONDS", "0"))
EXAMPLES, ROUNDS = 8, 100
pytestmark = pytest.mark.timeout(SECONDS + 600)


@pytest.fixture
def server(request):
    """A server, with the seconds in which headers and bodies must arrive."""
    limits = Limits(texts=16, body_bytes=20_000, body_seconds=request.param, header_seconds=request.param)
    with serving.running(settings=Settings(port=0, limits=limits)) as one:
        one.server.config.timeout_keep_alive = 0.1  # else each good answer keeps its connection open
        yield one
        one.server.config.http_protocol_class.seconds = serving.LONG
        assert one.get("/health") == (200, {"status": "ok"})
        assert one.post("/v1/embeddings", {"input": "a"})[0] == 200
        assert b'status="5' not in one.get("/metrics")[1]
        assert one.server.service.queue.waiting == 0


def rounds(share: float) -> Iterator[int]:
    """Seeds: one, or as many as there is time for."""
    end = time.monotonic() + SECONDS * share
    number = 0
    while number == 0 or time.monotonic() < end:
        yield number
        number += 1


# A request that this process sends late, because the machine is busy, must not find its connection closed.
@pytest.mark.parametrize("server", [serving.LONG], indirect=True)
def test_requests_made_from_the_openapi_document_get_documented_answers(server):
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 12
    for number in rounds(0.5):
        for operation in operations:
            check(operation, number)


def check(operation, number: int) -> None:
    documented = {int(status) for status in operation.definition.raw["responses"]}

    @seed(number)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def each(case):
        answer = case.call(timeout=serving.LONG)
        assert answer.status_code in documented, (answer.status_code, answer.text)

    each()


GOOD = [
    b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 34\r\n\r\n"
    b'{"input": ["a cat", "the \\u00e9"] }',
    b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'9\r\n{"inputs"\r\n5\r\n:"a"}\r\n0\r\n\r\n',
    b"GET /info HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: one\r\nConnection: close\r\n\r\n",
]
PIECES = [
    *(b"\r\n", b"\x00", b"\xff\xfe", b"{", b"]", b'"', b"\\ud800", b"9" * 40, b"1e999", b"%00"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
]


def mutated(request: bytes, chance: random.Random) -> bytes:
    """A request with some bytes changed, left out, repeated or put in."""
    data = bytearray(request)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        stop = min(len(data), at + chance.randint(1, 12))
        match chance.randrange(5):
            case 0:
                data[at:stop] = chance.randbytes(stop - at)
            case 1:
                del data[at:stop]
            case 2:
                data[at:at] = chance.choice(PIECES)
            case 3:
                data[at:at] = data[at:stop] * chance.randint(1, 40)
            case 4:
                data = data[:at] or data
    return bytes(data)


# Many of these requests are never complete.
@pytest.mark.parametrize("server", [0.3], indirect=True)
def test_bytes_made_from_good_requests_get_a_4xx_an_answer_or_the_end_of_the_connection(server, caplog):
    for number in rounds(0.45):
        chance = random.Random(number)
        for _ in range(ROUNDS):
            request = mutated(chance.choice(GOOD), chance)
            answer = server.send(request, close=chance.random() < 0.2)
            answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")  # the last answer is what counts
            assert answer == b"" or answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4")), (request, answer[:300])
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
