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
    """

    method: str
    path: str
    summary: str
    answer: Handler
    bodies: tuple[type[Body], ...] = ()

    @property
    def queued(self) -> bool:
        """Return whether the route's texts wait in the queue for the model."""
        return self.method == "POST" and self.path != "/tokenize"


def _post(path: str, body: type[Body], answer: Callable[[Service, Any], Work]) -> Route:
    async def handler(service: Service, data: dict[str, Any]) -> Answer:
        return await answer(service, read(body, data))

    return Route("POST", path, _line(answer), handler, (body,))


def _get(path: str, answer: Callable[[Service], Work]) -> Route:
    async def handler(service: Service, _: dict[str, Any]) -> Answer:
        return await answer(service)

    return Route("GET", path, _line(answer), handler)


def _line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


ROUTES: tuple[Route, ...] = (
    _post("/v1/embeddings", openai.EmbeddingsBody, openai.embeddings),
    _post("/embeddings", openai.EmbeddingsBody, openai.embeddings),
    _get("/v1/models", openai.models),
    _get("/models", openai.models),
    Route("POST", "/", _line(tei.root), tei.root, (tei.TeiEmbedBody, tei.SimilarityBody)),
    _post("/embed", tei.TeiEmbedBody, tei.embed),
    _post("/similarity", tei.SimilarityBody, tei.similarity),
    _post("/tokenize", tei.TokenizeBody, tei.tokenize),
    _get("/info", tei.info),
    _post("/v2/embed", cohere.CohereEmbedBody, cohere.embed),
    _post("/v1/embed", cohere.CohereV1EmbedBody, cohere.embed_v1),
    _post("/rerank", cohere.RerankBody, cohere.rerank),
    _post("/v1/rerank", cohere.RerankBody, cohere.rerank),
    _post("/v2/rerank", cohere.RerankBody, cohere.rerank),
    _post("/api/embed", ollama.OllamaEmbedBody, ollama.embed),
    _post("/api/embeddings", ollama.OllamaEmbeddingsBody, ollama.embeddings),
    _get("/api/tags", ollama.tags),
    _get("/api/version", ollama.version),
    _post("/compare", page.CompareBody, page.compare),
)

_MODELS = "/v1/models/"
_TEI = frozenset({"/", "/embed", "/similarity", "/tokenize", "/info", "/rerank"})


def error_form(path: str) -> str:
    """Return the form that errors have at a path, also at one of Ollama's that is not served."""
    if path in _TEI:
        return "tei"
    return "ollama" if path.startswith("/api/") else "openai"


def routes_of(names: Sequence[str]) -> list[Route]:
    """Return the routes of a server whose model has these names: each name has one of its own."""
    return [*ROUTES, *(_named(name) for name in names)]


def _named(name: str) -> Route:
    async def handler(_: Service, __: dict[str, Any]) -> Answer:
        return await openai.model(name)

    return Route("GET", f"{_MODELS}{name}", _line(openai.model), handler)


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


def no_route(path: str, names: Sequence[str]) -> errors.RequestError:
    """Build the error for a path that is not served; ``names`` are the model's, each of which has a path."""
    if path.startswith(_MODELS) and path != _MODELS:
        return errors.request_model_unknown(path.removeprefix(_MODELS), names)
    last_word = path.rstrip("/").rpartition("/")[2]
    return errors.request_no_route(path, _HINTS.get(path) or _BY_LAST_WORD.get(last_word) or "no route has this path")
