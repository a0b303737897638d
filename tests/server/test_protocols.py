"""Every protocol gives the library's vectors, in the form its clients read."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest

import echoembed
import serving
import tiny_models
from echoembed.model.transformer import transformer_of
from echoembed.recipe import Recipe
from echoembed.server.encoder import ServedModel
from echoembed.server.routes import ROUTES

TEXTS = ["A cat sat on the mat.", "The rain fell\nover the old town.", "Nobody waits."]
INSTRUCTED = Recipe(name="told", query_template="{bos}{instruction} {text} {text:pool}", instruction="Find:")


@pytest.fixture(scope="module")
def model():
    """A model whose queries and documents have different vectors, so that a wrong side shows."""
    return echoembed.load(serving.TINY, recipe=serving.ASYMMETRIC)


@pytest.fixture(scope="module")
def client(model):
    with serving.client(serving.service(ServedModel(model))) as one:
        yield one


@pytest.fixture(scope="module")
def expected(model):
    query, document = (model.encode(TEXTS, task=task) for task in ("query", "document"))
    assert np.abs(query - document).max() > 0.01, "else a wrong side would not show"
    return {"query": query, "document": document}


def close(found, wanted) -> bool:
    return bool(np.abs(np.asarray(found, dtype=np.float32) - wanted).max() < 1e-5)


def post(client, path, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_openai_floats(client, expected):
    answer = post(client, "/v1/embeddings", input=TEXTS, model="tiny")
    assert [row["index"] for row in answer["data"]] == [0, 1, 2]
    assert close([row["embedding"] for row in answer["data"]], expected["query"])
    assert (answer["object"], answer["model"]) == ("list", "tiny")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_openai_base64_is_little_endian_float32(client, expected):
    answer = post(client, "/v1/embeddings", input=TEXTS, encoding_format="base64", user="somebody")
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in answer["data"]]
    assert close(rows, expected["query"])


def test_openai_dimensions_are_cut_and_scaled_again(client, expected):
    rows = [row["embedding"] for row in post(client, "/v1/embeddings", input=TEXTS, dimensions=16)["data"]]
    cut = expected["query"][:, :16]
    assert close(rows, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_usage_counts_what_the_model_reads(client, model):
    answer = post(client, "/v1/embeddings", input=TEXTS, task="document")
    read = sum(len(echoembed.render(model, text, kind="document").ids) for text in TEXTS)
    assert answer["usage"]["prompt_tokens"] == read


SIDES = [
    ("task", "document", "document"),
    ("task", "query", "query"),
    ("input_type", "search_document", "document"),
    ("input_type", "search_query", "query"),
    ("input_type", "passage", "document"),
    ("input_type", "clustering", "query"),
    ("input_type", "classification", "query"),
    ("prompt_name", "document", "document"),
    ("prompt_name", "query", "query"),
    ("task", "retrieval.passage", "document"),
    ("task", "RETRIEVAL_DOCUMENT", "document"),
    ("task", "text-matching", "query"),
    ("model", "tiny:document", "document"),
    ("model", "tiny:query", "query"),
    ("model", "tiny", "query"),
]


@pytest.mark.parametrize(("field", "value", "kind"), SIDES)
def test_the_template_is_chosen_in_every_services_words(client, expected, field, value, kind):
    answer = post(client, "/v1/embeddings", input=TEXTS, **{field: value})
    assert close([row["embedding"] for row in answer["data"]], expected[kind])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"task": "documents"}, "task"),
        ({"input_type": "image"}, "input_type"),
        ({"prompt_name": ""}, "prompt_name"),
        ({"task": "query", "input_type": "document"}, "input_type"),
        ({"task": "query", "model": "tiny:document"}, "task"),
    ],
)
def test_unknown_and_contradicting_templates_are_refused(client, body, param):
    answer = client.post("/v1/embeddings", json={"input": "a", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_the_models_are_listed_under_the_names_that_choose_a_template(client):
    assert [row["id"] for row in client.get("/v1/models").json()["data"]] == ["tiny", "tiny:query", "tiny:document"]


def test_nulls_are_absent_fields(client, expected):
    """As voyage's client sends them."""
    body = {"model": "tiny", "input_type": "document", "truncation": True, "output_dtype": None}
    body |= {"output_dimension": None, "encoding_format": "base64", "user": None}
    rows = post(client, "/v1/embeddings", input=TEXTS, **body)["data"]
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows]
    assert close(decoded, expected["document"])


