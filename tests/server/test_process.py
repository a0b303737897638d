"""How a server's process ends: whole after SIGTERM, and at once when its model can no longer run."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

import serving
import serving_process
from echoembed import errors

E = "/v1/embeddings"


def test_sigterm_lets_everything_accepted_be_answered_and_ends_with_0():
    with serving_process.started() as process, ThreadPoolExecutor(24) as pool:
        bodies = [{"input": [f"slowly, text {place} of {request}" for place in range(9)]} for request in range(24)]
        asked = [pool.submit(process.post, E, body) for body in bodies]
        while process.metric("in_flight_requests") < 13:  # and the one that asks
            if all(one.done() for one in asked):  # on a starved machine all are answered before they are counted
                asked += [pool.submit(process.post, E, body) for body in bodies]
        process.popen.send_signal(signal.SIGTERM)
        statuses = [one.result(serving.LONG)[0] for one in asked]
        assert set(statuses) == {200}
        assert process.popen.wait(serving.LONG) == 0


def test_when_the_models_thread_dies_everyone_is_told_and_the_process_ends_with_1():
    with serving_process.started() as process, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(process.post, E, {"input": f"slowly, text {place}"}) for place in range(12)]
        asked.append(pool.submit(process.post, E, {"input": serving_process.END}))
        told = [one.result(serving.LONG) for one in asked]
        assert told[-1][0] == 503
        assert {status for status, _ in told} <= {200, 503}
        assert all(content["error"]["code"] == "model_stopped" for status, content in told if status == 503)
        assert process.popen.wait(serving.LONG) == 1


def test_the_verb_serves_and_says_where_and_logs_lines_of_json(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a-key-for-this-test\n")
    arguments = ("--api-key-file", str(keys), "--served-name", "mine", "--host", "0.0.0.0")
    with serving_process.started(*arguments) as process:
        key = {"Authorization": "Bearer a-key-for-this-test"}
        assert process.post(E, {"input": "a"})[0] == 401
        status, answer = process.post(E, {"input": "a", "model": "mine:document"}, **key)
        assert (status, answer["model"]) == (200, "mine:document")
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(serving.LONG) == 0
        assert process.popen.stderr is not None
        events = [json.loads(line) for line in process.popen.stderr.read().splitlines()]
    assert [event["event"] for event in events] == ["serving", "request", "request", "stopping", "stopped"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "API key"),
        (("--api-key-file", "/no/such/file"), "cannot be used"),
        (("--timeout", "inf"), "above 0"),
        (("--allow-host", "https://box.example:443"), "without a port"),
        (("--served-name", ""), "served-name"),
        (("--port", "1", "--host", "192.0.2.1", "--api-key-file", "KEYS"), "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line_before_the_model_is_loaded(tmp_path, cli_error, arguments, said):
    keys = tmp_path / "keys"
    keys.write_text("a-key-for-this-test\n")
    code, lines, loaded = cli_error(*(str(keys) if one == "KEYS" else one for one in arguments))
    assert (code, len(lines)) == (1, 1)
    assert said in lines[0]
    assert not loaded


def test_an_address_that_another_server_took_while_the_model_was_loaded_is_told():
    settings = serving.Settings(port=0)
    with serving.bind(settings) as first:
        settings = serving.Settings(port=first.getsockname()[1])
        with serving.bind(settings) as second:
            first.listen()
            server = serving.Server(serving.model(), settings)
            with pytest.raises(errors.ServerError, match=rf"port {settings.port}.*already in use"):
                server.run_on(second)


@pytest.fixture
def cli_error(monkeypatch):
    """Runs the verb in this process; its exit code, what it said, and whether it got as far as the model."""
    from typer.testing import CliRunner

    from echoembed.cli import app, session

    loads: list[object] = []
    monkeypatch.setattr(session, "load", lambda *args, **_: loads.append(args))

    def run(*arguments: str):
        done = CliRunner().invoke(app, ["serve", *arguments])
        return done.exit_code, done.output.splitlines(), loads

    return run
