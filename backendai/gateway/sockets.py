"""A WebSocket as a handler sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from backendai.gateway.body import Receive
from backendai.gateway.connection import BoundedStream

Send = Callable[[Any], Awaitable[None]]

#: Messages a client may send ahead of a handler that is not reading.
_READ_AHEAD = 64
#: With what a connection is closed (RFC 6455, 7.4).
NORMAL, GOING_AWAY, MALFORMED, POLICY, FAILED, TRY_LATER = 1000, 1001, 1007, 1008, 1011, 1013


class Socket:
    """When the client leaves, the handler is cancelled unless its route relays: :meth:`receive` tells it."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        connection: BoundedStream,
        request_id: str,
        opened: Callable[[], None],
    ) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._opened = opened
        #: What the WebSocket runs on.
        self.connection = connection
        self._texts: trio.MemoryReceiveChannel[str] | None = None
        self.accepted = False
        #: The client has left, so that a cancelled handler can tell it from a server that stops.
        self.client_gone = False
        #: Hypercorn has said so too: nothing more will come.
        self.disconnected = False
        #: What :class:`.SocketExchange` closes the connection with.
        self.close_code = NORMAL
        self.close_reason = ""

    async def accept(self) -> None:
        """Upgrade the connection. Only handlers of relaying routes have to."""
        self.accepted = True
        headers = [(b"x-request-id", self._request_id.encode())]
        await self._send({"type": "websocket.accept", "headers": headers})
        self._opened()
        self.connection.upgraded()

    async def receive_text(self) -> str:
        """The next text message, on routes that do not relay."""
        assert self._texts is not None
        return await self._texts.receive()

    async def receive(self) -> str | bytes | None:
        """For relays: the next message; None once the client has left and all that it sent was received."""
        message = None if self.disconnected else await self._receive()
        if message is None or message["type"] == "websocket.disconnect":
            self.client_gone = self.disconnected = True
            return None
        found: str | bytes = message["bytes"] if message.get("text") is None else message["text"]
        return found

    async def send_json(self, value: Any) -> None:
        await self._send({"type": "websocket.send", "text": msgspec.json.encode(value).decode()})

    async def send_bytes(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "bytes": data})

    def open_inbox(self) -> trio.MemorySendChannel[str]:
        """Make room for what :meth:`feed` takes in and :meth:`receive_text` hands out."""
        inbox, self._texts = trio.open_memory_channel[str](_READ_AHEAD)
        return inbox

    async def feed(self, inbox: trio.MemorySendChannel[str]) -> None:
        """Pass on text messages until the client leaves; binary ones have no meaning here."""
        while (message := await self.receive()) is not None:
            if isinstance(message, bytes):
                continue
            try:
                inbox.send_nowait(message)
            except trio.WouldBlock:
                self.close_code = POLICY
                self.client_gone = True
                return
