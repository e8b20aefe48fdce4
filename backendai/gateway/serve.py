"""Serving the application with Hypercorn's connection handler, inside our own ladder.

``hypercorn.trio.serve`` accepts connections in a nursery where the failure of one ends all: bytes sent
after a WebSocket upgrade request but before its answer are enough to stop the server. So we accept by
ourselves and give each connection to Hypercorn's ``TCPServer``, whose failures end with that
connection.

Stopping goes in order: streams say good-bye, no more connections are accepted, idle ones are closed, busy
ones get ``grace`` seconds, and then every socket that is left is cut.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h11
import structlog
import trio
import wsproto.utilities
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from backendai.gateway.app import Gateway
from backendai.gateway.connection import STREAM, BoundedStream, Connection
from backendai.supervision.containment import Containment

log = structlog.get_logger(__name__)

#: Seconds a client may leave the answers it asked for unread.
SEND_TIMEOUT = 30.0
#: Seconds between WebSocket pings.
PING_INTERVAL = 25.0


def load_config(max_message: int) -> Config:
    """``hypercorn.toml`` of the installation, with the limit of WebSocket messages in bytes laid over it."""
    package = Path(__file__).resolve().parents[1]
    # Installed from a wheel it lies inside the package, in a checkout beside it.
    shipped = package / "_hypercorn.toml"
    config = Config.from_toml(shipped if shipped.exists() else package.parent / "hypercorn.toml")
    config.websocket_max_message_size = max_message
    # Hypercorn's own messages go the way of all logs; it would set up a handler of its own.
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A listening socket, with the certificate to be used on it if it is for HTTPS."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])


def bind(address: str, port: int, config: Config, tls: ssl.SSLContext | None = None) -> Binding:
    """Listen on a TCP port, 0 for any free one. Raises OSError if that cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as on_failure:
        listening = socket.socket(family, socket.SOCK_STREAM)
        on_failure.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit this: streams whose client vanished without a word end in two minutes.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        listening.bind((address, port))
        listening.listen(config.backlog)
        listening.setblocking(False)
        on_failure.pop_all()
    return Binding(socket=listening, tls=tls)


def tls_context(certificate: Path, key: Path, config: Config) -> ssl.SSLContext:
    """Raises OSError or ssl.SSLError if the files cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(config.alpn_protocols)
    context.load_cert_chain(certificate, key)
    return context


class HttpServer:
    """Accepts connections for an application. It owns its bindings from :meth:`run` on."""

    def __init__(self, app: Gateway, config: Config, bindings: Sequence[Binding], *, grace: float) -> None:
        self._app = app
        self._config = config
        self._bindings = bindings
        self._grace = grace
        self._wrapped = wrap_app(self._call_app, config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._open: set[BoundedStream] = set()
        self._all_closed = trio.Event()

    @property
    def ports(self) -> list[int]:
        """As bound, in the order of the bindings."""
        return [binding.port for binding in self._bindings]

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then stop within ``grace`` seconds. ``started`` once connections come in."""
        async with trio.open_nursery() as nursery:
            connections: trio.Nursery = await nursery.start(self._host_connections)
            connections.start_soon(self._app.relays.run)
            connections.start_soon(self._ping_all, connections)
            try:
                async with trio.open_nursery() as listeners:
                    for binding in self._bindings:
                        await listeners.start(self._accept, binding, connections)
                    task_status.started()
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop()
                connections.cancel_scope.cancel()

    async def _accept(
        self, binding: Binding, connections: trio.Nursery, *, task_status: trio.TaskStatus[Any]
    ) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(binding.socket))
        await trio.serve_listeners(
            partial(self._handle, binding.tls),
            [listener],
            handler_nursery=connections,
            task_status=task_status,
        )

    async def _host_connections(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        # Shielded, so that a stop reaches the connections through _stop and not all at once.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections:
                task_status.started(connections)
                await trio.sleep_forever()

    async def _ping_all(self, connections: trio.Nursery) -> None:
        """Ask WebSocket clients for a sign of life; it also keeps proxies from closing quiet connections."""
        while True:
            await trio.sleep(PING_INTERVAL)
            for stream in self._open:
                if stream.ping is not None:
                    connections.start_soon(self._ping, stream, stream.ping)

    async def _ping(self, stream: BoundedStream, ping: Callable[[], Awaitable[None]]) -> None:
        try:
            await ping()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            stream.abort()  # it was about to end

    async def _stop(self) -> None:
        self._app.edge.close()
        await self._context.terminated.set()
        self._check_all_closed()
        with trio.move_on_after(self._grace):
            await self._all_closed.wait()
        for stream in list(self._open):
            stream.abort()

    def _check_all_closed(self) -> None:
        if not self._open and self._context.terminated.is_set():
            self._all_closed.set()

    async def _call_app(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except* (h11.LocalProtocolError, wsproto.utilities.LocalProtocolError):
            # Raised by ``send`` when the client broke the protocol meanwhile: nobody to answer, nothing
            # to mend.
            log.debug("answer not sent, the client broke the protocol")

    async def _handle(self, tls: ssl.SSLContext | None, accepted: trio.SocketStream) -> None:
        stream = BoundedStream(accepted, SEND_TIMEOUT)
        top = stream if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        self._open.add(stream)
        try:
            # Whatever a peer provokes in the protocol code ends its own connection only.
            with Containment(log.warning, "connection failed"):
                state = ConnectionState({STREAM: stream})
                await Connection(self._wrapped, self._config, self._context, state, top)
        finally:
            stream.abort()
            self._open.discard(stream)
            self._check_all_closed()
