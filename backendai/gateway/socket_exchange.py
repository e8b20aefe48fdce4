"""One WebSocket connection, between ASGI and a handler."""

from __future__ import annotations

from functools import partial

import trio

from backendai.core.errors import ServiceUnavailable
from backendai.gateway.body import Receive
from backendai.gateway.call import Call
from backendai.gateway.connection import STREAM
from backendai.gateway.edge import Request
from backendai.gateway.errors import problem
from backendai.gateway.exchange import Exchange
from backendai.gateway.reply import Reply
from backendai.gateway.route import SocketRoute
from backendai.gateway.sockets import FAILED, GOING_AWAY, NORMAL, Send, Socket

#: Seconds for the client's part of the closing handshake.
_CLOSE_TIME = 2.0


class SocketExchange(Exchange):
    """What Quart calls its WebSocket connection class, of which one is made per connection."""

    __slots__ = ()

    async def __call__(self, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        started = trio.current_time()
        admitted = await self._guarded(self._admit)
        if isinstance(admitted, Reply):
            reply = admitted
        else:
            request, connection = self._request, self._scope["state"][STREAM]
            socket = Socket(receive, send, connection, request.request_id, request.forget_headers)
            with self._edge.metrics.open_streams.labels("websocket").track_inprogress():
                refusal = await self._converse(*admitted, socket)
            reply = Reply(101) if refusal is None else refusal
            if refusal is None and not socket.disconnected:
                await self._close(socket, receive, send)
        if reply.status != 101:
            await _refuse_upgrade(reply, self._request, send)
        self._edge.metrics.answered("GET", self._label, reply.status, trio.current_time() - started)

    async def _admit(self) -> tuple[SocketRoute, Call]:
        route, arguments = self._edge.router.match_socket(self._request.path)
        self._label = route.path
        call, _ = await self._edge.admit(self._request, route, arguments, b"")
        return route, call

    async def _close(self, socket: Socket, receive: Receive, send: Send) -> None:
        """Say good-bye and wait for the client's; one that goes on sending instead is cut.

        Hypercorn has to get rid of every message it has read, or the connection would stay for ever.
        """
        with trio.move_on_after(_CLOSE_TIME) as waiting:
            await send({"type": "websocket.close", "code": socket.close_code, "reason": socket.close_reason})
            await _until_disconnect(receive)
        if waiting.cancelled_caught:
            socket.connection.abort()
            await _until_disconnect(receive)

    async def _converse(self, route: SocketRoute, call: Call, socket: Socket) -> Reply | None:
        """Run the handler until it is done, the client leaves or the server stops.

        Answers what to say instead of an upgrade if the handler did not accept the connection.
        """
        refusal: Reply | None = problem(ServiceUnavailable("The server is going down."))
        with self._edge.until_closing():
            if route.relays:
                refusal = await self._run(route, call, socket)
            else:
                await socket.accept()
                await self._while_connected(route, call, socket)
        if self._edge.closing and socket.close_code == NORMAL:
            socket.close_code = GOING_AWAY
            if route.farewell is not None:
                await socket.send_json(route.farewell)
        return None if socket.accepted else refusal

    async def _while_connected(self, route: SocketRoute, call: Call, socket: Socket) -> None:
        inbox = socket.open_inbox()
        async with trio.open_nursery() as nursery:

            async def watch_client() -> None:
                await socket.feed(inbox)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_client)
            await self._run(route, call, socket)
            nursery.cancel_scope.cancel()

    async def _run(self, route: SocketRoute, call: Call, socket: Socket) -> Reply | None:
        """Call the handler; what it raises, as an answer."""
        refusal = await self._guarded(partial(route.handler, call, socket))
        if refusal is not None:
            socket.close_code = FAILED
        return refusal


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
