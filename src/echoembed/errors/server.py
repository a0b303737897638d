"""Requests that the server refuses, each with its HTTP status, and settings with which it does not start."""

from __future__ import annotations

import json
from collections.abc import Iterable

from echoembed.errors.base import EchoembedError, TextError, near, quoted


class RequestError(EchoembedError):
    """A request that cannot be answered with vectors.

    Attributes:
        status: The HTTP status. Clients repeat requests after a 5xx, so that a fault that would happen again is a 4xx.
        code: A short name of the situation, the same in every release.
        param: The field at fault, such as ``input[3]``; None if it is no field.
        retry_after: Seconds after which the request may be repeated; None if repeating is useless.
        methods: The methods that the path has, if the request's is none of them.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_request",
        param: str | None = None,
        retry_after: int | None = None,
        methods: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.methods = methods


class ServerError(EchoembedError, ValueError):
    """A server that cannot be started as configured."""


# The body.


def request_not_json(reason: str) -> RequestError:
    """A body that is no JSON."""
    return RequestError(
        f"The body cannot be read as JSON: {quoted(reason, 120)}. Send one JSON object in UTF-8.", code="invalid_json"
    )


def request_repeated_key(key: str) -> RequestError:
    """An object with the same key twice, of which readers choose different ones."""
    return RequestError(
        f"The JSON object has the key {quoted(key)} twice. Each key may stand once: remove one of the two.",
        code="invalid_json",
    )


def request_not_http() -> RequestError:
    """Bytes that are not an HTTP request."""
    return RequestError(
        "The server got bytes that are not a valid HTTP request. Send HTTP/1.1 with a Host header, and a body of the "
        "length that the headers state, or in well-formed chunks.",
        code="invalid_http",
    )


def request_not_object(got: str) -> RequestError:
    """A body that is JSON, but no object."""
    return RequestError(f"The body is a JSON {got}. Send a JSON object with the fields of this route.")


def request_content_type(got: str) -> RequestError:
    """A body that is not declared as JSON, or is compressed."""
    return RequestError(
        f"The request's body is {quoted(got, 80)}. Send it as 'Content-Type: application/json', in UTF-8 and without "
        "Content-Encoding.",
        status=415,
        code="unsupported_media_type",
    )


def request_too_large(size: int, limit: int) -> RequestError:
    """A body beyond the limit."""
    return RequestError(
        f"The body has at least {size:,} bytes. Allowed: {limit:,}. Send the texts in several requests.",
        status=413,
        code="body_too_large",
    )


def request_slow(seconds: float) -> RequestError:
    """A body that does not arrive."""
    return RequestError(
        f"The body was not complete after {seconds:g} seconds. Send it without pauses, or in several requests.",
        status=408,
        code="body_too_slow",
    )


# The fields.


def request_field(param: str, value: object, allowed: str) -> RequestError:
    """A field with a value that is not allowed."""
    got = json.dumps(value) if value is None or isinstance(value, bool) else quoted(value)
    return RequestError(f"Got {param} = {got}. Allowed: {allowed}.", code="invalid_value", param=param)


def request_field_missing(param: str) -> RequestError:
    """A field that the route needs."""
    return RequestError(
        f"The field {param!r} is missing. Add it to the JSON object.", code="missing_field", param=param
    )


def request_field_unknown(param: str, known: Iterable[str]) -> RequestError:
    """A field that the route does not have; ignoring it might give unwanted vectors."""
    names = list(known)
    return RequestError(
        f"This route has no field {quoted(param)}. Its fields: {', '.join(names)}. Remove it or rename it."
        f"{near(param, names)}",
        code="unknown_field",
        param=param,
    )


def request_token_ids(param: str) -> RequestError:
    """Token ids, as LangChain sends them by default."""
    return RequestError(
        f"{param} holds token ids. They are ids of another model's tokenizer, and reading them as this model's would "
        "give wrong vectors: send texts. LangChain does so with OpenAIEmbeddings(check_embedding_ctx_length=False).",
        code="token_ids",
        param=param,
    )


def request_model_unknown(name: str, known: Iterable[str]) -> RequestError:
    """A model that is not served."""
    names = list(known)
    return RequestError(
        f"The model {quoted(name)} is not served here. Served: {', '.join(names)}. Ask for one of them, or start "
        f"'echoembed serve' with --served-name.{near(name, names)}",
        status=404,
        code="model_not_found",
        param="model",
    )


def request_kinds_differ(param: str, kind: str, other: str) -> RequestError:
    """Two fields that ask for different templates."""
    return RequestError(
        f"{param} asks for the {kind} template, {other} for the other template. Send one of them, or the same twice.",
        code="contradiction",
        param=param,
    )


def request_fields_differ(param: str, value: object, other: str, other_value: object) -> RequestError:
    """Two fields that mean the same, with different values."""
    return RequestError(
        f"{param} is {quoted(value)}, but {other}, which means the same, is {quoted(other_value)}. Send one of them, "
        "or the same value twice.",
        code="contradiction",
        param=param,
    )


def request_text_too_long(param: str, dropped: int, limit: int) -> RequestError:
    """A text over the limit that must not be cut."""
    return RequestError(
        f"{param} has {limit + dropped:,} tokens, {dropped:,} over the limit of {limit:,}. Shorten or split the text, "
        "or ask for it to be cut with truncate=true.",
        status=413,
        code="text_too_long",
        param=param,
    )


def request_too_many_texts(param: str, count: int, limit: int) -> RequestError:
    """More texts than one request may have."""
    return RequestError(
        f"{param} holds {count:,} texts. Allowed in one request: {limit:,}. Send them in several.",
        status=413,
        code="too_many_texts",
        param=param,
    )


def request_too_many_tokens(count: int, limit: int) -> RequestError:
    """More tokens than the queue can hold."""
    return RequestError(
        f"The request's prompts have {count:,} tokens. Allowed in one request: {limit:,}. Send the texts in several.",
        status=413,
        code="too_many_tokens",
    )


def request_not_finite(reason: str) -> RequestError:
    """Texts for which the model itself fails, as it would fail again."""
    return RequestError(
        f"A text of this request cannot be embedded by this model: {quoted(reason, 200)}. Leave it out.",
        status=422,
        code="model_failed",
    )


# The route.


def request_no_route(path: str, hint: str) -> RequestError:
    """A path that is not served."""
    return RequestError(
        f"There is nothing at {quoted(path, 80)}: {hint}. The routes are listed at /openapi.json.",
        status=404,
        code="not_found",
    )


def request_method(method: str, allowed: str) -> RequestError:
    """A path that is served with another method."""
    return RequestError(
        f"This route does not take {quoted(method)}. Allowed: {allowed}. Change the method.",
        status=405,
        code="method_not_allowed",
        methods=allowed,
    )


def request_key() -> RequestError:
    """A request without a key that the server knows."""
    return RequestError(
        "This server needs an API key. Send a valid one as 'Authorization: Bearer KEY'.",
        status=401,
        code="invalid_api_key",
    )


def request_host(host: str) -> RequestError:
    """A host name that a page elsewhere may have pointed at this machine."""
    return RequestError(
        f"The request is for the host {quoted(host, 80)}, which is not this server's. Ask for localhost, or start "
        "'echoembed serve' with --allow-host or with an API key.",
        status=403,
        code="host_refused",
    )


# The server's state.


def server_busy(waiting: int, limit: int, retry_after: int) -> RequestError:
    """A queue that is full."""
    return RequestError(
        f"The server is at work on {waiting:,} of the {limit:,} tokens it takes at once. Repeat the request in "
        f"{retry_after} s.",
        status=429,
        code="overloaded",
        retry_after=retry_after,
    )


def server_memory(limit: int) -> RequestError:
    """More bytes in flight than allowed."""
    return RequestError(
        f"The requests being answered fill the {limit:,} bytes that are set aside for them. Repeat this one in 1 s.",
        status=429,
        code="overloaded",
        retry_after=1,
    )


def server_connections(limit: int) -> RequestError:
    """One connection too many."""
    return RequestError(
        f"The server has {limit:,} connections open, which are all it takes. Repeat the request in 1 s.",
        status=429,
        code="overloaded",
        retry_after=1,
    )


def server_deadline(seconds: float) -> RequestError:
    """A request that waited too long."""
    return RequestError(
        f"The request was not done after {seconds:g} seconds and was given up. Send fewer texts at once, or repeat it.",
        status=503,
        code="deadline",
        retry_after=1,
    )


def server_stopping() -> RequestError:
    """A server that takes nothing new."""
    return RequestError(
        "The server is stopping and takes no new requests. Repeat this one in 1 s.",
        status=503,
        code="stopping",
        retry_after=1,
    )


def server_model_stopped() -> RequestError:
    """A server whose model can no longer run."""
    return RequestError(
        "The model has stopped and the server is about to exit. Repeat the request when it is up again.",
        status=503,
        code="model_stopped",
        retry_after=5,
    )


def server_fault(request_id: str) -> RequestError:
    """A fault of our code."""
    return RequestError(
        f"The server failed on this request. Its log has the fault under the request id {request_id}; please report "
        "it.",
        status=500,
        code="server_fault",
    )


# Starting.


def server_open_to_all(host: str) -> ServerError:
    """An address that other machines can reach, without a key."""
    return ServerError(
        f"{host} can be reached from other machines. Give the server an API key (--api-key-file, or the environment "
        "variable ECHOEMBED_API_KEY), or serve on 127.0.0.1."
    )


def server_address(host: str, port: int, reason: str) -> ServerError:
    """An address that cannot be served on."""
    return ServerError(
        f"The server cannot listen on {host} port {port}: {quoted(reason, 80)}. Choose a free port with --port, or "
        "--port 0 for any."
    )


def server_keys(path: object, reason: str) -> ServerError:
    """A file without usable keys."""
    return ServerError(
        f"The keys in {path} cannot be used: {quoted(reason, 80)}. Write one key of at least 16 visible ASCII "
        "characters on each line."
    )


# A client of the server: 'echoembed embed --server'.


def remote_unreachable(url: str, reason: str) -> ServerError:
    """A server that does not answer."""
    return ServerError(
        f"The server at {url} cannot be reached: {quoted(reason, 80)}. Start it with 'echoembed serve', or correct "
        "the address."
    )


def remote_refused(url: str, status: int, reason: str) -> ServerError:
    """A server that answers with an error."""
    return ServerError(
        f"The server at {url} answered {status}: {quoted(reason, 300)}. Give the address of an 'echoembed serve' "
        "that takes this request."
    )


def remote_text_too_large(size: int, most: int) -> TextError:
    """A text that no request to a server can hold."""
    return TextError(
        f"A request with this text has {size:,} bytes, and the server takes {most:,}. Split the text, or embed it "
        "without a server."
    )


def remote_changed(url: str, before: str, now: str) -> ServerError:
    """A server that began to serve another model between two requests."""
    return ServerError(
        f"The server at {url} gave vectors of the fingerprint {now} after others of {before}. They must not be "
        "compared: embed all texts again."
    )
