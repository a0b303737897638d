"""HTTP for requests and answers: check host and key, read the body, write answers and errors.

Host, key and content type are checked before the body is read. The bytes of all bodies and answers in memory are
counted, and together they may not exceed a limit.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from echoembed import errors
from echoembed.server import logs
from echoembed.server.settings import Limits, Settings

if TYPE_CHECKING:
    from starlette.types import Scope, Send

T = TypeVar("T")
ANSWERED = "echoembed.answered"
"""The key in a request's scope under which the connection leaves the status with which it has answered."""
_ALL_READ = "echoembed.all_read"  # the key under which the scope has whether the whole body is read; before, none
_ID = "echoembed.request_id"
_SLICE = 64 * 1024  # bytes passed to the socket at once, so that a slow client occupies no more memory
_DRAINED = 4  # times the limit: how much of a refused request's body is read, so that its sender gets to the answer
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TEI_TYPES = {413: "Validation", 415: "Validation", 422: "Tokenizer", 429: "Overloaded", 500: "Backend", 503: "Backend"}
_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class Held:
    """Counts the bytes of all bodies and answers in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def take(self, count: int) -> int:
        """Add bytes to the count, and return their number.

        Raises:
            RequestError: 429 if the limit would be exceeded.
        """
        if self.bytes + count > self.limit:
            raise errors.server_memory(self.limit)
        self.bytes += count
        return count


def request_id(scope: Scope) -> str:
    """Return the id of a request, which its answer and the log share: the client's own if it is harmless."""
    if _ID not in scope:
        scope[_ID] = logs.request_id(Headers(scope=scope).get("x-request-id"))
    return str(scope[_ID])


def check_host(request: Request, settings: Settings) -> None:
    """Refuse requests for other hosts than this machine, if no key protects the server.

    A website can make its own name resolve to 127.0.0.1 (DNS rebinding), but its requests still state that name.
    """
    host = request.headers.get("host")
    if settings.keys or host is None:
        return
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() in ("localhost", settings.host.lower(), *settings.hosts):
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass
    raise errors.request_host(host)


def check_key(request: Request, settings: Settings) -> None:
    """Refuse requests without a valid key; browsers send the key as the password of the Basic scheme."""
    if not settings.keys:
        return
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    key = credentials.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(key, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            key = b""
    elif scheme.lower() != "bearer":
        key = b""
    if not settings.keys.accept(key):
        raise errors.request_key()


async def read_body(request: Request, limits: Limits, held: Held) -> tuple[bytes, int]:
    """Read the body; returns it with the number of bytes added to ``held``, which the caller must subtract at the end.

    Raises:
        RequestError: If its headers do not say JSON, or if it is too large, too slow, or over the limit of memory.
        ClientDisconnect: If the client disconnects.
    """
    kind, _, rest = request.headers.get("content-type", "of no stated type").partition(";")
    parameters = [parameter.strip().lower().partition("=") for parameter in rest.split(";")]
    charset = next((value.strip(' "') for name, _, value in parameters if name == "charset"), "")
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise errors.request_content_type(request.headers.get("content-type", "of no stated type"))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise errors.request_content_type(f"compressed ({request.headers['content-encoding']})")
    announced = _announced(request)
    if announced > _DRAINED * limits.body_bytes:
        raise errors.request_too_large(announced, limits.body_bytes)
    size = counted_bytes = 0
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in _chunks(request):
                size += len(chunk)
                if size > limits.body_bytes:
                    raise errors.request_too_large(size, limits.body_bytes)
                counted_bytes += held.take(len(chunk))
                chunks.append(chunk)
    except BaseException as error:
        held.bytes -= counted_bytes
        if isinstance(error, TimeoutError):
            raise errors.request_slow(limits.body_seconds) from error
        raise
    return b"".join(chunks), counted_bytes


def _announced(request: Request) -> int:
    return int(request.headers.get("content-length", "0") or 0)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    while not request.scope.get(_ALL_READ):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        request.scope[_ALL_READ] = not message.get("more_body", False)
        yield message.get("body", b"")


async def drain(request: Request, limits: Limits) -> bool:
    """Read what is left of a refused request's body, and keep nothing of it; returns whether it is read to its end.

    If a connection is closed with bytes unread, its other side may lose the answer. There are limits: no more is read
    from a sender that waits for leave to send, or that is slow, or that sends far too much.
    """
    announced = _announced(request)
    if not announced and "transfer-encoding" not in request.headers:
        return True
    waits = "expect" in request.headers and _ALL_READ not in request.scope
    if waits or announced > _DRAINED * limits.body_bytes:
        return False
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in _chunks(request):
                size += len(chunk)
                if size > _DRAINED * limits.body_bytes:
                    return False
    except (TimeoutError, ClientDisconnect):
        return False
    return True


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the result of work, and cancel the work if the client disconnects.

    Raises:
        ClientDisconnect: If the client disconnects first.
    """
    current = asyncio.current_task()
    assert current is not None
    gone = asyncio.ensure_future(_gone(request))
    cancelled = False

    def cancel(_: object) -> None:
        nonlocal cancelled
        if not left:
            cancelled = current.cancel()

    left = False
    gone.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if cancelled:
            current.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        left = True
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def encode(content: object) -> bytes:
    """Encode as JSON; NumPy arrays become arrays of numbers, float32 with the fewest digits that are exact."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def error_content(error: errors.RequestError, form: str = "openai") -> dict[str, Any]:
    """Return the body of an error in a form of ``routes.error_form``; Cohere's and voyage's clients read ``openai``."""
    message = str(error)
    if form == "ollama":
        return {"error": message}
    if form == "tei":
        return {"error": message, "error_type": _TEI_TYPES.get(error.status, "Validation")}
    type_ = _OPENAI_TYPES.get(error.status, "invalid_request_error")
    described = {"message": message, "type": type_, "param": error.param, "code": error.code}
    return {"error": described, "detail": message, "message": message}


def error_headers(error: errors.RequestError) -> dict[str, str]:
    """Return the headers of an error, which clients read beside its body."""
    headers = {"X-Error-Message": str(error).encode("ascii", "backslashreplace").decode()}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.methods:
        headers["Allow"] = error.methods
    if error.status >= 500:
        headers["X-Should-Retry"] = "false" if error.retry_after is None else "true"
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="echoembed: the API key is the password", charset="UTF-8"'
    return headers


async def send_response(
    send: Send,
    status: int,
    body: bytes,
    headers: dict[str, str],
    *,
    media: str = "application/json",
    head: bool = False,
) -> None:
    """Send a response in slices; each waits until the previous slice has been sent."""
    all_headers = {"Content-Type": media, "Content-Length": str(len(body)), **_ALWAYS, **headers}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    view = memoryview(b"" if head else body)
    for start in range(0, max(1, len(view)), _SLICE):
        more = start + _SLICE < len(view)
        await send({"type": "http.response.body", "body": bytes(view[start : start + _SLICE]), "more_body": more})
