"""Ollama's embed, its older embeddings, and the list of models that its tools ask for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from echoembed import __version__, errors
from echoembed.server.protocols.fields import Answer, KindTexts, answer_of, texts_of, written
from echoembed.server.service import Service


def _untagged(name: object) -> object:
    return name.removesuffix(":latest") if isinstance(name, str) else name


Name = Annotated[str | None, BeforeValidator(_untagged)]
"""The name of a model; Ollama's tag for a name without a tag counts as none."""


class OllamaEmbedBody(KindTexts):
    """``POST /api/embed``."""

    model: Name = None
    input: texts_of("input")  # type: ignore[valid-type]
    keep_alive: str | float | int | None = None
    """Accepted, but not used."""
    options: dict[str, Any] | None = None
    """Must be empty: some of Ollama's options would change vectors."""


class OllamaEmbeddingsBody(KindTexts):
    """``POST /api/embeddings``, which takes one text."""

    model: Name = None
    prompt: str
    keep_alive: str | float | int | None = None
    """Taken, and not used."""
    options: dict[str, Any] | None = None
    """Nothing may stand in it: an option of Ollama's might change vectors."""


async def embeddings(service: Service, body: OllamaEmbeddingsBody) -> Answer:
    """Embed a text, in Ollama's older form."""
    _check_options(body.options)
    [answer] = await service.embed(body.ask(service, body.prompt, "prompt"))
    return answer_of(service, {"embedding": written(answer.vectors, "float")[0]}, answer)


async def tags(service: Service) -> Answer:
    """List the model's names, in Ollama's form."""
    facts = {"digest": str(service.encoder.facts["fingerprint"]), "size": 0, "modified_at": "1970-01-01T00:00:00Z"}
    return Answer({"models": [{"name": name, "model": name, **facts, "details": {}} for name in service.listed]})


async def version(_: Service) -> Answer:
    """State a version, as Ollama's tools ask for before all else."""
    return Answer({"version": __version__})


async def embed(service: Service, body: OllamaEmbedBody) -> Answer:
    """Embed texts, in Ollama's form; times are in nanoseconds."""
    _check_options(body.options)
    [answer] = await service.embed(body.ask(service, body.input, "input"))
    content = {
        "model": body.model or service.names[0],
        "embeddings": written(answer.vectors, "float"),
        "total_duration": int(answer.seconds * 1e9),
        "load_duration": 0,
        "prompt_eval_count": answer.tokens,
    }
    return answer_of(service, content, answer)


def _check_options(options: dict[str, Any] | None) -> None:
    if options:
        raise errors.request_field("options", options, "an empty object: a model here has no options")
