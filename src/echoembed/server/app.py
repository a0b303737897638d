"""The ASGI application: one request from its headers to the last byte of its answer.

    app = App(service)        # uvicorn runs it; starlette's TestClient does in tests

``_answered`` has the steps of a request: host, key, route, body, fields, vectors, JSON. An error in any step becomes an
error body that the route's clients can read.
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect, Request

from echoembed import errors
from echoembed.server import http, json_body, logs, openapi
from echoembed.server.routes import Route, error_form, no_route, routes_of
from echoembed.server.service import Service

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

_LARGE = 32 * 1024  # bytes; larger JSON is read and written in a thread, so that the event loop does not wait
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_OPEN = ("/health", "/ping")


class App:
    """The application that uvicorn calls.

    Args:
        service: Answers requests; started and closed with the application.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.settings = service.settings
        self.held = http.Held(service.limits.held_bytes)
        self._routes: dict[str, dict[str, Route]] = {}
        for route in routes_of(service.listed):
            self._routes.setdefault(route.path, {})[route.method] = route
        self._plain = {"/metrics": "text/plain; version=0.0.4; charset=utf-8", "/openapi.json": "application/json"}
        self._document = orjson.dumps(openapi.document())
        folder = files("echoembed.server") / "page"
        self._page = {path: (folder / name).read_bytes() for path, (name, _) in PAGE.items()}
        service.metrics.held_bytes.set_function(lambda: self.held.bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or start and close the service with the process."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            with self.service.metrics.in_flight.track_inprogress():
                await self._request(Request(scope, receive), send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.service.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.service.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _request(self, request: Request, send: Send) -> None:
        begun = time.monotonic()
        path, method = request.scope["path"], request.method
        is_known = path in self._routes or path in PAGE or path in self._plain or path in _OPEN
        route = path if is_known else "other"  # metrics and logs get no path that a client made up
        id_ = http.request_id(request.scope)
        status, started = 0, False
        tally: dict[str, int] = {}
        fault: Exception | None = None

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            status, tally = await self._answered(request, noted, {"X-Request-Id": id_})
        except ClientDisconnect:
            status = 499  # nginx's status for a client that has disconnected
        except Exception as error:
            failed = error if isinstance(error, errors.RequestError) else errors.server_fault(id_)
            fault = None if failed is error else error
            status = failed.status
            if not started:
                page = path in PAGE and method in ("GET", "HEAD")
                body = orjson.dumps(http.error_content(failed, "openai" if page else error_form(path)))
                headers = {"X-Request-Id": id_, **http.error_headers(failed)}
                if failed.status == 408 or not await http.drain(request, self.settings.limits):
                    headers["Connection"] = "close"  # no more of the body is read
                await http.send_response(send, status, body, headers, head=method == "HEAD")
        finally:
            seconds = time.monotonic() - begun
            status = request.scope.get(http.ANSWERED, status)
            self.service.metrics.requests.labels(route, str(status)).inc()
            self.service.metrics.latency.labels(route).observe(seconds)
            fields = {"id": id_, "method": method if is_known else "", "route": route, "status": status, **tally}
            logs.event("request", fields, error=fault, ms=round(1000 * seconds, 1))

    async def _answered(self, request: Request, send: Send, headers: dict[str, str]) -> tuple[int, dict[str, int]]:
        """Send the answer; returns its status and the numbers for the log."""
        path, method = request.scope["path"], request.method
        head = method == "HEAD"
        asked = "GET" if head else method
        # 1. Check host, key and route, before any byte of the body is read.
        http.check_host(request, self.settings)
        if path in _OPEN and asked == "GET":
            return await self._health(send, headers, head=head)
        http.check_key(request, self.settings)
        if asked == "GET" and path in PAGE:
            media = PAGE[path][1]
            await http.send_response(send, 200, self._page[path], {**headers, **_PAGE_HEADERS}, media=media, head=head)
            return 200, {}
        if asked == "GET" and path in self._plain:
            body = self._document if path == "/openapi.json" else self.service.metrics.text()
            await http.send_response(send, 200, body, headers, media=self._plain[path], head=head)
            return 200, {}
        route = self._route(path, method)
        # 2. Read the body, up to the limit, and parse it.
        counted_bytes = 0
        try:
            data: dict[str, Any] = {}
            if route.method == "POST":
                body, counted_bytes = await http.read_body(request, self.service.limits, self.held)
                if route.queued:
                    self.service.check_room(len(body))
                large = len(body) > _LARGE
                data = await self.service.thread(lambda: json_body.parse(body)) if large else json_body.parse(body)
            # 3. Compute the answer, unless the client disconnects, and send it.
            answer = await http.while_connected(request, route.answer(self.service, data))
            if route.queued:
                self.service.learn(len(body), answer.tally["tokens"])
            sizes = answer.tally.get("texts", 0) * self.service.encoder.dimension * 4
            encoded = (
                await self.service.thread(lambda: http.encode(answer.content))
                if sizes > _LARGE
                else http.encode(answer.content)
            )
            self.held.bytes += len(encoded)
            counted_bytes += len(encoded)
            await http.send_response(send, 200, encoded, {**headers, **answer.headers}, head=head)
            return 200, answer.tally
        finally:
            self.held.bytes -= counted_bytes

    async def _health(self, send: Send, headers: dict[str, str], *, head: bool) -> tuple[int, dict[str, int]]:
        """Say whether requests should be sent to this server: 200, or 503 and the reason."""
        state = self.service.state()
        status = 200 if state == "ok" else 503
        await http.send_response(send, status, orjson.dumps({"status": state}), headers, head=head)
        return status, {}

    def _route(self, path: str, method: str) -> Route:
        methods = [*self._routes.get(path, {})]
        if path in PAGE or path in self._plain or path in _OPEN:
            methods.append("GET")
        if not methods:
            raise no_route(path, self.service.listed)
        asked = "GET" if method == "HEAD" else method
        if asked not in self._routes.get(path, {}):
            also = ["HEAD"] if "GET" in methods else []
            raise errors.request_method(method, ", ".join(sorted({*methods, *also})))
        return self._routes[path][asked]