def test_voyages_dimension(client):
    rows = post(client, "/v1/embeddings", input=TEXTS, output_dimension=8)["data"]
    assert {len(row["embedding"]) for row in rows} == {8}


@pytest.mark.parametrize("ids", [[1, 2], [[97, 98], [99]], [[]], [True], [1.5]])
def test_token_ids_are_refused(client, ids):
    answer = client.post("/v1/embeddings", json={"input": ids})
    assert answer.status_code == 400
    if ids in ([1, 2], [[97, 98], [99]]):
        assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei_embeds(client, expected, path):
    assert close(post(client, path, inputs=TEXTS), expected["query"])
    assert close(post(client, path, inputs=TEXTS[0]), expected["query"][:1])
    assert close(post(client, path, inputs=TEXTS, prompt_name="document", truncate=False), expected["document"])
    assert {len(row) for row in post(client, path, inputs=TEXTS, dimensions=3, truncation_direction="Right")} == {3}


def test_tei_without_scaling(client, expected):
    rows = np.array(post(client, "/embed", inputs=TEXTS, normalize=False))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    assert close(rows / lengths, expected["query"])


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_tei_similarity_is_the_cosine(client, expected, path):
    found = post(client, path, inputs={"source_sentence": TEXTS[0], "sentences": TEXTS}, parameters={})
    assert close(found, expected["query"] @ expected["query"][0])
    documents = {"prompt_name": "document", "truncate": True}
    found = post(client, path, inputs={"source_sentence": TEXTS[0], "sentences": TEXTS}, parameters=documents)
    assert close(found, expected["document"] @ expected["document"][0])


@pytest.mark.parametrize("direction", ["left", "Left"])
def test_texts_are_cut_on_the_right_only(client, direction):
    answer = client.post("/embed", json={"inputs": "a", "truncation_direction": direction})
    assert answer.status_code == 400


def test_tokenize_shows_the_prompt_its_span_and_what_was_dropped(client, model):
    text = "The rain fell over the old town."
    [shown] = post(client, "/tokenize", inputs=text, task="document")
    prompt = echoembed.render(model, text, kind="document")
    assert [token["id"] for token in shown["tokens"]] == list(prompt.ids)
    assert tuple(shown["span"]) == prompt.span
    assert [token["pooled"] for token in shown["tokens"]] == [
        prompt.span[0] <= at < prompt.span[1] for at in range(len(prompt.ids))
    ]
    assert shown["tokens"][0]["special"]
    assert (shown["prompt"], shown["dropped"], shown["kind"]) == (prompt.text, 0, "document")
    first, second = shown["copies"]
    assert second == shown["span"]
    assert prompt.ids[slice(*first)] == prompt.ids[slice(*second)]
    [long] = post(client, "/tokenize", inputs="town " * 3000)
    assert long["dropped"] == echoembed.render(model, "town " * 3000).dropped > 0


MANY_BYTES = "🧑‍🍳 cooks, שלום to 日本語."


def tokens_of(loaded, text):
    """The prompt of a text, and the texts of its tokens as the server shows them."""
    encoder = ServedModel(loaded)
    [prompt] = encoder.read([text], "query")
    tokens = encoder.tokens(prompt)
    assert [token.id for token in tokens] == list(prompt.ids)
    return prompt, [token.text for token in tokens]


@pytest.mark.parametrize("source", ["tiny", "llama", "gemma", "qwen2"])
@pytest.mark.parametrize("text", [MANY_BYTES, "two  blanks, \n a line", "it has \ufffd", "ends in \ufffd"])
def test_the_tokens_texts_join_to_the_prompt(source, text):
    """With bytes for tokens, and with a blank that belongs to the token after it."""
    path = serving.TINY if source == "tiny" else tiny_models.folder(source, max_position_embeddings=512)
    prompt, texts = tokens_of(echoembed.load(path), text)
    assert "".join(texts) == prompt.text
    assert prompt.text.count(text) == 2
    start, stop = prompt.span
    assert "".join(texts[start:stop]).strip() == text


