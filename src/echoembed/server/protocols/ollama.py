"""Ollama's embed."""

from __future__ import annotations

from typing import Any

from echoembed import errors
from echoembed.server.protocols.fields import Answer, KindTexts, answer_of, texts_of, written
from echoembed.server.service import Service


class OllamaEmbedBody(KindTexts):
    """``POST /api/embed``."""

    input: texts_of("input")  # type: ignore[valid-type]
    keep_alive: str | float | int | None = None
    """Accepted, but not used."""
    options: dict[str, Any] | None = None
    """Must be empty: some of Ollama's options would change vectors."""


async def embed(service: Service, body: OllamaEmbedBody) -> Answer:
    """Embed texts, in Ollama's form; times are in nanoseconds."""
    if body.options:
        raise errors.request_field("options", body.options, "an empty object: a model here has no options")
    [answer] = await service.embed(body.ask(service, body.input, "input"))
    content = {
        "model": body.model or service.names[0],
        "embeddings": written(answer.vectors, "float"),
        "total_duration": int(answer.seconds * 1e9),
        "load_duration": 0,
        "prompt_eval_count": answer.tokens,
    }
    return answer_of(service, content, answer)
