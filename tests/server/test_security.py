"""Who is let in, and what is kept from those who are not."""

from __future__ import annotations

import base64

import pytest

import serving
from echoembed import errors
from echoembed.server.routes import ROUTES
from echoembed.server.settings import KEY_VARIABLE, Keys, Settings, is_loopback

KEY, OTHER = "k3y-of-the-first-client", "another-key-for-tests"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n\n  {OTHER}  \n")
    return path


@pytest.fixture
def client(key_file):
    settings = Settings(keys=Keys.read(key_file, {}))
    with serving.client(serving.service(settings=settings)) as one:
        yield one


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()}


def test_without_a_key_every_route_but_liveness_is_closed(client):
    plain = [("GET", path) for path in ("/", "/page.css", "/page.js", "/metrics", "/openapi.json")]
    for method, path in [*plain, *((route.method, route.path) for route in ROUTES), ("GET", "/nothing")]:
        answer = client.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic")
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("headers", [bearer(KEY), bearer(OTHER), basic(KEY), {"Authorization": f"bearer {KEY}"}])
def test_a_known_key_opens(client, headers):
    assert client.post("/embed", json={"inputs": "a"}, headers=headers).status_code == 200
    assert client.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            f"Bearer {KEY.upper()}",
            KEY,
            f"Token {KEY}",
        ),
        *("Basic", "Basic !!!", f"Basic {base64.b64encode(KEY.encode()).decode()}", "Bearer \xff\xfe", "Basic \xff"),
    ],
)
def test_anything_else_does_not(client, value):
    answer = client.post("/embed", json={"inputs": "a"}, headers=[("Authorization", value.encode("latin-1"))])
    assert answer.status_code == 401


def test_the_environment_holds_a_key_too(key_file):
    keys = Keys.read(key_file, {KEY_VARIABLE: "key-of-the-environment"})
    assert all(keys.accept(key.encode()) for key in (KEY, OTHER, "key-of-the-environment"))
    assert not keys.accept(b"")
    assert not Keys.read(None, {})


@pytest.mark.parametrize(
    "content", ["", "\n \n", "tiny-key\n", "a key with blanks in it\n", f"{KEY}\nclé-avec-des-accents\n"]
)
def test_keys_that_cannot_be_used_are_refused_without_being_shown(tmp_path, content):
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(errors.ServerError) as refused:
        Keys.read(path, {})
    assert str(path) in str(refused.value)
    assert not any(line.strip() and line.strip() in str(refused.value) for line in content.splitlines())


def test_a_missing_file_of_keys_is_refused(tmp_path):
    with pytest.raises(errors.ServerError, match="No such file"):
        Keys.read(tmp_path / "none", {})


def test_keys_do_not_show(key_file):
    assert KEY not in repr(Keys.read(key_file, {}))
    assert KEY not in repr(Settings(keys=Keys.read(key_file, {})))


def test_digests_are_compared_in_constant_time(key_file, monkeypatch):
    """All of them, with hmac's comparison, whether one was right already or not."""
    import hmac

    compared = []
    right = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or right(a, b))
    keys = Keys.read(key_file, {})
    assert keys.accept(KEY.encode())
    assert not keys.accept(b"wrong")
    assert len(compared) == 4
    assert all(len(a) == len(b) == 32 for a, b in compared)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "no-such-host.invalid"])
def test_a_server_without_a_key_is_refused_beyond_loopback(host, key_file):
    with pytest.raises(errors.ServerError, match="API key"):
        Settings(host=host)
    assert Settings(host=host, keys=Keys.read(key_file, {})).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "::1"])
def test_loopback_needs_no_key(host):
    assert is_loopback(host)
    assert Settings(host=host).host == host


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[2001:db8::1]:80"]
)
def test_a_page_elsewhere_that_points_its_name_here_is_refused(host):
    with serving.client() as client:
        assert client.post("/embed", json={"inputs": "a"}, headers={"Host": host}).status_code == 403
        assert client.get("/", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "127.9.9.9", "box.example:80"]
)
def test_requests_for_this_machine_and_for_allowed_names_are_taken(host):
    with serving.client(serving.service(settings=Settings(hosts=("Box.example",)))) as client:
        assert client.post("/embed", json={"inputs": "a"}, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(("allowed", "host"), [("[2001:DB8:0::1]", "[2001:db8::1]:80"), ("192.0.2.7", "192.0.2.7:1")])
def test_addresses_may_be_allowed_in_any_spelling(allowed, host):
    with serving.client(serving.service(settings=Settings(hosts=(allowed,)))) as client:
        assert client.post("/embed", json={"inputs": "a"}, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["box.example:8443", "http://box.example", "box.example/", "[2001:db8::1]:80", "*", "", "b\u00fcro.example"]
)
def test_a_host_that_no_request_can_name_is_not_allowed(host):
    with pytest.raises(errors.ServerError, match="without a port"):
        Settings(hosts=("box.example", host))


@pytest.mark.parametrize("name", ["", " "])
def test_a_model_has_no_empty_name(name):
    with pytest.raises(errors.ServerError, match="served-name"):
        Settings(names=("tiny", name))


def test_pages_elsewhere_get_no_permission():
    """CORS is closed: neither a simple request nor the question before another one is answered with leave."""
    with serving.client() as client:
        origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            client.options("/v1/embeddings", headers=origin),
            client.post("/v1/embeddings", content=b'{"input": "a"}', headers={**origin, "Content-Type": "text/plain"}),
            client.post("/v1/embeddings", json={"input": "a"}, headers=origin),
        ):
            assert not any(name.startswith("access-control") for name in answer.headers)
        assert client.options("/v1/embeddings", headers=origin).status_code == 405


def test_nothing_of_a_request_reaches_the_file_system(monkeypatch):
    import builtins
    import io
    import os

    with serving.client() as client:
        client.post("/v1/embeddings", json={"input": "a"})  # what is imported late is imported now
        opened = []
        for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat")):
            real = getattr(module, name)
            monkeypatch.setattr(
                module, name, lambda path, *a, _real=real, **k: opened.append(path) or _real(path, *a, **k)
            )
        for model in ("../../etc/passwd", "/etc/passwd", "tiny/../tiny", "tiny\u0000"):
            assert client.post("/v1/embeddings", json={"input": "a", "model": model}).status_code == 404
        for path in ("/etc/passwd", "/page.css/../app.py", "/static/x"):
            assert client.get(path).status_code == 404
        assert client.get("/page.css").status_code == 200
        monkeypatch.undo()
    assert [path for path in opened if "proc" not in str(path)] == []
