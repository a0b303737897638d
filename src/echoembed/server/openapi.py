"""The OpenAPI document, made from ``routes.py`` and the protocols' models."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from echoembed import __version__
from echoembed.server.routes import ROUTES, Route

_ERRORS = {
    "400": "The request cannot be: its JSON, a field or a text.",
    "401": "No API key, or one that is not known.",
    "403": "The request is for another host.",
    "404": "The model is not served here.",
    "408": "The body did not arrive in time.",
    "413": "A text, the texts, or the body are over a limit; /info tells all of them.",
    "415": "The body is not JSON in UTF-8.",
    "422": "The model fails for this text.",
    "429": "Too much at once; Retry-After says when to come back.",
    "503": "The server is stopping, or the request took too long.",
}
_JSON: dict[str, Any] = {"application/json": {"schema": {}}}


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    bodies = dict.fromkeys(body for route in ROUTES for body in route.bodies)
    names: dict[Any, Any] = {}
    reference = "#/components/schemas/{model}"
    mapped, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=reference)
    names = {body: mapped[(body, "validation")] for body in bodies}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names)
    plain = {"responses": {"200": {"description": "As it says."}, "401": {"description": _ERRORS["401"]}}}
    for path, summary in (("/health", "Whether requests should be sent here."), ("/metrics", "Prometheus metrics.")):
        paths[path] = {"get": {"summary": summary, **plain}}
    paths["/health"]["get"]["responses"]["503"] = {"description": "They should not; the body says why."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "echoembed", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(route: Route, names: dict[Any, Any]) -> dict[str, Any]:
    responses = {status: {"description": text, "content": _JSON} for status, text in _ERRORS.items()}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_')}",
        "responses": {"200": {"description": "The answer.", "content": _JSON}, **responses},
    }
    if route.bodies:
        schemas = [names[body] for body in route.bodies]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