def test_the_last_token_of_a_character_has_it_and_those_before_have_no_text():
    prompt, texts = tokens_of(echoembed.load(tiny_models.folder("llama", max_position_embeddings=512)), "a🧑")
    start, stop = prompt.span
    assert texts[start:stop] == [" a", "", "", "", "🧑"]


@pytest.mark.parametrize(("text", "budget"), [("a🧑 b", 3), ("🧑🧑🧑", 10), ("🧑🧑🧑", 11), ("🇩🇪🇩🇪", 7)])
def test_a_character_that_is_cut_is_shown_as_unknown_and_all_others_as_they_are(text, budget):
    """The decoder of this tokenizer makes unknown characters of a whole run of bytes if its last are no character."""
    loaded = echoembed.load(tiny_models.folder("llama", max_position_embeddings=512), budget=budget)
    prompt, texts = tokens_of(loaded, text)
    spelled = loaded[0].tokenizer.convert_ids_to_tokens(prompt.ids[slice(*prompt.span)])
    parts = [bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.encode() for token in spelled]
    wanted = b"".join(parts).decode("utf-8", "replace").replace("▁", " ")
    assert wanted.count("\ufffd") == 1
    start, stop = prompt.span
    assert re.sub("\ufffd+", "\ufffd", "".join(texts[start:stop])) == wanted
    assert "".join(texts[: prompt.copies[0][0]]) in prompt.text
    between = "".join(texts[prompt.copies[0][1] : start])
    assert "The rewritten paragraph:" in between


def test_tokens_are_shown_singly_if_the_tokenizer_writes_them_anew_with_the_next():
    from tokenizers import decoders

    loaded = echoembed.load(serving.TINY)
    backend = transformer_of(loaded).tokenizer.backend_tokenizer
    backend.decoder = decoders.Sequence([backend.decoder, decoders.Fuse(), decoders.Replace("e t", "E t")])
    _, texts = tokens_of(loaded, "Where there are ships.")
    assert "".join(texts).count("Where there") == 2


def test_cohere(client, expected):
    answer = post(
        client,
        "/v2/embed",
        model="tiny",
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "base64"],
        truncate="END",
    )
    assert close(answer["embeddings"]["float"], expected["document"])
    decoded = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in answer["embeddings"]["base64"]]
    assert close(decoded, expected["document"])
    assert answer["response_type"] == "embeddings_by_type"


