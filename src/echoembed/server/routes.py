"""The table of all routes, which the app, the OpenAPI document and the tests use."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from echoembed import errors
from echoembed.server.protocols import cohere, ollama, openai, page, tei
from echoembed.server.protocols.fields import Answer, Body, read
from echoembed.server.service import Service

Work = Coroutine[Any, Any, Answer]
Handler = Callable[[Service, dict[str, Any]], Work]


@dataclass(frozen=True)
class Route:
    """A method and a path.

    Attributes:
        summary: A line for the OpenAPI document.
        answer: Makes the answer from the service and the request's JSON object, which is empty for GET.
        bodies: The forms that the object may have.
        tei: Whether errors have TEI's form.
    """

    method: str
    path: str
    summary: str
    answer: Handler
    bodies: tuple[type[Body], ...] = ()
    tei: bool = False

    @property
    def queued(self) -> bool:
        """Return whether the route's texts wait in the queue for the model."""
        return self.method == "POST" and self.path != "/tokenize"


def _post(path: str, body: type[Body], answer: Callable[[Service, Any], Work], *, tei: bool = False) -> Route:
    async def handler(service: Service, data: dict[str, Any]) -> Answer:
        return await answer(service, read(body, data))

    return Route("POST", path, _line(answer), handler, (body,), tei)


def _get(path: str, answer: Callable[[Service], Work], *, tei: bool = False) -> Route:
    async def handler(service: Service, _: dict[str, Any]) -> Answer:
        return await answer(service)

    return Route("GET", path, _line(answer), handler, (), tei)


def _line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


ROUTES: tuple[Route, ...] = (
    _post("/v1/embeddings", openai.EmbeddingsBody, openai.embeddings),
    _post("/embeddings", openai.EmbeddingsBody, openai.embeddings),
    _get("/v1/models", openai.models),
    _get("/models", openai.models),
    Route("POST", "/", _line(tei.root), tei.root, (tei.TeiEmbedBody, tei.SimilarityBody), tei=True),
    _post("/embed", tei.TeiEmbedBody, tei.embed, tei=True),
    _post("/similarity", tei.SimilarityBody, tei.similarity, tei=True),
    _post("/tokenize", tei.TokenizeBody, tei.tokenize, tei=True),
    _get("/info", tei.info, tei=True),
    _post("/v2/embed", cohere.CohereEmbedBody, cohere.embed),
    _post("/v1/embed", cohere.CohereV1EmbedBody, cohere.embed_v1),
    _post("/rerank", cohere.RerankBody, cohere.rerank, tei=True),
    _post("/v1/rerank", cohere.RerankBody, cohere.rerank),
    _post("/v2/rerank", cohere.RerankBody, cohere.rerank),
    _post("/api/embed", ollama.OllamaEmbedBody, ollama.embed),
    _post("/api/embeddings", ollama.OllamaEmbeddingsBody, ollama.embeddings),
    _get("/api/tags", ollama.tags),
    _get("/api/version", ollama.version),
    _post("/compare", page.CompareBody, page.compare),
)


def routes_of(names: Sequence[str]) -> list[Route]:
    """Return the routes of a server whose model has these names: each name has one of its own."""
    return [*ROUTES, *(_named(name) for name in names)]


def _named(name: str) -> Route:
    async def handler(_: Service, __: dict[str, Any]) -> Answer:
        return await openai.model(name)

    return Route("GET", f"/v1/models/{name}", _line(openai.model), handler)


_HINTS = {
    "/embed_sparse": "echo embeddings are dense; POST /embed gives them",
    "/embed_all": "only the pooled span of a prompt becomes a vector; POST /embed gives it, /tokenize shows it",
}


_BY_LAST_WORD = {
    "embeddings": "OpenAI's route is /v1/embeddings, so the base address of its clients ends in /v1",
    "embed": "TEI's route is /embed, Cohere's are /v1/embed and /v2/embed, and Ollama's is /api/embed",
    "rerank": "the routes are /rerank, /v1/rerank and /v2/rerank",
    "models": "the route is /v1/models",
    "completions": "an embedding model writes no text; POST /v1/embeddings gives vectors",
}


def no_route(path: str) -> errors.RequestError:
    """Build the error for a path that is not served."""
    last_word = path.rstrip("/").rpartition("/")[2]
    return errors.request_no_route(path, _HINTS.get(path) or _BY_LAST_WORD.get(last_word) or "no route has this path")
