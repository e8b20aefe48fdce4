"""One WebSocket connection, between ASGI and a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import trio

from backendai.core.errors import BackendError
from backendai.gateway.body import Receive
from backendai.gateway.call import Call, Reply, SocketRoute
from backendai.gateway.connection import STREAM
from backendai.gateway.edge import UNMATCHED, Edge, Request
from backendai.gateway.errors import fault, problem
from backendai.gateway.logs import current_request

Send = Callable[[Any], Awaitable[None]]

log = structlog.get_logger(__name__)

#: Messages a client may send ahead of a handler that is not reading.
_READ_AHEAD = 64
#: Seconds for the client's part of the closing handshake.
_CLOSE_TIME = 2.0
NORMAL, GOING_AWAY, POLICY, FAILED = 1000, 1001, 1008, 1011


class Socket:
    """An accepted WebSocket as a handler sees it. The handler is cancelled when the client leaves."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._inbox, self._outbox = trio.open_memory_channel[str](_READ_AHEAD)
        #: The client has left, so that a cancelled handler can tell it from a server that stops.
        self.client_gone = False
        #: Hypercorn has said so too: nothing more will come.
        self.disconnected = False
        #: What :meth:`SocketExchange` closes the connection with.
        self.close_code = NORMAL

    async def receive_text(self) -> str:
        return await self._outbox.receive()

    async def send_json(self, value: Any) -> None:
        await self._send({"type": "websocket.send", "text": msgspec.json.encode(value).decode()})

    async def feed(self, receive: Receive) -> None:
        """Pass on text messages until the client leaves; binary ones have no meaning here."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.client_gone = self.disconnected = True
                return
            text = message.get("text")
            if text is None:
                continue
            try:
                self._inbox.send_nowait(text)
            except trio.WouldBlock:
                self.close_code = POLICY
                self.client_gone = True
                return


class SocketExchange:
    """What Quart calls its WebSocket connection class, of which one is made per connection."""

    __slots__ = ("_edge", "_scope")

    def __init__(self, app: Any, scope: Any) -> None:
        self._edge: Edge = app.edge
        self._scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        request = Request(self._scope)
        current_request.set(request.request_id)
        label = UNMATCHED
        started = trio.current_time()
        try:
            route, arguments = self._edge.router.match_socket(request.path)
            label = route.path
            call, _ = await self._edge.admit(request, route, arguments, b"")
        except BackendError as error:
            reply = problem(error)
        except Exception:
            log.exception("upgrade failed", route=label)
            reply = fault(request.request_id, None)
        else:
            reply = Reply(101)
            await send(
                {"type": "websocket.accept", "headers": [(b"x-request-id", request.request_id.encode())]}
            )
            with self._edge.metrics.open_streams.labels("websocket").track_inprogress():
                socket = await self._converse(route, call, receive, send)
            if not socket.disconnected:
                await self._close(socket.close_code, receive, send)
        if reply.status != 101:
            await _refuse_upgrade(reply, request, send)
        self._edge.metrics.answered("GET", label, reply.status, trio.current_time() - started)

    async def _close(self, code: int, receive: Receive, send: Send) -> None:
        """Say good-bye and wait for the client's; one that goes on sending instead is cut.

        Hypercorn has to get rid of every message it has read, or the connection would stay for ever.
        """
        with trio.move_on_after(_CLOSE_TIME) as waiting:
            await send({"type": "websocket.close", "code": code})
            await _until_disconnect(receive)
        if waiting.cancelled_caught:
            self._scope["state"][STREAM].abort()
            await _until_disconnect(receive)

    async def _converse(self, route: SocketRoute, call: Call, receive: Receive, send: Send) -> Socket:
        """Run the handler until it is done, the client leaves or the server stops."""
        socket = Socket(send)
        async with trio.open_nursery() as nursery:

            async def watch_client() -> None:
                await socket.feed(receive)
                nursery.cancel_scope.cancel()

            async def watch_server() -> None:
                await self._edge.closing.wait()
                socket.close_code = GOING_AWAY
                if route.farewell is not None:
                    await socket.send_json(route.farewell)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_client)
            nursery.start_soon(watch_server)
            try:
                await route.handler(call, socket)
            except Exception:
                log.exception("socket failed", route=route.path)
                socket.close_code = FAILED
            nursery.cancel_scope.cancel()
        return socket


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _refuse_upgrade(reply: Reply, request: Request, send: Send) -> None:
    headers = [
        *reply.headers,
        (b"server", b"BackendAI"),
        (b"x-request-id", request.request_id.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        (b"connection", b"close"),
    ]
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reply.body, "more_body": False})