def test_cohere_must_say_which_side(client):
    answer = client.post("/v2/embed", json={"model": "tiny", "texts": ["a"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_type")


@pytest.mark.parametrize(
    "body", [{"embedding_types": ["int8"]}, {"embedding_types": ["binary"]}, {"truncate": "START"}, {"images": ["x"]}]
)
def test_cohere_forms_that_are_not_given_are_refused(client, body):
    answer = client.post("/v2/embed", json={"texts": ["a"], "input_type": "search_query", **body})
    assert answer.status_code == 400


@pytest.mark.parametrize("field", ["images", "inputs", "text"])
def test_a_field_that_does_not_exist_is_named_before_one_that_is_missing_for_it(client, field):
    answer = client.post("/v2/embed", json={"model": "tiny", "input_type": "search_query", field: ["a"]})
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (field, "unknown_field")


CAPPED = [
    ("/rerank", "max_tokens_per_doc", {"query": "a", "texts": ["b"]}),
    ("/v1/rerank", "max_tokens_per_doc", {"query": "a", "documents": ["b"]}),
    ("/v2/rerank", "max_tokens_per_doc", {"query": "a", "documents": ["b"]}),
    ("/v2/embed", "max_tokens", {"texts": ["b"], "input_type": "search_document"}),
]


@pytest.mark.parametrize(("path", "field", "body"), CAPPED, ids=[path for path, *_ in CAPPED])
def test_a_most_of_tokens_is_taken_if_no_text_would_be_cut_by_it(client, model, path, field, body):
    most = echoembed.render(model, "town " * 3000, kind="document")
    room = most.copies[0][1] - most.copies[0][0]
    plain = post(client, path, **body)
    for value in (room, 4096, None):
        assert post(client, path, **body, **{field: value}) == plain
    for value in (room - 1, 0, -1):
        refused = client.post(path, json={**body, field: value})
        assert refused.status_code == 400
        assert f"Got {field} = {value}. Allowed: {room} or more" in refused.headers["x-error-message"]
        assert refused.headers["x-error-message"].endswith(": leave it out.")
    assert client.post(path, json={**body, field: str(room)}).status_code == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"late_chunking": True}, "Got late_chunking = true. Allowed: false."),
        ({"normalized": False}, "Got normalized = false. Allowed: true."),
    ],
)
def test_an_error_writes_values_as_json_does(client, body, said):
    assert client.post("/v1/embeddings", json={"input": "a", **body}).json()["error"]["message"] == said


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_is_the_cosine_of_query_and_documents(client, expected, path):
    scores = expected["document"] @ expected["query"][0]
    answer = client.post(path, json={"model": "tiny", "query": TEXTS[0], "documents": TEXTS, "return_documents": True})
    rows = answer.json()["results"]
    assert [row["index"] for row in rows] == np.argsort(-scores).tolist()
    assert close([row["relevance_score"] for row in rows], np.sort(scores)[::-1])
    assert [row["document"]["text"] for row in rows] == [TEXTS[row["index"]] for row in rows]
    assert "bi-encoder" in answer.headers["x-echoembed-note"]
    assert "bi-encoder" in answer.json()["meta"]["warnings"][0]
    objects = post(client, path, query=TEXTS[0], documents=[{"text": text} for text in TEXTS], top_n=1)
    assert objects["results"] == [{key: rows[0][key] for key in ("index", "relevance_score")}]


def test_rerank_in_teis_and_voyages_forms(client, expected):
    scores = expected["document"] @ expected["query"][0]
    rows = post(client, "/rerank", query=TEXTS[0], texts=TEXTS, raw_scores=True, return_text=True)
    best = int(np.argmax(scores))
    assert (rows[0]["index"], rows[0]["text"]) == (best, TEXTS[best])
    assert close([row["score"] for row in rows], np.sort(scores)[::-1])
    voyage = post(client, "/v1/rerank", query=TEXTS[0], documents=TEXTS, top_k=2, truncation=True, model="tiny")
    assert [row["index"] for row in voyage["data"]] == np.argsort(-scores)[:2].tolist()
    assert voyage["usage"]["total_tokens"] > 0


def test_ollama(client, expected):
    answer = post(client, "/api/embed", model="tiny:document", input=TEXTS, keep_alive="5m", options={})
    assert close(answer["embeddings"], expected["document"])
    assert answer["prompt_eval_count"] > 0
    refused = client.post("/api/embed", json={"model": "tiny", "input": "a", "options": {"num_ctx": 8}})
    assert refused.status_code == 400


def test_info_describes_the_model_that_answers(client, model):
    info = client.get("/info").json()
    facts = echoembed.describe(model)
    assert info["echoembed"]["fingerprint"] == facts["fingerprint"]
    assert info["model_id"] == "tiny"
    assert client.post("/embed", json={"inputs": "a"}).headers["x-echoembed-fingerprint"] == facts["fingerprint"]


