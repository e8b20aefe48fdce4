"""One WebSocket connection, between ASGI and a handler."""

from __future__ import annotations

from typing import Any

import structlog
import trio

from backendai.core.errors import BackendError, ServiceUnavailable
from backendai.gateway.body import Receive
from backendai.gateway.call import Call
from backendai.gateway.connection import STREAM
from backendai.gateway.edge import UNMATCHED, Edge, Request
from backendai.gateway.errors import fault, problem
from backendai.gateway.logs import current_request
from backendai.gateway.reply import Reply
from backendai.gateway.route import SocketRoute
from backendai.gateway.sockets import FAILED, GOING_AWAY, NORMAL, Send, Socket

log = structlog.get_logger(__name__)

#: Seconds for the client's part of the closing handshake.
_CLOSE_TIME = 2.0


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
            socket = Socket(receive, send, self._scope["state"][STREAM], request.request_id)
            with self._edge.metrics.open_streams.labels("websocket").track_inprogress():
                refusal = await self._converse(route, call, socket)
            reply = Reply(101) if refusal is None else refusal
            if refusal is None and not socket.disconnected:
                await self._close(socket, receive, send)
        if reply.status != 101:
            await _refuse_upgrade(reply, request, send)
        self._edge.metrics.answered("GET", label, reply.status, trio.current_time() - started)

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
                refusal = await _guarded(route, call, socket)
            else:
                await socket.accept()
                await _while_connected(route, call, socket)
        if self._edge.closing and socket.close_code == NORMAL:
            socket.close_code = GOING_AWAY
            if route.farewell is not None:
                await socket.send_json(route.farewell)
        return None if socket.accepted else refusal


async def _while_connected(route: SocketRoute, call: Call, socket: Socket) -> None:
    inbox = socket.open_inbox()
    async with trio.open_nursery() as nursery:

        async def watch_client() -> None:
            await socket.feed(inbox)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch_client)
        await _guarded(route, call, socket)
        nursery.cancel_scope.cancel()


async def _guarded(route: SocketRoute, call: Call, socket: Socket) -> Reply | None:
    """What the handler raises, as an answer. A bug ends here: client and log must both hear of it."""
    try:
        await route.handler(call, socket)
    except BackendError as error:
        socket.close_code = FAILED
        return problem(error)
    except Exception:
        log.exception("socket failed", route=route.path)
        socket.close_code = FAILED
        return fault(call.request_id, None)
    return None


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
