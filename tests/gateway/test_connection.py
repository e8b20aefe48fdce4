"""The stream under an HTTP connection, on a real socket."""

import socket as stdlib_socket
from contextlib import suppress

import pytest
import trio

from backendai.gateway.connection import BoundedStream


async def test_nobody_sends_while_the_connection_says_goodbye() -> None:
    refused = 0

    async def send(stream: BoundedStream) -> None:
        nonlocal refused
        try:
            await stream.wait_send_all_might_not_block()
            await stream.send_all(b"x" * 100)
        except trio.BrokenResourceError:
            refused += 1

    async def say_goodbye(stream: BoundedStream) -> None:
        with suppress(trio.BusyResourceError):  # the other was first, which Hypercorn expects
            await stream.send_eof()

    for _ in range(30):  # Trio starts tasks in any order
        ours, theirs = stdlib_socket.socketpair()
        ours.setblocking(False)
        with theirs:
            async with BoundedStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), 5.0) as stream:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(say_goodbye, stream)
                    nursery.start_soon(send, stream)
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(b"x")
    assert refused
