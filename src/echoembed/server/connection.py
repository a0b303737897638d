"""Connections with time limits: a client must send its headers in time, and read its answer in time.

uvicorn limits how long a connection may be idle between requests. It has no limit for slow headers or for clients that
stop reading, and it answers malformed HTTP in plain text. This class adds the limits and a JSON answer, through
uvicorn's own hooks. The answer to malformed HTTP is counted and logged like every other: by the application if its
request is already there, which happens when a body turns out malformed, and else by this class.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from echoembed import errors
from echoembed.server import http, logs

if TYPE_CHECKING:
    from prometheus_client import Counter

_HEAD = 4096  # bytes that an answer's head has at most


class Joined:
    """A transport that sends the head of an answer together with what follows: one call of the system, not two."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send the data; a head is kept for as long as the event loop's turn lasts."""
        if self._head:
            data, self._head = self._head + data, b""
            self._transport.write(data)
        elif 0 < len(data) <= _HEAD:
            self._head = data
            self._loop.call_soon(self._send)
        elif data:
            self._transport.write(data)

    def close(self) -> None:
        """Close, after what was kept."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)


class Connection(H11Protocol):
    """A connection to a server.

    Attributes:
        seconds: How long a client may take to send its headers, or to read on.
        most: How many connections may be open.
        requests: Counts the answers that the application does not give, by route and status.
    """

    seconds = 10.0
    most = 1000
    requests: Counter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @classmethod
    def under(cls, seconds: float, most: int, requests: Counter) -> type[Connection]:
        """Return a subclass with a server's limits and its counter of requests."""
        return type("Connection", (cls,), {"seconds": seconds, "most": most, "requests": requests})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for headers; a connection over the limit gets an error for any request."""
        super().connection_made(cast("asyncio.Transport", Joined(transport, self.loop)))
        if len(self.connections) > self.most:
            self.app = _full(self.most, self.requests)
        self._await("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._arrived("headers")
        self._arrived("reader")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the time for headers starts with their first byte and ends with their last."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self._arrived("headers")
        elif "headers" not in self._timers and self.conn.trailing_data[0]:
            self._await("headers")

    def pause_writing(self) -> None:
        """Start the time to read on, as the client has stopped reading its answer."""
        super().pause_writing()
        self._await("reader")

    def resume_writing(self) -> None:
        """Stop the timer, as the client reads again."""
        super().resume_writing()
        self._arrived("reader")

    def shutdown(self) -> None:
        """End an idle connection at once, a busy one after its answer."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # the connection has ended by itself
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, unless an answer has begun already, and end the connection."""
        error = errors.request_not_http()
        answers = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        in_work = self.cycle is not None and not self.cycle.response_complete
        scope = cast("dict[str, Any]", self.cycle.scope) if in_work else {"headers": []}
        if answers:
            self._send_error(error, http.request_id(scope))
        if in_work:
            # The application still works on the request whose body is malformed: for it, the client has disconnected.
            if answers:
                scope[http.ANSWERED] = error.status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif answers:
            _note(scope, error, self.requests)
        self.transport.close()

    def _send_error(self, error: errors.RequestError, id_: str) -> None:
        body = orjson.dumps(http.error_content(error))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        headers["X-Request-Id"] = id_
        raw = [(name.encode(), value.encode()) for name, value in {**headers, **http.error_headers(error)}.items()]
        for event in (
            h11.Response(status_code=error.status, headers=raw, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def _await(self, what: str) -> None:
        """Start a timer that ends the connection, unless ``_arrived`` stops it in time."""
        self._arrived(what)
        self._timers[what] = self.loop.call_later(self.seconds, self.transport.abort)

    def _arrived(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()


def _note(scope: dict[str, Any], error: errors.RequestError, requests: Counter) -> None:
    """Count and log an answer that the application does not give."""
    requests.labels("other", str(error.status)).inc()
    logs.event("request", {"id": http.request_id(scope), "method": "", "route": "other", "status": error.status})


def _full(most: int, requests: Counter) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        error = errors.server_connections(most)
        headers = {"Connection": "close", "X-Request-Id": http.request_id(scope), **http.error_headers(error)}
        _note(scope, error, requests)
        await http.send_response(send, error.status, orjson.dumps(http.error_content(error)), headers)

    return app
