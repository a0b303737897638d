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
        self.answer = self.raw = None

    def states(self, ids):
        with torch.inference_mode():
            states = self.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        return self.spoil(states.numpy()).tolist()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = [self.server.states(ids) for ids in body["input"]]
        if self.server.raw is not None:
            self.wfile.write(self.server.raw)
            return
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
    running.spoil, running.answer, running.raw = (lambda states: states), None, None
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


@pytest.mark.parametrize("raw", [b"no protocol\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]"])
def test_an_answer_that_breaks_the_protocol_is_refused(server, model, raw):
    server.raw = raw
    with pytest.raises(errors.ModelError, match="cannot be used"):
        RemoteModel(model, TokenStates(url=address(server)))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9",
        "file:///etc/passwd",
        "nonsense",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:9?x=1",
        "http://127.0.0.1:9#x",
        "http://a b",
    ],
)
def test_a_server_that_is_not_there_is_one_line(model, url):
    with pytest.raises(errors.ModelError, match="cannot be used"):
        RemoteModel(model, TokenStates(url=url))


def test_a_layer_that_no_server_gives_is_refused(server):
    model = echoembed.load(TINY, recipe=RECIPE, layer=2)
    with pytest.raises(errors.ModelError, match="last layer"):
        RemoteModel(model, TokenStates(url=address(server)))
    with pytest.raises(errors.ModelError, match="a single prompt"):
        RemoteModel(echoembed.load(TINY, recipe="metaeol"), TokenStates(url=address(server)))


def test_an_address_in_capitals_is_the_same_address(server, model):
    states = TokenStates(url=f"HTTP://127.0.0.1:{server.server_port}/")
    assert RemoteModel(model, states).distance < 1e-5


def test_a_password_in_an_address_is_refused_and_not_shown(model):
    with pytest.raises(errors.ModelError, match="cannot be used") as caught:
        RemoteModel(model, TokenStates(url="http://me:hidden@127.0.0.1:9"))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"protocol": "ollama"}, {"timeout": 0.0}, {"timeout": float("inf")}, {"url": None}, {"model": 7}]
)
def test_settings_of_a_server_are_checked_when_they_are_made(settings):
    with pytest.raises(errors.ModelError, match=f"Got {next(iter(settings))} = "):
        TokenStates(**{"url": "http://127.0.0.1:9", **settings})


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_size_of_no_request_is_refused(server, model, batch_size):
    with pytest.raises(errors.ModelError, match="batch_size"):
        RemoteModel(model, TokenStates(url=address(server)), batch_size=batch_size)


def test_one_text_has_the_shape_that_the_model_gives_it_and_none_are_an_empty_array(server, model):
    remote = RemoteModel(model, TokenStates(url=address(server)))
    for texts in (QUERY, [QUERY]):
        vectors, of_model = remote.encode(texts), model.encode(texts)
        assert (vectors.shape, vectors.dtype) == (of_model.shape, of_model.dtype)
        np.testing.assert_allclose(vectors, of_model, atol=1e-5)
    none_ND = remote.encode([])
    assert (none_ND.shape, none_ND.dtype) == ((0, model.get_embedding_dimension()), np.float32)


def test_a_table_in_place_of_texts_is_refused(server, model):
    pd = pytest.importorskip("pandas")
    remote = RemoteModel(model, TokenStates(url=address(server)))
    with pytest.raises(errors.TextError, match=r"Got texts = .*a list of str"):
        remote.encode(pd.DataFrame({"text": DOCUMENTS}))


def test_vectors_are_cut_to_the_models_dimension(server):
    model = echoembed.load(TINY, recipe=RECIPE)
    model.truncate_dim = 64
    remote = RemoteModel(model, TokenStates(url=address(server)))
    vectors_ND = remote.encode(DOCUMENTS, task="document")
    wanted_ND = model.encode_document(DOCUMENTS, normalize_embeddings=True)
    np.testing.assert_allclose(vectors_ND, wanted_ND, atol=1e-5)
    assert remote.encode([]).shape == (0, 64)


def test_what_is_cut_from_a_text_is_said_as_the_model_says_it(server, model):
    remote, long = RemoteModel(model, TokenStates(url=address(server))), ["town " * 900]
    with pytest.warns(echoembed.TruncationWarning) as of_model:
        wanted_ND = model.encode(long)
    with pytest.warns(echoembed.TruncationWarning) as of_remote:
        vectors_ND = remote.encode(long)
    assert [str(one.message) for one in of_remote] == [str(one.message) for one in of_model]
    np.testing.assert_allclose(vectors_ND, wanted_ND, atol=1e-5)