def test_an_instruction_stands_in_its_place_or_is_refused(client):
    told = echoembed.load(serving.TINY, recipe=INSTRUCTED)
    with serving.client(serving.service(ServedModel(told))) as one:
        rows = [row["embedding"] for row in post(one, "/v1/embeddings", input=TEXTS, instruction="Say:")["data"]]
        assert close(rows, told.encode(TEXTS, prompt="Say:"))
        rows = [row["embedding"] for row in post(one, "/v1/embeddings", input=TEXTS)["data"]]
        assert close(rows, told.encode(TEXTS))
    refused = client.post("/v1/embeddings", json={"input": "a", "instruction": "Say:"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "instruction")


TWO_SIDED = Recipe(
    name="told both",
    query_template="{bos}{instruction} {text:pool}",
    document_template="{bos}: {instruction} {text:pool}",
)


@pytest.mark.parametrize("default", ["query", "document", "mine", None])
@pytest.mark.parametrize("instruction", [None, "Say:"])
def test_a_request_that_names_no_template_is_read_as_encode_reads_it(default, instruction):
    loaded = echoembed.load(serving.TINY, recipe=TWO_SIDED)
    loaded.prompts["mine"] = "Mind:"
    loaded.default_prompt_name = default
    with serving.client(serving.service(ServedModel(loaded))) as one:
        expected = loaded.encode(TEXTS, prompt=instruction)
        rows = post(one, "/v1/embeddings", input=TEXTS, instruction=instruction)["data"]
        assert close([row["embedding"] for row in rows], expected)
        assert close(post(one, "/embed", inputs=TEXTS, instruction=instruction), expected)
        assert close(post(one, "/api/embed", input=TEXTS, instruction=instruction)["embeddings"], expected)
        [shown] = post(one, "/tokenize", inputs=TEXTS[0], instruction=instruction)
        found = one.app_under_test.service.metrics.registry.get_sample_value
        assert found("echoembed_texts_total", {"kind": shown["kind"]}) == 3 * len(TEXTS)
        for kind in ("query", "document"):
            rows = post(one, "/v1/embeddings", input=TEXTS, task=kind)["data"]
            by_kind = loaded.encode_query(TEXTS) if kind == "query" else loaded.encode_document(TEXTS)
            assert close([row["embedding"] for row in rows], by_kind)
        ranked = post(one, "/rerank", query=TEXTS[0], texts=TEXTS)
        cosines = loaded.encode_document(TEXTS) @ loaded.encode_query(TEXTS[0])
        assert close([row["score"] for row in sorted(ranked, key=lambda row: row["index"])], cosines)


@pytest.mark.parametrize("mark", ["{query}", "{document}"])
def test_a_mark_of_a_template_is_no_instruction(mark):
    told = echoembed.load(serving.TINY, recipe=INSTRUCTED)
    with serving.client(serving.service(ServedModel(told))) as one:
        refused = one.post("/v1/embeddings", json={"input": "a", "instruction": mark})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "instruction")


@pytest.mark.parametrize("path", ["/embed_sparse", "/embed_all"])
def test_vectors_that_echo_has_not_are_a_404_of_one_line(client, path):
    answer = client.post(path, json={"inputs": "a"})
    assert answer.status_code == 404
    assert "/embed" in answer.json()["error"]["message"]


EMBEDDINGS = "/v1/embeddings"
SHAPES = {
    "Mistral": (EMBEDDINGS, {"output_dtype": "float", "metadata": None, "encoding_format": "float"}, "data"),
    "Jina": (EMBEDDINGS, {"late_chunking": False, "embedding_type": "float", "normalized": True}, "data"),
    "Jina, with objects": (EMBEDDINGS, {"input": [{"text": text} for text in TEXTS]}, "data"),
    "RAGFlow": (EMBEDDINGS, {"drop_params": True, "encoding_format": "float"}, "data"),
    "infinity": ("/embeddings", {"modality": "text"}, "data"),
    "LangChain by Ollama": ("/api/embed", {"options": {"mirostat": None, "num_ctx": None}}, "embeddings"),
    "Ollama's tag": ("/api/embed", {"model": "tiny:latest", "truncate": True, "keep_alive": "5m"}, "embeddings"),
    "Cohere's older client": ("/v1/embed", {"input_type": "search_query", "truncate": "END"}, "embeddings"),
    "mteb by Cohere": ("/v1/embed", {"input_type": "search_query", "embedding_types": ["float"]}, "embeddings.float"),
    "Hugging Face's older clients": ("/", {"options": {"wait_for_model": True, "use_cache": True}}, None),
}
NAMES = {"/": "inputs", "/v1/embed": "texts"}


