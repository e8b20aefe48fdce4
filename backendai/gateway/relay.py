"""Between a WebSocket and a stream into a session: both directions, the end of either, and silence.

Nothing is buffered here: whoever reads slowly holds the other side back. A client that has fallen silent, be
its connection half open or its program stuck, is let go after a while, and the stream with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from backendai.gateway.sockets import FAILED, GOING_AWAY, NORMAL, TRY_LATER, Socket
from backendai.manager.link import AgentStream
from backendai.wire.stream_end import StreamEnded
from backendai.wire.streams import Closed

#: Seconds in which what a client had sent before it left may still be delivered.
LINGER = 5.0
#: How the end of a stream is told: nothing listens on the port, everything else.
_CLOSE_CODES = {"": GOING_AWAY, "refused": TRY_LATER}

Upward = Callable[[str | bytes], Awaitable[None]]
Downward = Callable[[bytes], Awaitable[None]]


class Relay:
    """One conversation. ``idle``: seconds without a sign of life from the client."""

    def __init__(self, socket: Socket, stream: AgentStream, idle: float) -> None:
        self._socket = socket
        self._stream = stream
        self._idle = idle
        self._delivered_at = trio.current_time()
        # A client may read as slowly as it likes, as long as it lives.
        socket.connection.send_timeout = idle

    async def run(self, upward: Upward, downward: Downward, *, linger: float = 0.0) -> Closed | None:
        """Give each message of the client to ``upward`` and the stream's bytes to ``downward``.

        Returns how the stream ended; None when it only sends no more, when the client has left, ``linger``
        seconds after what it sent was delivered, or when it was silent for too long. An ``upward`` that
        raises :class:`Finished` ends it too.
        """
        async with trio.open_nursery() as nursery:

            async def to_stream() -> None:
                try:
                    while (message := await self._socket.receive()) is not None:
                        await upward(message)
                    await self._stream.send_eof()
                except StreamEnded:
                    return  # how, the other direction sees when it has read all
                except Finished:
                    nursery.cancel_scope.cancel()
                await trio.sleep(linger)
                nursery.cancel_scope.cancel()

            async def to_client() -> None:
                while (data := await self._stream.receive()) is not None:
                    await downward(data)
                    if not self._socket.connection.gone.is_set():
                        self._delivered_at = trio.current_time()
                nursery.cancel_scope.cancel()

            nursery.start_soon(to_stream)
            nursery.start_soon(to_client)
            await self._watch(linger)
            nursery.cancel_scope.cancel()
        return self._stream.result

    async def _watch(self, linger: float) -> None:
        """Return when the client has been silent or gone for long enough."""
        connection = self._socket.connection
        while (rest := max(connection.heard_at, self._delivered_at) + self._idle - trio.current_time()) > 0:
            with trio.move_on_after(rest):
                await connection.gone.wait()
                await trio.sleep(linger)
                return
        self._socket.close_code, self._socket.close_reason = GOING_AWAY, "idle"


class Finished(Exception):
    """Raised by ``upward``: the conversation is over, though neither side has ended."""


def tell_end(socket: Socket, closed: Closed | None) -> None:
    """Have the socket closed as the contract says for a stream that ended this way."""
    if socket.close_code != NORMAL:
        return
    code = "" if closed is None else closed.code
    socket.close_code = _CLOSE_CODES.get(code, FAILED)
    socket.close_reason = code
