"""Between a WebSocket and a stream into a session: both directions, the end of either, and silence.

Nothing is buffered here: whoever reads slowly holds the other side back. A client that has fallen silent, be
its connection half open or its program stuck, is let go after a while, and the stream with it. Thousands may
be open and idle, so a relay has two tasks and no more: the handler's own and one for the other direction.
"""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from backendai.gateway.sockets import FAILED, GOING_AWAY, NORMAL, TRY_LATER, Socket
from backendai.manager.link import AgentStream
from backendai.wire.stream_end import StreamEnded
from backendai.wire.streams import Closed

#: Seconds in which what a client had sent before it left may still be delivered.
LINGER = 5.0
#: Seconds between looks at the clients of all relays.
LOOK_INTERVAL = 1.0
#: Bytes that may wait in the kernel of a client that does not read; what is under way comes on top.
_UNSENT = 128 << 10
#: How the end of a stream is told: nothing listens on the port, everything else.
_CLOSE_CODES = {"": GOING_AWAY, "refused": TRY_LATER}

Upward = Callable[[str | bytes], Awaitable[None]]
Downward = Callable[[bytes], Awaitable[None]]


class Relays:
    """All relays of the process, and the one task that notices silent clients."""

    def __init__(self) -> None:
        self._relays: set[Relay] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.sleep(LOOK_INTERVAL)
            now = trio.current_time()
            for relay in self._relays:
                relay.look(now)

    def open(self, socket: Socket, stream: AgentStream, idle: float) -> Relay:
        """``idle``: seconds without a sign of life from the client until it is let go."""
        return Relay(self._relays, socket, stream, idle)


class Relay:
    """One conversation."""

    __slots__ = ("_delivered_at", "_gone_at", "_idle", "_linger", "_relays", "_scope", "_socket", "_stream")

    def __init__(self, relays: set[Relay], socket: Socket, stream: AgentStream, idle: float) -> None:
        self._relays = relays
        self._socket = socket
        self._stream = stream
        self._idle = idle
        self._linger = 0.0
        self._scope = trio.CancelScope()
        self._delivered_at = trio.current_time()
        self._gone_at: float | None = None
        # A client may read as slowly as it likes, as long as it lives.
        socket.connection.send_timeout = idle
        socket.connection.socket.setsockopt(
            stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NOTSENT_LOWAT, _UNSENT
        )

    async def run(self, upward: Upward, downward: Downward, *, linger: float = 0.0) -> Closed | None:
        """Give each message of the client to ``upward`` and the stream's bytes to ``downward``.

        Returns how the stream ended; None when it only sends no more, when the client has left and ``linger``
        seconds have passed, or when it was silent for too long. An ``upward`` that raises :class:`Finished`
        ends it too.
        """
        self._linger = linger
        self._relays.add(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._to_stream, upward)
                    await self._to_client(downward)
                    nursery.cancel_scope.cancel()
        finally:
            self._relays.discard(self)
        return self._stream.result

    async def _to_client(self, downward: Downward) -> None:
        connection = self._socket.connection
        while True:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await (
                    connection.ready()
                )  # before it is taken, so that it waits in the stream's window, not here
            if (data := await self._stream.receive()) is None:
                return
            await downward(data)
            del data
            if not connection.gone:
                self._delivered_at = trio.current_time()

    async def _to_stream(self, upward: Upward) -> None:
        try:
            while (message := await self._socket.receive()) is not None:
                await upward(message)
            await self._stream.send_eof()
        except StreamEnded:
            return  # how, the other direction sees when it has read all
        except Finished:
            self._scope.cancel()
        await trio.sleep(self._linger)
        self._scope.cancel()

    def look(self, now: float) -> None:
        """End the conversation with a client that is gone or has been silent for too long."""
        connection = self._socket.connection
        if connection.gone:
            # Hypercorn hands over what came before the end only as fast as it is taken, so whoever waits to
            # send may never hear of the end itself.
            self._gone_at = self._gone_at or now
            if now >= self._gone_at + self._linger:
                self._scope.cancel()
        elif now > max(connection.heard_at, self._delivered_at) + self._idle:
            self._socket.close_code, self._socket.close_reason = GOING_AWAY, "idle"
            self._scope.cancel()
            if connection.stalled:  # a good-bye would have to wait behind what it does not take
                connection.abort()


class Finished(Exception):
    """Raised by ``upward``: the conversation is over, though neither side has ended."""


def tell_end(socket: Socket, closed: Closed | None) -> None:
    """Have the socket closed as the contract says for a stream that ended this way."""
    if socket.close_code != NORMAL:
        return
    code = "" if closed is None else closed.code
    socket.close_code = _CLOSE_CODES.get(code, FAILED)
    socket.close_reason = code
