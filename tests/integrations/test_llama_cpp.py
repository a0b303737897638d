"""llama.cpp on SmolLM2's own file gives the library's vectors, to the rounding of its eight-bit products.

``ECHOEMBED_LLAMA_SERVER=http://127.0.0.1:8080`` names a server to test against: ``llama-server -m THE_FILE --embedding
--pooling none --parallel 1 -c 2048 -b 2048 -ub 2048``. Without it, answers that such a server gave are played back; its
version and command stand in the recording. Texts that are not recorded need a server.
"""

import gzip
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import echoembed
from echoembed import errors
from echoembed.integrations.llama_cpp import EXAMPLE, write_notes
from echoembed.integrations.remote import PROBE, RemoteModel, TokenStates

REAL = os.environ.get("ECHOEMBED_LLAMA_SERVER")
RECORDED = json.loads(gzip.decompress((Path(__file__).parents[1] / "fixtures" / "llama_server.json.gz").read_bytes()))
ANSWERS = {exchange["what"]: exchange for exchange in RECORDED["exchanges"]}
TEXTS = [
    "Stocks fell sharply on Monday.",
    'She said: "Why?"',
    "def f(x):\n    return x",
    "東京は雨です。",
    "</s> <|im_end|>",
]


class Player(BaseHTTPRequestHandler):
    """Gives the recorded answer to a recorded request, or the one that ``forced`` names."""

    forced = ""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        same = [one for one in ANSWERS.values() if (one["path"], one["body"]) == (self.path, body)]
        answer = (
            ANSWERS[Player.forced] if Player.forced else same[0] if same else {"status": 404, "answer": "not recorded"}
        )
        self.send_response(answer["status"])
        self.end_headers()
        self.wfile.write(json.dumps(answer["answer"]).encode())

    def log_message(self, *_):
        """Nothing on the terminal."""


@pytest.fixture
def player():
    server = HTTPServer(("127.0.0.1", 0), Player)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Player.forced = ""
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def smollm2():
    return echoembed.load("smollm2-135m", recipe="echo", device="cpu")


def test_its_states_pooled_here_are_the_librarys_vectors(player, smollm2):
    remote = RemoteModel(smollm2, TokenStates(url=REAL or player))
    assert remote.distance < 0.04
    vector_D = remote.encode([PROBE], task="document")[0]
    assert vector_D @ smollm2.encode_document(PROBE) > 0.999


@pytest.mark.skipif(REAL is None, reason="texts that are not recorded: ECHOEMBED_LLAMA_SERVER names no server")
@pytest.mark.parametrize("recipe", ["echo", "classical", "prompteol", "echo-last", "echo-tuned"])
def test_a_running_server_gives_the_vectors_of_every_recipe_at_the_last_layer(recipe):
    model = echoembed.load("smollm2-135m", recipe=recipe, device="cpu")
    vectors_ND = RemoteModel(model, TokenStates(url=REAL)).encode(TEXTS, task="document")
    cosines_N = (vectors_ND * model.encode_document(TEXTS)).sum(axis=1)
    assert cosines_N.min() > (0.99 if recipe == "echo-tuned" else 0.999)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("too long", "is too large to process"),
        ("openai route", "not OAI compatible"),
        ("unknown id", "invalid tokens"),
        ("no embeddings", "Start it with `--embeddings`"),
        ("pooled last", "for prompts of"),
        ("pooled mean", "for prompts of"),
    ],
)
def test_a_server_that_pools_or_refuses_is_refused_in_one_line(player, smollm2, what, said):
    Player.forced = what
    with pytest.raises(errors.ModelError, match="cannot be used") as caught:
        RemoteModel(smollm2, TokenStates(url=player))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_own_pooling_is_ours_for_the_last_token_and_another_for_the_mean(tmp_path):
    """What ``export --gguf`` says of ``--pooling last``, held against what the server gave."""
    model = echoembed.load("smollm2-135m", recipe="prompteol", device="cpu")
    folder = write_notes(model, tmp_path / "notes")
    request = json.loads((folder / "request.json").read_text())
    wanted_D = np.array(json.loads((folder / "vector.json").read_text()))
    np.testing.assert_allclose(wanted_D, model.encode_document(EXAMPLE), atol=1e-6)
    for what, like in (("pooled last", True), ("pooled mean", False)):
        assert ANSWERS[what]["body"] == request
        [vector_D] = np.array(ANSWERS[what]["answer"][0]["embedding"])
        assert (vector_D @ wanted_D > 0.999) == like


