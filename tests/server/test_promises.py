"""What the server promises, tried without a clock: the model is held up and let go where it matters."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import serving
from echoembed import errors
from echoembed.server.encoder import ServedModel, Vectors
from echoembed.server.service import Ask
from echoembed.server.settings import Limits, Settings

E = "/v1/embeddings"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "over", "the", "old", "town", "and", "river"]


def texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 60))) for _ in range(count)]


def vectors(answer) -> np.ndarray:
    status, content = answer
    assert status == 200, content
    return np.array([row["embedding"] for row in content["data"]], dtype=np.float32)


def in_company(server, some: list[str]) -> np.ndarray:
    """Vectors of texts that were asked for by many clients at once, in requests of many sizes."""
    parts = [some[start : start + 1 + start % 7] for start in range(0, len(some), 7)]
    rest = [some[start + 1 + start % 7 : start + 7] for start in range(0, len(some), 7)]
    asked = [part for part in [*parts, *rest] if part]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda part: vectors(server.post(E, {"input": part})), asked))
    by_text = {text: row for part, rows in zip(asked, found, strict=True) for text, row in zip(part, rows, strict=True)}
    return np.stack([by_text[text] for text in some])


def test_a_vector_is_the_same_alone_in_any_company_and_through_the_library():
    some = texts(70)
    with serving.running() as server:
        together = in_company(server, some)
        alone = np.vstack([vectors(server.post(E, {"input": text})) for text in some[:10]])
    library = serving.model().encode(some)
    assert np.abs(together - library).max() < 2e-6
    assert np.abs(together[:10] - alone).max() < 2e-6


def test_it_has_the_same_bits_where_that_is_asked_for():
    some = texts(70)
    loaded = serving.model(deterministic=True)
    with serving.running(loaded=loaded) as server:
        together = in_company(server, some)
        alone = np.vstack([vectors(server.post(E, {"input": text})) for text in some[:10]])
    library = loaded.encode(some)
    assert np.array_equal(together, library)
    assert np.array_equal(together[:10], alone)
    assert np.array_equal(loaded.encode(some[:1]), library[:1])


class Quick(serving.HeldEncoder):
    """Waits where it is told to, and gives vectors that cost nothing."""

    def vectors(self, prompts, lane=""):
        super().wait(prompts)
        made_ND = np.random.default_rng(0).standard_normal((len(prompts), self.dimension), dtype=np.float32)
        return Vectors(made_ND, made_ND)


@pytest.fixture
def held():
    """A server whose model waits until it is let go."""
    with serving.running(Quick) as server:
        encoder = server.server.service.encoder
        encoder.hold()
        yield server, encoder
        encoder.free.set()


def test_a_one_item_request_waits_for_one_pack_of_a_large_one(held):
    server, encoder = held
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(server.post, E, {"input": texts(2048)})
        encoder.wait_for_pack()
        small = pool.submit(server.post, E, {"input": "nobody waits"})
        wait_until(lambda: len(server.server.service.queue) == 2)
        assert not small.done()
        encoder.free.set()
        assert small.result(serving.LONG)[0] == 200
        place = next(n for n, pack in enumerate(encoder.packs) if any("nobody" in prompt.text for prompt in pack))
        assert place == 1, "in the pack after the one that was being run"
        assert large.result(serving.LONG)[0] == 200


async def until(true) -> None:
    """Wait for what another thread or task is about to do."""
    async with asyncio.timeout(serving.LONG):
        while not true():
            await asyncio.sleep(0.005)


def wait_until(true) -> None:
    asyncio.run(until(true))


def test_overload_is_answered_at_once_and_nothing_is_kept_of_it():
    settings = Settings(port=0, limits=Limits(request_tokens=4000))
    with serving.running(Quick, settings) as server:
        encoder, service = server.server.service.encoder, server.server.service
        encoder.hold()
        with ThreadPoolExecutor(4) as pool:
            begun = pool.submit(server.post, E, {"input": texts(10)})
            encoder.wait_for_pack()
            full = pool.submit(server.post, E, {"input": texts(10, seed=1) * 3})
            wait_until(lambda: service.queue.waiting > 2000)
            waiting = service.queue.waiting
            for _ in range(20):  # the model stands still: these answers do not wait for it
                status, content = server.post(E, {"input": texts(40, seed=2)})
                assert (status, content["error"]["code"]) == (429, "overloaded")
            assert service.queue.waiting == waiting
            encoder.free.set()
            assert [one.result(serving.LONG)[0] for one in (begun, full)] == [200, 200]
        assert (service.queue.waiting, len(service.queue)) == (0, 0)


def test_what_a_client_that_goes_has_asked_for_is_not_computed(held):
    server, encoder = held
    service = server.server.service
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, E, {"input": "this client stays"})
        encoder.wait_for_pack()
        body = json.dumps({"input": texts(30)}).encode()
        head = f"POST {E} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        gone = [socket.create_connection((server.host, server.port)) for _ in range(10)]
        for one in gone:
            one.sendall(head.encode() + body)
        wait_until(lambda: len(service.queue) == 10)
        asked = service.queue.waiting
        for one in gone:
            one.close()
        wait_until(lambda: len(service.queue) == 0)
        assert service.queue.waiting == 0
        assert service.metrics.registry.get_sample_value("echoembed_cancelled_tokens_total") == asked
        encoder.free.set()
        assert first.result(serving.LONG)[0] == 200
    assert len(encoder.packs) == 1


def test_a_request_past_its_deadline_is_given_up_and_freed():
    settings = Settings(port=0, limits=Limits(seconds=0.05))
    with serving.running(Quick, settings) as server:
        encoder = server.server.service.encoder
        encoder.hold()
        answers = [server.post(E, {"input": texts(30)}) for _ in range(3)]
        assert [(status, content["error"]["code"]) for status, content in answers] == [(503, "deadline")] * 3
        assert server.server.service.queue.waiting == 0
        encoder.free.set()


def test_health_tells_the_truth(held):
    server, encoder = held
    service = server.server.service
    assert server.get("/health") == (200, {"status": "ok"})
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(server.post, E, {"input": "a"})
        encoder.wait_for_pack()
        assert service.state() == "ok"
        assert service.state(now=service.worker.busy_since + 3600) == "model hangs"
        encoder.free.set()
        assert begun.result(serving.LONG)[0] == 200
    assert service.state(now=1e12) == "ok"
    service.stopping = True
    assert server.get("/health") == (503, {"status": "stopping"})
    service.stopping = False


def test_a_dead_model_is_told_to_everyone_and_by_health():
    class Dying(serving.HeldEncoder):
        def vectors(self, prompts, lane=""):
            found = super().vectors(prompts, lane)
            if any("the end" in prompt.text for prompt in prompts):
                raise SystemExit(9)
            return found

    service = serving.service(Dying(serving.model()))
    service.encoder.hold()

    async def scene() -> list[object]:
        service.start()
        asked = [asyncio.create_task(service.embed(Ask(texts=["the end"])))]
        await asyncio.to_thread(service.encoder.wait_for_pack)
        asked += [asyncio.create_task(service.embed(Ask(texts=[text]))) for text in texts(5)]
        await until(lambda: len(service.queue) == 5)
        service.encoder.free.set()
        told = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), serving.LONG)
        with pytest.raises(errors.RequestError):
            await service.embed(Ask(texts=["another"]))
        return told

    told = asyncio.run(scene())
    assert [one.status for one in told] == [503] * 6
    assert service.state() == "model stopped"


def test_a_stopping_service_finishes_what_it_has():
    service = serving.service(serving.HeldEncoder(serving.model()))
    service.encoder.hold()

    async def scene() -> list[object]:
        service.start()
        asked = [asyncio.create_task(service.embed(Ask(texts=texts(5))))]
        await asyncio.to_thread(service.encoder.wait_for_pack)
        asked += [asyncio.create_task(service.embed(Ask(texts=texts(5, seed)))) for seed in range(1, 8)]
        await until(lambda: len(service.queue) == 7)
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0)
        service.encoder.free.set()
        await closing
        return await asyncio.gather(*asked)

    answers = asyncio.run(scene())
    assert sum(len(one.vectors) for [one] in answers) == 40


def test_one_text_that_poisons_the_model_fails_alone_over_http(monkeypatch):
    real = ServedModel.vectors

    def poisoned(self, prompts, lane=""):
        if any("poison" in prompt.text for prompt in prompts):
            raise errors.model_states_not_finite("tiny")
        return real(self, prompts, lane)

    monkeypatch.setattr(ServedModel, "vectors", poisoned)
    with serving.running() as server, ThreadPoolExecutor(12) as pool:
        bodies = [{"input": "poison" if number == 5 else f"a cat {number}"} for number in range(12)]
        statuses = [status for status, _ in pool.map(lambda body: server.post(E, body), bodies)]
    assert statuses == [422 if number == 5 else 200 for number in range(12)]


def test_a_request_that_the_queue_is_too_full_for_is_not_rendered_to_its_end(monkeypatch):
    service = serving.service(Quick(serving.model()), request_tokens=4000)
    rendered: list[str] = []
    read = service.encoder.read
    monkeypatch.setattr(
        service.encoder, "read", lambda part, *rest, **more: rendered.extend(part) or read(part, *rest, **more)
    )

    async def asked(count: int, words: int) -> errors.RequestError:
        with pytest.raises(errors.RequestError) as refused:
            await service.embed(Ask(texts=["town " * words] * count))
        return refused.value

    assert asyncio.run(asked(2000, 1)).status == 413
    assert rendered == []
    assert asyncio.run(asked(150, 30)).status == 413
    assert len(rendered) == 64


def test_a_body_without_room_beside_what_waits_is_refused_before_it_is_parsed_and_taken_where_nothing_waits():
    settings = Settings(port=0, limits=Limits(request_tokens=4000))
    with serving.running(Quick, settings) as server, ThreadPoolExecutor(4) as pool:
        encoder, service = server.server.service.encoder, server.server.service
        for seed in range(20):  # the server learns how many tokens a body of such texts holds
            assert server.post(E, {"input": texts(10, seed=seed)})[0] == 200
        encoder.hold()
        begun = pool.submit(server.post, E, {"input": texts(10)})
        encoder.wait_for_pack()
        full = pool.submit(server.post, E, {"input": texts(10, seed=1) * 3})
        wait_until(lambda: service.queue.waiting > 2000)
        parsed = b'{"input": ' + b'["a broken body", ' * 1000
        assert server.ask("POST", E, parsed, **{"Content-Type": "application/json"})[0] == 429
        assert server.ask("POST", "/tokenize", parsed, **{"Content-Type": "application/json"})[0] == 400
        assert server.post("/tokenize", {"inputs": texts(10)})[0] == 200
        encoder.free.set()
        assert [one.result(serving.LONG)[0] for one in (begun, full)] == [200, 200]
        assert server.ask("POST", E, parsed, **{"Content-Type": "application/json"})[0] == 400


def test_a_body_that_fits_is_taken_beside_what_waits_in_every_script():
    """A letter of it may take six bytes of a body, and then a token must not count as six."""
    settings = Settings(port=0, limits=Limits(request_tokens=4000))
    with serving.running(Quick, settings) as server, ThreadPoolExecutor(4) as pool:
        encoder, service = server.server.service.encoder, server.server.service
        some = ["\u732b\u304c\u7573\u306e\u4e0a\u3067\u7720\u308b" * 4] * 6
        tokens = server.post(E, {"input": some})[1]["usage"]["prompt_tokens"]
        assert 1000 < tokens < 2000
        for _ in range(20):
            assert server.post(E, {"input": some})[0] == 200
        encoder.hold()
        begun = pool.submit(server.post, E, {"input": "a"})
        encoder.wait_for_pack()
        first = pool.submit(server.post, E, {"input": some})
        wait_until(lambda: service.queue.waiting == tokens)
        second = pool.submit(server.post, E, {"input": some})
        wait_until(lambda: service.queue.waiting == 2 * tokens or second.done())
        encoder.free.set()
        assert [one.result(serving.LONG)[0] for one in (begun, first, second)] == [200, 200, 200]


def test_a_client_that_does_not_read_its_answer_loses_its_connection_and_holds_nothing():
    settings = Settings(port=0, limits=Limits(header_seconds=0.2))
    with serving.running(Quick, settings) as server:
        body = json.dumps({"input": ["a"] * 2048}).encode()
        head = f"POST {E} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((server.host, server.port))
        deaf.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        app = server.server.config.app
        wait_until(lambda: app.held.bytes > 2**20)
        wait_until(lambda: app.held.bytes == 0 and not server.server.server_state.connections)
        deaf.close()
