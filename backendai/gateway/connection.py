"""One HTTP connection: Hypercorn's protocol handler on a stream that is bounded in time and can be cut.

Hypercorn shields what it sends from cancellation, so a client that stops reading would hold its task, its
memory and the shutdown for ever. Here every send has a deadline, and :meth:`BoundedStream.abort` ends one at
once. The rest is thrift: what happens once per answer is most of what a short answer costs.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.events import RawData
from hypercorn.trio.tcp_server import TCPServer
from trio.abc import HalfCloseableStream

#: A WebSocket frame: final, ping, no payload.
_PING = b"\x89\x00"
#: Key of the connection's stream in the state that ASGI scopes carry.
STREAM = "stream"


class BoundedStream(HalfCloseableStream):
    """A :class:`trio.SocketStream` whose sends raise BrokenResourceError after ``send_timeout`` seconds."""

    def __init__(self, stream: trio.SocketStream, send_timeout: float) -> None:
        self._stream = stream
        self.send_timeout = send_timeout
        #: When the client last sent anything, by Trio's clock.
        self.heard_at = trio.current_time()
        #: The connection is over, be it that the client ended it, that it broke or that we did.
        self.gone = False
        #: A send waits for the client to take more.
        self.stalled = False
        #: To be called when the connection speaks WebSocket from now on.
        self.upgraded: Callable[[], None] = _nothing
        #: Sends a WebSocket ping; None while the connection speaks HTTP.
        self.ping: Callable[[], Awaitable[None]] | None = None
        #: Waits until the client takes more, so that what is sent next need not be kept for long.
        self.ready: Callable[[], Awaitable[None]] = self.wait_send_all_might_not_block
        self._held: bytes | None = None
        self._hold_next = False
        # We are saying good-bye; Trio lets nobody else send meanwhile.
        self._ending = False

    @property
    def socket(self) -> trio.socket.SocketType:
        return self._stream.socket

    def hold_next(self) -> None:
        """Keep what is sent next until the send after it, and send both as one.

        For the head of an answer whose body follows at once. Without a send after it, it would never leave.
        """
        self._hold_next = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._hold_next:
            self._hold_next = False
            self._held = bytes(data)
            return
        if self._held is not None:
            data, self._held = self._held + data, None
        if not data:
            return
        # Most answers fit into the socket's buffer. Then there is nothing to wait for, so that Trio's
        # machinery and its checkpoint can be spared; reading from the same connection has one.
        self._refuse_when_ending()
        try:
            sent = os.write(self._stream.socket.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.gone = True
            raise trio.BrokenResourceError(str(error)) from error
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, data: memoryview) -> None:
        self.stalled = True
        with trio.move_on_after(self.send_timeout) as waiting:
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                self.gone = True
                raise
            finally:
                self.stalled = False
        if waiting.cancelled_caught:
            self.abort()
            raise trio.BrokenResourceError("the client stopped reading")

    async def wait_send_all_might_not_block(self) -> None:
        self._refuse_when_ending()
        await self._stream.wait_send_all_might_not_block()

    def _refuse_when_ending(self) -> None:
        if self._ending:
            raise trio.BrokenResourceError("the connection is being closed")

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.gone = True
            raise
        if data:
            self.heard_at = trio.current_time()
        else:
            self.gone = True
        return data

    async def send_eof(self) -> None:
        self._ending = True
        await self._stream.send_eof()

    def abort(self) -> None:
        """Close the socket now; whoever waits on it gets ClosedResourceError."""
        self.gone = True
        self._stream.socket.close()

    async def aclose(self) -> None:
        self.gone = True
        await self._stream.aclose()


def _nothing() -> None:
    pass


class Connection(TCPServer):
    """Hypercorn's, but one that its client has closed ends then, not when it has been idle for long enough.

    Over TLS clients wait for our side of the goodbye; the official ones for up to 30 seconds.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._timer = IdleTimer(
            self.config.keep_alive_timeout, self.context.terminated.wait, self._initiate_server_close
        )
        self.idle_task = self._timer  # type: ignore[assignment]
        self._bounded: BoundedStream = self.state[STREAM]
        self._bounded.upgraded = self._upgraded

    def _upgraded(self) -> None:
        self._timer.end()
        self._bounded.ping = self._ping
        self._bounded.ready = self._ready

    async def _ready(self) -> None:
        async with self.send_lock:
            await self._bounded.wait_send_all_might_not_block()

    async def _ping(self) -> None:
        # Hypercorn would keep a task for each connection to do this. Frames are sent as a whole under the
        # lock, so a ping falls between two; with one under way it can wait for the next time.
        if not self.send_lock.locked():
            await self.protocol_send(RawData(_PING))

    async def _read_data(self) -> None:
        await super()._read_data()
        self._timer.end()


class IdleTimer:
    """Closes a connection that was idle for ``timeout`` seconds, or is idle when the server stops.

    In place of Hypercorn's, which starts and cancels a task for every answer; this one is a task for the life
    of the connection that looks at a time stamp.
    """

    def __init__(
        self, timeout: float, stopping: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
    ) -> None:
        self._timeout = timeout
        self._stopping = stopping
        self._close = close
        self._scope: trio.CancelScope | None = None
        #: None while a request is under way.
        self._idle_since: float | None = None

    async def restart(self, task_group: Any, _action: object) -> None:
        """The connection is idle from now on."""
        self._idle_since = trio.current_time()
        if self._scope is None:
            self._scope = trio.CancelScope()
            task_group.spawn(self._watch, self._scope)

    async def stop(self) -> None:
        """A request has come."""
        self._idle_since = None

    def end(self) -> None:
        """The client has closed the connection, there is nothing left to watch."""
        if self._scope is not None:
            self._scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                since = self._idle_since if self._idle_since is not None else trio.current_time()
                stops = False
                with trio.move_on_at(since + self._timeout):
                    await self._stopping()
                    stops = True
                idle = self._idle_since
                if idle is not None and (stops or trio.current_time() >= idle + self._timeout):
                    with trio.CancelScope(shield=True):
                        await self._close()
                    return
                if stops:
                    return  # the answer under way is the connection's last, the protocol sees to it
