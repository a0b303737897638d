"""The server's process: sockets, signals, and how the process ends.

It ends in one of two ways. After SIGTERM or SIGINT, ``/health`` says "stopping", every accepted request is answered,
and the exit code is 0. If the model's thread dies, every waiting request gets an error, and the process ends within two
seconds with exit code 1, even if something hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from threading import Timer, current_thread, main_thread
from typing import TYPE_CHECKING

import uvicorn

from echoembed import errors
from echoembed.server import logs
from echoembed.server.app import App
from echoembed.server.connection import Connection
from echoembed.server.encoder import ServedModel
from echoembed.server.service import Service

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from echoembed.server.settings import Settings

_LAST_MOMENT = 1.5  # seconds from the death of the model's thread to the end of the process
_LATE = 0.2  # seconds after SIGTERM in which connections that the kernel has already accepted are still answered
_SPARE_FILES = 64
_BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server, with our handling of signals and of the process's end.

    Args:
        model: The model, from ``echoembed.load``.
        settings: Address, keys and limits.
        encoder_class: The class that runs the model.
    """

    def __init__(
        self, model: SentenceTransformer, settings: Settings, *, encoder_class: type[ServedModel] = ServedModel
    ) -> None:
        limits = settings.limits
        self.service = Service(encoder_class(model), settings, on_death=self.died)
        self.exit_code = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        most = min(limits.connections, _files() - _SPARE_FILES)
        config = uvicorn.Config(
            App(self.service),
            http=Connection.under(limits.header_seconds, most, self.service.metrics.requests),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(limits.seconds + limits.body_seconds) + 1,
        )
        super().__init__(config)

    def run_on(self, listener: socket.socket, ready: Callable[[str], None] = lambda _: None) -> int:
        """Serve until a signal comes.

        Args:
            listener: From ``bind``.
            ready: Called with the server's address as soon as clients can connect.

        Returns:
            The exit code.

        Raises:
            ServerError: If another server has begun to listen on the address since ``bind``.
        """
        # By default, a thread may hold the interpreter for 5 ms, which would delay every answer by 5 ms.
        sys.setswitchinterval(0.0005)
        host, port = listener.getsockname()[:2]
        try:
            listener.listen(_BACKLOG)
        except OSError as error:  # another server has bound the address too, and listens
            raise errors.server_address(host, port, str(error.strerror or error)) from error
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        encoder = self.service.encoder
        logs.event("serving", {"address": address, "models": self.service.listed, "recipe": encoder.served})
        ready(address)
        self.run(sockets=[listener])
        logs.event("stopped", {"exit_code": self.exit_code})
        if self.exit_code and current_thread() is main_thread():
            # The interpreter's usual exit unloads the libraries, which a broken device may block.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.exit_code)
        return self.exit_code

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals stop the server, instead of killing the process."""
        self._loop = asyncio.get_running_loop()
        if current_thread() is not main_thread():  # other threads cannot handle signals
            yield
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self.should_exit:  # the second time
            self.force_exit = True
            return
        logs.event("stopping")
        self.service.stopping = True
        self.should_exit = True

    def died(self, error: BaseException) -> None:
        """End the process with exit code 1; called by the model's thread just before it ends."""
        self.exit_code = 1
        timer = Timer(_LAST_MOMENT, os._exit, (1,))
        timer.daemon = True
        timer.start()
        logs.event("model stopped", error=error)

        def end() -> None:
            self.service.stopping = True
            self.should_exit = True

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(end)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all requests that have arrived, then close."""
        if not self.exit_code:
            await asyncio.sleep(_LATE)
        await super().shutdown(sockets)


def bind(settings: Settings) -> socket.socket:
    """Reserve the address before the model is loaded; clients can connect only from ``Server.run_on`` on.

    Raises:
        ServerError: If the address cannot be reserved.
    """
    try:
        [family, kind, protocol, _, address] = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise errors.server_address(settings.host, settings.port, str(error.strerror or error)) from error
    return listener


def _files() -> int:
    """Raise the number of files that the process may open as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return 2**20 if soft == resource.RLIM_INFINITY else soft
