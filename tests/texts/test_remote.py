"""Embedding by a running server gives what embedding by the model gives: vectors, stamps, cuts and errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import serving
from echoembed import errors
from echoembed.server.settings import Limits, Settings
from echoembed.texts import Embedder, Item, RemoteEmbedder

TEXTS = ["A cat sat on the mat.", "The rain fell\nover the old town.", "Nobody waits."]


@pytest.fixture(scope="module")
def server():
    settings = Settings(port=0, limits=Limits(texts=2, body_bytes=20_000))
    with serving.running(settings=settings) as one:
        yield one


@pytest.mark.parametrize("kind", ["query", "document"])
def test_vectors_and_stamp_are_the_models(server, kind):
    remote = RemoteEmbedder(url=server.address, kind=kind)
    local = Embedder(model=serving.model(), kind=kind)
    assert np.abs(remote.encode(TEXTS) - local.encode(TEXTS)).max() < 1e-5
    assert remote.encode(TEXTS).dtype == np.float32
    assert remote.stamp()._replace(model="") == local.stamp()._replace(model="")


def test_texts_are_sent_within_the_servers_limits(server):
    """Two texts a request, and 20,000 bytes: these are 7 texts and more bytes than that."""
    long = ["town " * 900] * 7
    remote = RemoteEmbedder(url=server.address)
    assert remote.encode(long).shape[0] == 7
    assert remote.cuts.texts == 7
    assert remote.cuts.tokens == 7 * serving.service().encoder.read([long[0]], "query")[0].dropped


def test_a_text_that_cannot_be_embedded_is_named_with_its_place(server):
    remote = RemoteEmbedder(url=server.address, truncate=False)
    items = [Item("0", "fine", "line 1 of a.txt"), Item("1", "town " * 900, "line 2 of a.txt")]
    with pytest.raises(errors.TextError):
        remote.encode([item.text for item in items])
    fine, long = remote.faults(items)
    assert fine is None
    assert "line 2 of a.txt" in str(long)
    assert remote.cuts.texts == 0


def test_another_model_under_the_same_address_is_noticed(server):
    remote = RemoteEmbedder(url=server.address)
    remote.stamp()
    remote._info["echoembed"]["fingerprint"] = "another"
    with pytest.raises(errors.ServerError, match="must not be compared"):
        remote.encode(["a"])


def test_texts_with_too_many_tokens_for_a_request_are_sent_in_several():
    texts = [f"a baker makes bread {number}" for number in range(50)]
    settings = Settings(port=0, limits=Limits(request_tokens=600))
    with serving.running(settings=settings) as small:
        remote = RemoteEmbedder(url=small.address)
        assert np.abs(remote.encode(texts) - serving.model().encode(texts)).max() < 1e-5
        assert remote.cuts.texts == 0
        with pytest.raises(errors.ServerError, match="413"):  # one text that is more than a request may be
            remote.encode(["fine", "town " * 900])


KEY = "0123456789abcdef"


@pytest.mark.parametrize("key", [f"{KEY}\nsecond", f"{KEY} second", f"{KEY}\r", f"{KEY}\u20ac", f"{KEY}\u00e9", "abc"])
def test_a_key_that_no_server_takes_is_refused_before_it_is_sent_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("ECHOEMBED_API_KEY", key)
    with pytest.raises(errors.ServerError, match="ECHOEMBED_API_KEY") as caught:
        RemoteEmbedder(url="http://127.0.0.1:1").encode(["a"])
    said = [str(caught.value), str(caught.value.__cause__), str(caught.value.__context__)]
    assert not [one for one in said if "abc" in one or "second" in one]


ELSEWHERE = ["http://127.0.0.1:1", "127.0.0.1:1", "http://", "http://no-such-host.invalid", "x y"]
NO_ADDRESS = ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:abc", "ftp://127.0.0.1:1", "", "/run/socket"]


@pytest.mark.parametrize("url", [*ELSEWHERE, *NO_ADDRESS])
def test_a_server_that_is_not_there_is_said_in_a_line(url):
    with pytest.raises(errors.ServerError, match="cannot be reached"):
        RemoteEmbedder(url=url).encode(["a"])


@pytest.mark.parametrize("changed", ["ftp://{}", "http://{}?x=1", "http://{}#x", "http://me:hidden@{}", "me:hidden@{}"])
def test_no_part_of_an_address_is_left_out_in_silence(server, changed):
    with pytest.raises(errors.ServerError, match="cannot be reached") as caught:
        RemoteEmbedder(url=changed.format(f"127.0.0.1:{server.port}")).encode(["a"])
    assert "hidden" not in str(caught.value)


def test_an_address_in_capitals_is_the_same_address(server):
    assert RemoteEmbedder(url=f"HTTP://127.0.0.1:{server.port}/").encode(["a"]).shape[0] == 1


def test_the_command_line_embeds_without_loading_a_model(server, tmp_path):
    code = (
        "import sys\nfrom echoembed.cli import main\n"
        "try:\n    main()\nfinally:\n    sys.stderr.write('torch' if 'torch' in sys.modules else 'light')"
    )
    command = [sys.executable, "-c", code, "embed", TEXTS[0], "--server", server.address, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert np.abs(np.array(row["vector"]) - serving.model().encode([TEXTS[0]])[0]).max() < 1e-5
    assert done.stderr == "light"


def test_options_that_ask_for_another_model_are_refused(server):
    from typer.testing import CliRunner

    from echoembed.cli import app

    for options in (["-m", "tiny"], ["-r", "classical"], ["--layer", "3"], ["--batch-size", "2"]):
        done = CliRunner().invoke(app, ["embed", "a", "--server", server.address, *options])
        assert done.exit_code == 2
        assert "model of its own" in done.output


@pytest.mark.parametrize("wait", ["0", "-5", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
def test_an_overloaded_server_is_asked_again_whatever_form_its_wait_has(server, monkeypatch, wait):
    exchange, waited = RemoteEmbedder._exchange, []
    busy = [(503, {"Retry-After": wait}, b"busy")] * 2

    def busy_at_first(self, *asked):
        return busy.pop() if busy else exchange(self, *asked)

    monkeypatch.setattr(RemoteEmbedder, "_exchange", busy_at_first)
    monkeypatch.setattr("echoembed.texts.remote.time.sleep", waited.append)
    assert RemoteEmbedder(url=server.address).encode(TEXTS).shape[0] == 3
    assert len(waited) == 2
    assert all(0 <= seconds <= 10 for seconds in waited)


def test_an_answer_nested_deeply_is_one_line(server, monkeypatch):
    monkeypatch.setattr(RemoteEmbedder, "_exchange", lambda *_: (200, {}, b"[" * 100_000))
    with pytest.raises(errors.ServerError, match="no JSON"):
        RemoteEmbedder(url=server.address).encode(TEXTS)


def test_faults_are_those_of_the_model_and_none_is_one_of_the_request(server):
    """A text over the budget is never left out; an instruction that the recipe has no place for is no text's fault."""
    long, huge = Item("1", "town " * 900, "line 1"), Item("2", "x" * 20_000, "line 2")
    refusing = RemoteEmbedder(url=server.address, truncate=False)
    [told] = refusing.faults([long])
    [wanted] = Embedder(model=serving.model(overflow="error")).faults([long])
    assert type(told) is type(wanted) is errors.OverBudgetError
    [told] = refusing.faults([huge])
    assert "line 2" in str(told)
    assert "the server takes 20,000. Split the text" in str(told)
    instructed = RemoteEmbedder(url=server.address, instruction="Find a boat:")
    with pytest.raises(errors.TextError) as caught:
        instructed.stamp()
    with pytest.raises(errors.TextError) as local:
        Embedder(model=serving.model(), instruction="Find a boat:").encode(TEXTS)
    assert str(caught.value) == str(local.value)
