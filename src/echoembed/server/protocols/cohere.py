"""Cohere's embed, where a request must say whether its texts are queries or documents, and all forms of rerank."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from echoembed import errors
from echoembed.server.protocols.fields import (
    Answer,
    KindTexts,
    Texts,
    agreed,
    answer_of,
    as_texts,
    text_of,
    texts_of,
    written,
)
from echoembed.server.service import Embedded, Service, cosines

NOTE = "Scores are cosines of separate vectors of query and document (a bi-encoder), not a cross-encoder's."


class CohereEmbedBody(KindTexts):
    """``POST /v2/embed``."""

    input_type: str
    texts: list[str]
    embedding_types: list[Literal["float", "base64"]] = ["float"]  # noqa: RUF012 (pydantic copies it)
    output_dimension: int | None = None
    truncate: Literal["NONE", "END"] | None = None  # type: ignore[assignment]
    max_tokens: int | None = None
    """Accepted from the limit of a text up, where it changes nothing; like max_tokens_per_doc."""
    priority: int | None = None


async def embed(service: Service, body: CohereEmbedBody) -> Answer:
    """Embed texts, in Cohere's form."""
    ask = body.ask(
        service,
        body.texts,
        "texts",
        truncate=body.truncate == "END",
        dimensions=agreed(body, "dimensions", "output_dimension"),
        most=_most("max_tokens", body.max_tokens),
    )
    [answer] = await service.embed(ask)
    types = dict.fromkeys(body.embedding_types or ["float"])
    content = {
        "id": "",
        "embeddings": {name: written(answer.vectors, name) for name in types},  # type: ignore[arg-type]
        "texts": body.texts,
        "response_type": "embeddings_by_type",
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": answer.tokens}},
    }
    return answer_of(service, content, answer)


class CohereV1EmbedBody(KindTexts):
    """``POST /v1/embed``, which Cohere's older client sends, and through it LangChain, LlamaIndex and mteb."""

    texts: list[str]
    embedding_types: list[Literal["float"]] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "END"] | None = None  # type: ignore[assignment]


async def embed_v1(service: Service, body: CohereV1EmbedBody) -> Answer:
    """Embed texts, in Cohere's older form: without ``embedding_types``, the embeddings are a list."""
    dimensions = agreed(body, "dimensions", "output_dimension")
    [answer] = await service.embed(
        body.ask(service, body.texts, "texts", truncate=body.truncate == "END", dimensions=dimensions)
    )
    vectors = written(answer.vectors, "float")
    content = {
        "id": "",
        "texts": body.texts,
        "embeddings": vectors if body.embedding_types is None else {"float": vectors},
        "response_type": "embeddings_floats" if body.embedding_types is None else "embeddings_by_type",
        "meta": {"api_version": {"version": "1"}, "billed_units": {"input_tokens": answer.tokens}},
    }
    return answer_of(service, content, answer)


class RerankBody(Texts):
    """``POST /rerank``, ``/v1/rerank`` and ``/v2/rerank``: the forms of Cohere, Jina, voyage and TEI."""

    query: str
    documents: list[str | dict[str, Any]] | None = None
    texts: texts_of("texts") | None = None  # type: ignore[valid-type]
    """TEI's name for documents; with it, the answer has TEI's form too."""
    top_n: int | None = None
    top_k: int | None = None
    return_documents: bool = False
    return_text: bool = False
    raw_scores: bool = False
    """Accepted, but not used: cosines are the only scores, and nothing rescales them."""
    truncation: bool | None = None
    truncation_direction: Literal["right", "Right"] = "right"
    max_tokens_per_doc: int | None = None
    priority: int | None = None


async def rerank(service: Service, body: RerankBody) -> Answer:
    """Order documents by the cosine of their vectors with the query's, the best first."""
    if body.documents is None and body.texts is None:
        raise errors.request_field_missing("documents")
    if body.documents is not None and body.texts is not None:
        raise errors.request_field("texts", body.texts, "nothing beside documents: send one of the two")
    for flag, field in (("return_documents", "documents"), ("return_text", "texts")):
        if getattr(body, flag) and getattr(body, field) is None:
            raise errors.request_field(flag, True, f"false: remove it, or send the documents in the field {field}")
    for name, count in (("top_n", body.top_n), ("top_k", body.top_k)):
        if count is not None and count < 1:
            raise errors.request_field(name, count, "a whole number above 0")
    param, documents = "texts", as_texts(body.texts or [], "texts")
    if body.documents is not None:
        param, documents = "documents", [_text(entry, at) for at, entry in enumerate(body.documents)]
    truncate = bool(agreed(body, "truncate", "truncation"))
    top = agreed(body, "top_n", "top_k")
    most = _most("max_tokens_per_doc", body.max_tokens_per_doc)
    query, answer = await service.embed(
        body.ask(service, body.query, "query", kind="query", truncate=truncate),
        body.ask(service, documents, param, kind="document", truncate=truncate, instruction=None, most=most),
    )
    scores_N = cosines(answer.vectors, query.vectors)[:, 0]
    order = np.argsort(-scores_N, kind="stable")[:top].tolist()
    headers = {"X-Echoembed-Note": NOTE}
    if param == "texts":
        rows = [
            {"index": at, "score": float(scores_N[at]), **({"text": documents[at]} if body.return_text else {})}
            for at in order
        ]
        return answer_of(service, rows, query, answer, headers=headers)
    ranked = _ranked(service, body, documents, scores_N, order, (query, answer))
    return answer_of(service, ranked, query, answer, headers=headers)


def _ranked(
    service: Service,
    body: RerankBody,
    documents: list[str],
    scores_N: Any,
    order: list[int],
    answers: tuple[Embedded, ...],
) -> dict[str, Any]:
    """Return an object for the clients of Cohere, Jina and voyage; for voyage's, documents are plain texts."""
    voyage = body.top_k is not None or body.truncation is not None
    results = []
    for at in order:
        document = documents[at] if voyage else {"text": documents[at]}
        results.append(
            {
                "index": at,
                "relevance_score": float(scores_N[at]),
                **({"document": document} if body.return_documents else {}),
            }
        )
    tokens = sum(answer.tokens for answer in answers)
    return {
        "id": "",
        "object": "list",
        "model": body.model or service.names[0],
        "results": results,
        **({"data": results} if voyage else {}),
        "usage": {"total_tokens": tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "warnings": [NOTE]},
    }


def _most(field: str, value: int | None) -> tuple[str, int] | None:
    return None if value is None else (field, value)


def _text(document: str | dict[str, Any], at: int) -> str:
    """Return the text of a document, which may be an object with a field for the text."""
    if isinstance(text := text_of(document), str):
        return text
    raise errors.request_field(f"documents[{at}]", document, 'a text, or an object {"text": …} with nothing else')
