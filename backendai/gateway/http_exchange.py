"""One HTTP request and its answer, between ASGI and a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import structlog
import trio

from backendai.core.errors import BackendError, Forbidden
from backendai.gateway.body import ClientGone, Receive, RequestBody
from backendai.gateway.connection import STREAM
from backendai.gateway.edge import rate_headers
from backendai.gateway.errors import MethodNotAllowed
from backendai.gateway.exchange import Exchange
from backendai.gateway.reply import Header, Reply, StreamReply

Send = Callable[[Any], Awaitable[None]]

log = structlog.get_logger(__name__)
T = TypeVar("T")

_SERVER: Header = (b"server", b"BackendAI")


class HttpExchange(Exchange):
    """What Quart calls its HTTP connection class, of which one is made per request."""

    __slots__ = ("_body", "_rate")

    def __init__(self, app: Any, scope: Any) -> None:
        super().__init__(app, scope)
        self._rate: tuple[Header, ...] = ()

    async def __call__(self, receive: Receive, send: Send) -> None:
        started = perf_counter()
        request = self._request
        self._body = RequestBody(request.headers, receive)
        try:
            reply = await self._guarded(partial(self._answer, receive))
            if isinstance(reply, StreamReply):
                await self._stream(reply, receive, send)
            elif self._body.pending:
                await self._send_meanwhile(reply, send)
            else:
                await self._send(reply, send)
        except ClientGone:
            return
        self._edge.metrics.answered(request.method, self._label, reply.status, perf_counter() - started)
        log.debug("answered", method=request.method, path=request.path, status=reply.status)

    async def _answer(self, receive: Receive) -> Reply | StreamReply:
        request, edge = self._request, self._edge
        if request.method == "OPTIONS":
            return self._preflight()
        try:
            route, arguments = edge.router.match(request.path, request.method)
        except BackendError:
            await self._read_body()  # a client that still sends would not hear the refusal
            raise
        self._label = route.path
        body = b"" if route.takes_body else await self._read_body()
        call, rate = await edge.admit(request, route, arguments, body)
        if route.takes_body:
            call.incoming = self._body
        if route.waits:
            reply = await self._while_connected(receive, partial(route.handler, call))
        else:
            reply = await route.handler(call)
        self._rate = rate_headers(rate)
        return reply

    async def _read_body(self) -> bytes:
        options = self._edge.options
        return await self._body.read(limit=options.max_body, timeout=options.body_timeout)

    def _preflight(self) -> Reply:
        headers = self._request.headers
        wanted = headers.get("access-control-request-method", "").upper()
        try:
            self._edge.router.match(self._request.path, wanted)
        except MethodNotAllowed:
            raise Forbidden("CORS preflight request failed") from None
        return self._edge.cross_origin.preflight(headers)

    async def _while_connected(self, receive: Receive, step: Callable[[], Awaitable[T]]) -> T | Reply:
        """A step that may take long. Cancels it and raises :class:`ClientGone` when the client hangs up."""
        outcome: T | Reply | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            outcome = await self._guarded(step)
            nursery.cancel_scope.cancel()
        if outcome is None:
            raise ClientGone
        return outcome

    def _headers(self, reply: Reply | StreamReply) -> list[Header]:
        headers = [*reply.headers, _SERVER, (b"x-request-id", self._request.request_id.encode()), *self._rate]
        origin = self._request.headers.get("origin")
        if origin is not None:
            headers += self._edge.cross_origin.headers(origin, headers)
        return headers

    async def _send(self, reply: Reply, send: Send) -> None:
        headers = self._headers(reply)
        if reply.status != 204:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        if reply.body and self._request.wire_method != "HEAD" and self._scope["http_version"] == "1.1":
            stream = self._scope["state"].get(STREAM)
            if stream is not None:
                stream.hold_next()  # head and body leave together
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body, "more_body": False})

    async def _send_meanwhile(self, reply: Reply, send: Send) -> None:
        """Send an answer to a client that is still sending; its connection is closed afterwards."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._body.drain)
            await self._send(reply, send)
            nursery.cancel_scope.cancel()

    async def _stream(self, reply: StreamReply, receive: Receive, send: Send) -> None:
        begun = False

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def pump() -> bool:
            nonlocal begun
            async with reply.source as run:
                begun = True
                await send(
                    {"type": "http.response.start", "status": reply.status, "headers": self._headers(reply)}
                )
                with self._edge.metrics.open_streams.labels(reply.kind).track_inprogress():
                    await run(write)
            return True

        outcome = await self._while_connected(receive, pump)
        if outcome is True:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif isinstance(outcome, Reply) and not begun:
            # Once the answer has begun, a failure can only show as an end without an end mark.
            self._rate = ()
            await self._send(outcome, send)
