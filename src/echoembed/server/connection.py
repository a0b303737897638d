"""A connection that cannot be held open for nothing: headers arrive in time, answers are read in time.

uvicorn bounds how long a connection may be idle between requests. It bounds neither slow headers nor clients that stop
reading, and it answers broken HTTP in plain text. Both are mended here, through uvicorn's own hooks.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from echoembed import errors
from echoembed.server import http


class Connection(H11Protocol):
    """One connection of a server with ``seconds`` for headers and for readers, and room for ``most`` connections."""

    seconds = 10.0
    most = 1000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @classmethod
    def under(cls, seconds: float, most: int) -> type[Connection]:
        """The class with a server's limits."""
        return type("Connection", (cls,), {"seconds": seconds, "most": most})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers; a connection over the limit is refused, whatever it asks."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.app = _full(self.most)
        self._await("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._arrived("headers")
        self._arrived("reader")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time for headers begins with the first byte of a request and ends with the last."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self._arrived("headers")
        elif "headers" not in self._timers and self.conn.trailing_data[0]:
            self._await("headers")

    def pause_writing(self) -> None:
        """The client has stopped reading its answer: give it some time to go on."""
        super().pause_writing()
        self._await("reader")

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._arrived("reader")

    def shutdown(self) -> None:
        """End an idle connection at once, a busy one after its answer."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # the connection has ended by itself
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP, unless an answer is on its way already."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        error = errors.request_not_http(msg)
        body = orjson.dumps(http.error_content(error, tei=False))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        raw = [(name.encode(), value.encode()) for name, value in {**headers, **http.error_headers(error)}.items()]
        for event in (
            h11.Response(status_code=400, headers=raw, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await(self, what: str) -> None:
        """End the connection unless what is awaited arrives in time."""
        self._arrived(what)
        self._timers[what] = self.loop.call_later(self.seconds, self.transport.abort)

    def _arrived(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()


def _full(most: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        error = errors.server_connections(most)
        headers = {"Connection": "close", **http.error_headers(error)}
        await http.send_response(send, error.status, orjson.dumps(http.error_content(error, tei=False)), headers)

    return app
