"""States by token from a server, pooled here, are the model's own vectors; a server that gives others is refused.

The server is a stand-in: it speaks the two protocols as their documentation has them, and its states come from the
language model itself, run by transformers, without a line of ours.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

import echoembed
from echoembed import errors
from echoembed.integrations.remote import RemoteModel, TokenStates
from two_sides import DOCUMENTS, QUERY, RECIPE, TINY


class Server(HTTPServer):
    """Serves states of token ids; ``spoil`` changes them first."""

    def __init__(self):
        from transformers import AutoModel

        super().__init__(("127.0.0.1", 0), Handler)
        self.model = AutoModel.from_pretrained(TINY, dtype=torch.float32).eval()
        self.spoil = lambda states: states
        self.answer = None

    def states(self, ids):
        with torch.inference_mode():
            states = self.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        return self.spoil(states.numpy()).tolist()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = [self.server.states(ids) for ids in body["input"]]
        if self.path == "/embeddings":
            answer = [{"index": number, "embedding": row} for number, row in enumerate(rows)]
        elif self.path == "/pooling" and body["task"] == "token_embed" and body["model"] == "tiny":
            answer = {"data": [{"index": number, "object": "pooling", "data": row} for number, row in enumerate(rows)]}
        else:
            self.send_error(404)
            return
        data = json.dumps(answer).encode() if self.server.answer is None else self.server.answer
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def running():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def server(running):
    running.spoil, running.answer = (lambda states: states), None
    return running


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("pooling", ["mean", "last", "weighted-mean", "first"])
@pytest.mark.parametrize("protocol", ["llama.cpp", "vllm"])
def test_vectors_are_the_models_own(server, protocol, pooling):
    recipe = echoembed.Recipe(**{**RECIPE.as_dict(), "pooling": pooling})
    model = echoembed.load(TINY, recipe=recipe)
    remote = RemoteModel(model, TokenStates(url=address(server), protocol=protocol, model="tiny"), batch_size=2)
    np.testing.assert_allclose(remote.encode(DOCUMENTS, task="document"), model.encode_document(DOCUMENTS), atol=1e-5)
    np.testing.assert_allclose(remote.encode([QUERY])[0], model.encode_query(QUERY), atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda states: states[::-1], "from the model's own"),
        (lambda states: states + 1, "from the model's own"),
        (lambda states: states[1:], "for prompts of"),
        (lambda states: states.mean(axis=0), "for prompts of"),
        (lambda states: states * np.nan, "not finite"),
    ],
    ids=["another order", "another model", "a token less", "pooled there", "not finite"],
)
def test_a_server_of_other_states_is_refused(server, model, spoil, said):
    server.spoil = spoil
    with pytest.raises(errors.ModelError) as caught:
        RemoteModel(model, TokenStates(url=address(server)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"error": "full"}', b"no json"])
def test_an_answer_without_states_is_refused(server, model, answer):
    server.answer = answer
    with pytest.raises(errors.ModelError, match="cannot be used"):
        RemoteModel(model, TokenStates(url=address(server)))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "file:///etc/passwd", "nonsense"])
def test_a_server_that_is_not_there_is_one_line(model, url):
    with pytest.raises(errors.ModelError, match="cannot be used"):
        RemoteModel(model, TokenStates(url=url))


def test_a_layer_that_no_server_gives_is_refused(server):
    model = echoembed.load(TINY, recipe=RECIPE, layer=2)
    with pytest.raises(errors.ModelError, match="last layer"):
        RemoteModel(model, TokenStates(url=address(server)))
    with pytest.raises(errors.ModelError, match="a single prompt"):
        RemoteModel(echoembed.load(TINY, recipe="metaeol"), TokenStates(url=address(server)))