@pytest.mark.parametrize("name", SHAPES)
def test_what_further_clients_send_is_read_and_what_they_read_is_there(client, expected, name):
    path, body, place = SHAPES[name]
    rows = post(client, path, **{NAMES.get(path, "input"): TEXTS, **body})
    for key in place.split(".") if place else ():
        rows = rows[key]
    rows = [row["embedding"] if isinstance(row, dict) else row for row in rows]
    assert close(rows, expected["query"])


@pytest.mark.parametrize(
    "body",
    [
        {"input": "a", "late_chunking": True},
        {"input": "a", "normalized": False},
        {"input": "a", "modality": "image"},
        {"input": "a", "embedding_type": "binary"},
        {"input": [{"image": "a"}]},
        {"input": [{"text": "a", "image": "b"}]},
        {"input": [{"text": 1}]},
        {"input": [{"text": ""}]},
        {"input": {"text": "a"}},
    ],
)
def test_a_field_of_theirs_that_asks_for_something_else_is_refused(client, body):
    assert client.post(EMBEDDINGS, json=body).status_code == 400


RERANK = {"query": "a", "documents": ["b", "c"]}
TEI_RERANK = {"query": "a", "texts": ["b", "c"]}
SENTENCES = {"source_sentence": "a", "sentences": ["b"]}
# A request, the field that an error names, and whether its values differ.
TWICE = [
    (EMBEDDINGS, {"input": "a", "dimensions": 5, "output_dimension": 7}, "output_dimension"),
    (EMBEDDINGS, {"input": "a", "truncate": False, "truncation": True}, "truncation"),
    (EMBEDDINGS, {"input": "a", "truncate": True, "truncation": False}, "truncation"),
    ("/v2/embed", {"texts": ["a"], "input_type": "query", "dimensions": 5, "output_dimension": 7}, "output_dimension"),
    ("/v1/embed", {"texts": ["a"], "dimensions": 5, "output_dimension": 7}, "output_dimension"),
    ("/v2/rerank", {**RERANK, "top_n": 2, "top_k": 1}, "top_k"),
    ("/v2/rerank", {**RERANK, "truncate": True, "truncation": False}, "truncation"),
    ("/", {"inputs": SENTENCES, "truncate": True, "parameters": {"truncate": False}}, "parameters.truncate"),
    (
        "/",
        {"inputs": SENTENCES, "prompt_name": "query", "parameters": {"prompt_name": "text"}},
        "parameters.prompt_name",
    ),
    ("/v2/rerank", {**RERANK, "texts": ["b"]}, "texts"),
    ("/rerank", {**TEI_RERANK, "return_documents": True}, "return_documents"),
    ("/v2/rerank", {**RERANK, "return_text": True}, "return_text"),
]


@pytest.mark.parametrize(("path", "body", "param"), TWICE, ids=[f"{path} {param}" for path, _, param in TWICE])
def test_fields_that_contradict_each_other_are_refused_and_the_same_value_twice_is_taken(client, path, body, param):
    with serving.client() as one:  # its log of errors has no other request
        refused = one.post(path, json=body)
    assert refused.status_code == 400
    assert param in refused.headers["x-error-message"]
    assert "missing" not in refused.headers["x-error-message"]
    same = {key: value for key, value in body.items() if key != param.partition(".")[0]}
    post(client, path, **same)
    if not param.startswith(("texts", "return")):
        *_, other = [key for key in same if key not in ("input", "inputs", "texts", "query", "documents", "input_type")]
        inner = param.partition(".")[2]
        post(client, path, **same, **({"parameters": {inner: same[other]}} if inner else {param: same[other]}))


def test_flags_that_clients_send_by_default_are_taken(client):
    post(client, "/rerank", **TEI_RERANK, return_documents=False, return_text=True, raw_scores=False)
    post(client, "/v2/rerank", **RERANK, return_documents=True, return_text=False, raw_scores=False)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_vectors_have_length_1_when_jinas_field_says_so(kind):
    plain = echoembed.load(serving.TINY, recipe=serving.ASYMMETRIC, normalize=False)
    with serving.client(serving.service(ServedModel(plain))) as one:
        for more, same in (({}, plain.encode(TEXTS, task=kind)), ({"normalized": True}, None)):
            rows = np.array([row["embedding"] for row in post(one, EMBEDDINGS, input=TEXTS, task=kind, **more)["data"]])
            if same is None:
                assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
            else:
                assert np.allclose(rows, same, rtol=1e-4, atol=1e-4)
                assert not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/openai/deployments/tiny/embeddings", "/v1/embeddings"),
        ("/v3/embed", "/v2/embed"),
        ("/api/rerank/", "/v1/rerank"),
        ("/v1/chat/completions", "/v1/embeddings"),
        ("/healthz", "/openapi.json"),
    ],
)
def test_a_path_that_a_client_puts_together_wrongly_is_answered_with_the_right_one(client, path, hint):
    answer = client.post(path, json={})
    assert answer.status_code == 404
    assert hint in answer.headers["x-error-message"]