@pytest.mark.parametrize(
    ("recipe", "pooling"),
    [("echo", "none"), ("prompteol", "last"), ("echo-finetuned-last", "last"), ("classical", "none")],
)
@pytest.mark.filterwarnings("ignore::echoembed.RecipeWarning")
def test_notes_name_the_pooling_that_serves_the_recipe(recipe, pooling, tmp_path):
    page = (write_notes(echoembed.load("tiny", recipe=recipe), tmp_path / "notes") / "README.md").read_text()
    assert f"--embedding --pooling {pooling} " in page
    assert "{" not in page.replace("{text", "")


def test_a_calibrated_recipe_is_never_left_to_the_server(tmp_path):
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS[:3]]
    model = echoembed.calibrate(echoembed.load("tiny", recipe="prompteol"), texts, "z-score")
    page = (write_notes(model, tmp_path / "notes") / "README.md").read_text()
    assert "--embedding --pooling none " in page


@pytest.mark.parametrize("recipe", ["echo-deep", "classical-bidirectional", "bag-of-words"])
def test_notes_are_refused_for_what_llama_cpp_cannot_do(recipe, tmp_path):
    with pytest.raises(errors.ModelError, match=f"{recipe}.*--gguf"):
        write_notes(echoembed.load("tiny", recipe=recipe), tmp_path / "notes")
    assert list(tmp_path.iterdir()) == []


def loaded_by(folder, monkeypatch, saved=None):
    """The model that the code of the notes loads, run where they are."""
    code = re.search(r"```python\n(.*?)^remote = ", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    monkeypatch.chdir(folder)
    namespace = {}
    exec(code.replace("SAVED_FOLDER", str(saved)), namespace)
    return namespace["model"]


def like_its_vector(model, folder):
    vector_D = json.loads((folder / "vector.json").read_text())
    np.testing.assert_allclose(model.encode_document(EXAMPLE), vector_D, atol=1e-6)
    return True


MINE = echoembed.Recipe(
    name="mine", query_template="{bos}Q: {text:pool}", document_template="{bos}D: {mark:pool}{text:pool}",
    markers={"mark": "*"}, budget=40,
)  # fmt: skip


@pytest.mark.parametrize(
    "options", [{"recipe": "echo"}, {"recipe": "echo", "budget": 3}, {"recipe": MINE}, {"recipe": MINE, "budget": 3}]
)
def test_the_code_of_the_notes_loads_the_model_that_was_exported(options, tmp_path, monkeypatch):
    model = echoembed.load("tiny", overflow="ignore", **options)
    folder = write_notes(model, tmp_path / "notes")
    again = loaded_by(folder, monkeypatch)
    assert echoembed.fingerprint(again) == echoembed.fingerprint(model)
    assert like_its_vector(again, folder)


def test_the_notes_of_a_saved_model_load_it_from_where_it_is(tmp_path, monkeypatch):
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS[:3]]
    calibrated = echoembed.calibrate(echoembed.load("tiny", recipe="prompteol"), texts, "z-score")
    cut = echoembed.load("tiny", recipe="prompteol")
    cut.truncate_dim = 64
    for name, model in {"plain": echoembed.load("tiny", recipe=MINE), "calibrated": calibrated, "cut": cut}.items():
        saved = echoembed.save(model, tmp_path / name)
        folder = write_notes(echoembed.load(saved), tmp_path / f"{name}-notes")
        assert "which is the vector" not in (folder / "README.md").read_text()
        assert like_its_vector(loaded_by(folder, monkeypatch, saved), folder)


def trained(model):
    with torch.no_grad():
        model[0].model.get_input_embeddings().weight += 0.01
    return model


@pytest.mark.parametrize(
    "load",
    [lambda: echoembed.load("tiny", adapter="tiny-echo"), lambda: trained(echoembed.load("tiny"))],
    ids=["an adapter", "training"],
)
def test_notes_are_refused_for_weights_that_no_file_for_llama_cpp_holds(load, tmp_path):
    with pytest.raises(errors.ModelError, match=r"--gguf: .*an adapter or training has changed"):
        write_notes(load(), tmp_path / "notes")
    assert list(tmp_path.iterdir()) == []
