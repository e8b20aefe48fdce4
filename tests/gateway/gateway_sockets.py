"""WebSockets as official clients open them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from fakes import Fakes
from gateway_client import SigningClient, sign_headers
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream


@asynccontextmanager
async def open_socket(client: SigningClient, path: str) -> AsyncIterator[WebSocketConnection]:
    """Raises ConnectionRejected, in a group, when there is no upgrade."""
    headers = sign_headers("GET", path, client.host, content_type=None)
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    host, port = client.host.split(":")
    # The library leaves sockets open that its peer closes, so the stream is ours.
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
        connection = await wrap_client_stream(nursery, stream, client.host, path, extra_headers=extra)
        yield connection
        with trio.move_on_after(1):
            await connection.aclose()
        nursery.cancel_scope.cancel()


async def close_code(connection: WebSocketConnection, *, within: float = 5) -> tuple[int, str | None]:
    """Read until the server closes; code and reason."""
    with trio.fail_after(within):
        while True:
            try:
                await connection.get_message()
            except ConnectionClosed:
                break
    assert connection.closed is not None
    return connection.closed.code, connection.closed.reason or None


async def raw_socket(client: SigningClient, path: str, headers: dict[str, str]) -> trio.SocketStream:
    """An upgraded connection that answers no pings and reads nothing unless told to."""
    host, port = client.host.split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    lines = [f"GET {path} HTTP/1.1", f"Host: {client.host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode())
    with trio.fail_after(30):
        assert (await stream.receive_some(12)).startswith(b"HTTP/1.1 101")
    return stream


async def until_open(fakes: Fakes, count: int = 1) -> None:
    with trio.fail_after(10):
        while fakes.streams.open != count:
            await trio.sleep(0.01)


async def until_none_open(fakes: Fakes, *, within: float = 10) -> None:
    with trio.fail_after(within):
        while fakes.streams.open:
            await trio.sleep(0.01)
