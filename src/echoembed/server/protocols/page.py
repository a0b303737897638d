"""The request of the web page at ``/``: the same texts with several recipes, side by side."""

from __future__ import annotations

from typing import Any

from echoembed import errors
from echoembed.server.protocols.fields import Answer, Body, answer_of
from echoembed.server.protocols.tei import show
from echoembed.server.service import Ask, Embedded, Service, cosines

MOST_TEXTS = 32


class CompareBody(Body):
    """``POST /compare``."""

    query: str
    texts: list[str]


async def compare(service: Service, body: CompareBody) -> Answer:
    """Compare recipes: the scores, similarities and prompts of a query and texts, and which texts were cut."""
    if len(body.texts) > MOST_TEXTS:
        raise errors.request_too_many_texts("texts", len(body.texts), MOST_TEXTS)
    recipes = []
    embedded: list[Embedded] = []
    for lane in service.encoder.lanes:
        comparison, parts = await _under(service, lane, body)
        recipes.append(comparison)
        embedded += parts
    content = {"model": service.names[0], "causal": service.encoder.causal, "recipes": recipes}
    return answer_of(service, content, *embedded)


async def _under(service: Service, lane: str, body: CompareBody) -> tuple[dict[str, Any], list[Embedded]]:
    query, texts = await service.embed(
        Ask(texts=[body.query], param="query", kind="query", truncate=True, many=False),
        Ask(texts=body.texts, param="texts", kind="document", truncate=True),
        lane=lane,
    )
    prompts = [query.prompts[0], *texts.prompts]
    readings = await service.thread(lambda: [show(service, prompt) for prompt in prompts])
    facts = {
        "name": lane,
        "served": lane == service.encoder.served,
        "seconds": query.seconds,
        "tokens": query.tokens + texts.tokens,
        "scores": cosines(texts.vectors, query.vectors)[:, 0],
        "similarity": cosines(texts.vectors, texts.vectors),
        "query": readings[0],
        "texts": readings[1:],
    }
    return facts, [query, texts]
