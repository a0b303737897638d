"""The OpenAPI document, made from ``routes.py`` and the protocols' models."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from echoembed import __version__
from echoembed.server.routes import ROUTES, Route, routes_of

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
_READ = {
    "/": "The page, which compares recipes.",
    "/health": "Whether requests should be sent here.",
    "/ping": "The same as /health.",
    "/metrics": "Prometheus metrics.",
    "/openapi.json": "This document.",
}
"""The routes that ``app.py`` answers itself, all with GET."""
_JSON: dict[str, Any] = {"application/json": {"schema": {}}}


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    bodies = dict.fromkeys(body for route in ROUTES for body in route.bodies)
    names: dict[Any, Any] = {}
    reference = "#/components/schemas/{model}"
    mapped, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=reference)
    names = {body: mapped[(body, "validation")] for body in bodies}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes_of(["{name}"]):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names)
    for path, summary in _READ.items():
        other = {"503": "They should not; the body says why."} if path in ("/health", "/ping") else {}
        statuses = {"200": "As it says.", "401": _ERRORS["401"], "403": _ERRORS["403"], **other}
        responses = {status: {"description": text} for status, text in statuses.items()}
        paths.setdefault(path, {})["get"] = {"summary": summary, "responses": responses}
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
    if "{name}" in route.path:
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if route.bodies:
        schemas = [names[body] for body in route.bodies]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