def test_ollamas_older_route_and_the_names_that_its_tools_list(client, expected):
    answer = post(client, "/api/embeddings", model="tiny:document", prompt=TEXTS[1])
    assert close(answer["embedding"], expected["document"][1])
    names = [row["name"] for row in client.get("/api/tags").json()["models"]]
    assert names == [row["id"] for row in client.get("/v1/models").json()["data"]]
    for name in names:
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    assert client.get("/models").json() == client.get("/v1/models").json()
    assert client.get("/api/version").json() == {"version": echoembed.__version__}
    assert client.post("/api/embeddings", json={"prompt": "a", "options": {"seed": 1}}).status_code == 400


@pytest.mark.parametrize("name", ["another", "org/another", "tiny:documents", "another model"])
def test_a_model_that_is_not_served_is_the_same_error_by_its_address_as_in_a_request(client, name):
    by_address = client.get(f"/v1/models/{name}")
    in_request = client.post("/v1/embeddings", json={"input": "a", "model": name})
    assert by_address.status_code == in_request.status_code == 404
    assert by_address.json() == in_request.json()
    assert by_address.json()["error"]["code"] == "model_not_found"
    assert "Served: tiny, tiny:query, tiny:document" in by_address.json()["message"]


def test_errors_on_ollamas_routes_have_its_form(client):
    """Its clients show the field ``error`` as it is."""
    for path, body in (
        ("/api/embed", {"input": "a", "model": "another"}),
        ("/api/embeddings", {"prompt": " "}),
        ("/api/tags", {}),
        ("/api/chat", {"model": "tiny"}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code >= 400
        assert answer.json() == {"error": answer.headers["x-error-message"]}


def test_mistrals_client_finds_what_kind_of_model_each_is(client):
    for row in client.get("/v1/models").json()["data"]:
        assert (row["type"], row["capabilities"]) == ("base", {})
        assert client.get(f"/v1/models/{row['id']}").json() == row


@pytest.mark.parametrize("more", ["", "; charset=utf-8", '; charset="UTF-8"; profile=x', "; profile=x; charset=utf8"])
def test_a_content_type_may_have_parameters(client, more):
    kind = {"Content-Type": f"application/json{more}"}
    assert client.post("/embed", content=b'{"inputs": "a"}', headers=kind).status_code == 200
    other = {"Content-Type": f"application/json; charset=latin-1{more}"}
    assert client.post("/embed", content=b'{"inputs": "a"}', headers=other).status_code == 415


def test_the_page_is_compared_under_echo_and_classical(model):
    with serving.client() as one:
        answer = post(one, "/compare", query=TEXTS[0], texts=TEXTS)
    assert [recipe["name"] for recipe in answer["recipes"]] == ["echo", "classical"]
    for recipe in answer["recipes"]:
        plain = echoembed.load(serving.TINY, recipe=recipe["name"])
        vectors, [query] = plain.encode_document(TEXTS), plain.encode_query([TEXTS[0]])
        assert close(recipe["scores"], vectors @ query)
        assert close(recipe["similarity"], vectors @ vectors.T)
        assert len(recipe["query"]["copies"]) == {"echo": 2, "classical": 1}[recipe["name"]]
        assert recipe["seconds"] > 0


def served(loaded, path, **body):
    with serving.client(serving.service(ServedModel(loaded))) as one:
        return post(one, path, **body)


def with_later_modules():
    """A model whose vectors are neither of length 1 nor of the language model's width."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    torch.manual_seed(0)
    loaded = echoembed.load(serving.TINY, recipe="echo")
    width = loaded.get_embedding_dimension()
    return echoembed.model.assemble.assemble(
        [*list(loaded)[:2], Normalize(), Dense(width, 8)], name="with a Dense module", device="cpu"
    )


def calibrated():
    texts = [f"{number} cats and {word}" for number in range(20) for word in ("rain", "bread", "a town")]
    return echoembed.calibrate(echoembed.load(serving.TINY, recipe="echo"), texts, "z-score")


def truncated():
    loaded = echoembed.load(serving.TINY, recipe="echo")
    loaded.truncate_dim = 8
    return loaded


@pytest.mark.parametrize("make", [with_later_modules, calibrated, truncated])
def test_a_model_with_modules_of_its_own_has_the_librarys_vectors_and_cosines(make):
    loaded = make()
    vectors, [query] = loaded.encode_document(TEXTS), loaded.encode_query([TEXTS[0]])
    rows = served(loaded, "/v1/embeddings", input=TEXTS, task="document")["data"]
    assert close([row["embedding"] for row in rows], vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert close(served(loaded, "/embed", inputs=TEXTS, task="document"), unit)
    cosines = unit @ (query / np.linalg.norm(query))
    [recipe] = [row for row in served(loaded, "/compare", query=TEXTS[0], texts=TEXTS)["recipes"] if row["served"]]
    assert close(recipe["scores"], cosines)
    assert close(recipe["similarity"], unit @ unit.T)
    ranked = served(loaded, "/rerank", query=TEXTS[0], texts=TEXTS)
    assert close([row["score"] for row in sorted(ranked, key=lambda row: row["index"])], cosines)
    assert served(loaded, "/embed", inputs="a", normalize=False)[0] != []


@pytest.mark.parametrize("recipe", ["echo-deep", "bag-of-words", "echo-last", "prompteol", "echo-3"])
@pytest.mark.parametrize("text", ["graph", "The rain fell over the old town."])
def test_the_copies_that_are_shown_are_those_of_the_text(recipe, text):
    loaded = echoembed.load(serving.TINY, recipe=recipe)
    encoder = ServedModel(loaded)
    [prompt] = encoder.read([text], "query")
    shown = prompt.copies
    assert len(shown) == echoembed.recipes[recipe].template("query").copies
    assert shown[0][0] == prompt.prefix
    transformer = echoembed.model.transformer.transformer_of(loaded)
    for start, stop in shown:
        written = transformer.tokenizer.decode(list(prompt.ids[start:stop]))
        assert written.strip() == text.removesuffix("." if recipe == "prompteol" else "")


def test_the_openapi_document_lists_every_route_of_the_documentation(client):
    document = client.get("/openapi.json").json()
    listed = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    table = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    table = table.partition("| route | protocol")[2].partition("\n\n")[0]
    told = set()
    for line in table.splitlines():
        method = ""
        for method_or_same, path in re.findall(r"`(GET |POST |)(/[^`]*)`", line.split("|")[1] if "|" in line else ""):
            method = method_or_same or method
            told.add(f"{method}{path.replace('NAME', '{name}')}")
    assert len(told) > 20
    assert told <= listed
    assert {f"{route.method} {route.path}" for route in ROUTES} <= listed
    for operation in listed:
        method, path = operation.split()
        if method == "GET":
            assert client.get(path.replace("{name}", "tiny")).status_code == 200, path


def test_usage_metrics_and_queue_count_all_prompts_of_a_text():
    loaded = echoembed.load(serving.TINY, recipe="prompteol-bag")
    read = sum(len(prompt.ids) for text in TEXTS for prompt in echoembed.render(loaded, text).all)
    with serving.client(serving.service(ServedModel(loaded))) as one:
        assert post(one, "/v1/embeddings", input=TEXTS)["usage"]["prompt_tokens"] == read
        found = one.app_under_test.service.metrics.registry.get_sample_value
        assert found("echoembed_tokens_total") == found("echoembed_model_tokens_total") == read
        assert one.app_under_test.service.queue.waiting == 0
