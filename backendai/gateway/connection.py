"""The byte stream under one HTTP connection, bounded in time and able to be cut.

Hypercorn shields what it sends from cancellation, so a client that stops reading would hold its task, its
memory and the shutdown for ever. Here every send has a deadline, and :meth:`BoundedStream.abort` ends one
at once.
"""

from __future__ import annotations

import trio
from trio.abc import HalfCloseableStream


class BoundedStream(HalfCloseableStream):
    """A :class:`trio.SocketStream` whose sends raise BrokenResourceError after ``send_timeout`` seconds."""

    def __init__(self, stream: trio.SocketStream, send_timeout: float) -> None:
        self._stream = stream
        self._send_timeout = send_timeout

    @property
    def socket(self) -> trio.socket.SocketType:
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        # Most answers fit the socket's buffer: then there is nothing to wait for and nothing to bound.
        try:
            sent = await self._stream.socket.send(data)
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        if sent == len(data):
            return
        with trio.move_on_after(self._send_timeout) as waiting:
            await self._stream.send_all(memoryview(data)[sent:])
        if waiting.cancelled_caught:
            self.abort()
            raise trio.BrokenResourceError("the client stopped reading")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    def abort(self) -> None:
        """Close the socket now; whoever waits on it gets ClosedResourceError."""
        self._stream.socket.close()

    async def aclose(self) -> None:
        await self._stream.aclose()
