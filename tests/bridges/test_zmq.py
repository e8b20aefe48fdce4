"""ZeroMQ on Trio: nothing hangs, nothing is lost, only the right peers get in."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from backendai.bridges.zmq import (
    AllowedKeys,
    CurveClient,
    CurveServer,
    SocketType,
    ZmqSocket,
    new_curve_keys,
    open_socket,
)


@asynccontextmanager
async def pair(hwm: int = 1000) -> AsyncIterator[tuple[ZmqSocket, ZmqSocket]]:
    async with (
        open_socket(SocketType.DEALER, bind="tcp://127.0.0.1:*", hwm=hwm) as left,
        open_socket(SocketType.DEALER, connect=left.endpoint, hwm=hwm) as right,
    ):
        yield left, right


@pytest.mark.parametrize("hwm", [1, 10, 1000])
async def test_full_load_in_both_directions_loses_and_reorders_nothing(hwm: int) -> None:
    count = 5000

    async def produce(socket: ZmqSocket) -> None:
        for number in range(count):
            await socket.send([b"%d" % number, b"body"])

    async def consume(socket: ZmqSocket) -> None:
        for number in range(count):
            assert await socket.recv() == [b"%d" % number, b"body"]

    with trio.fail_after(60):
        async with pair(hwm) as sockets, trio.open_nursery() as nursery:
            for socket in sockets:
                nursery.start_soon(produce, socket)
                nursery.start_soon(consume, socket)


async def test_many_tasks_share_a_socket() -> None:
    got: list[bytes] = []

    with trio.fail_after(20):
        async with pair(hwm=2) as (left, right), trio.open_nursery() as nursery:

            async def receive() -> None:
                for _ in range(50):
                    got.extend(await right.recv())

            async def send(prefix: int) -> None:
                for number in range(50):
                    await left.send([b"%d" % (prefix + number)])

            for index in range(4):
                nursery.start_soon(receive)
                nursery.start_soon(send, index * 100)
    assert sorted(map(int, got)) == [base + number for base in (0, 100, 200, 300) for number in range(50)]


async def test_cancelled_operations_leave_the_socket_usable_and_whole() -> None:
    """A send that is cancelled while it waits was not sent; a cancelled receive took nothing."""
    with trio.fail_after(20):
        async with pair(hwm=1) as (left, right):
            with trio.move_on_after(0.05) as timeout:
                await right.recv()
            assert timeout.cancelled_caught
            sent = 0
            while True:  # kernel buffers take some messages more than the queue does
                with trio.move_on_after(0.1) as timeout:
                    await left.send([b"x" * 100_000, b"%d" % sent])
                if timeout.cancelled_caught:
                    break
                sent += 1
            for number in range(sent):
                assert (await right.recv())[1] == b"%d" % number
            await left.send([b"after", b"all"])
            assert await right.recv() == [b"after", b"all"]


async def test_the_leader_may_be_cancelled_while_others_wait() -> None:
    with trio.fail_after(10):
        async with pair() as (left, right), trio.open_nursery() as nursery:
            got: list[list[bytes]] = []
            doomed = trio.CancelScope()

            async def leader() -> None:
                with doomed:
                    await right.recv()

            async def follower() -> None:
                got.append(await right.recv())

            nursery.start_soon(leader)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(follower)
            await trio.testing.wait_all_tasks_blocked()
            doomed.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await left.send([b"hello"])
        assert got == [[b"hello"]]


async def test_closing_wakes_everyone() -> None:
    with trio.fail_after(10):
        async with pair() as (left, _right), trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await left.recv()

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            left.close()
            left.close()
            with pytest.raises(trio.ClosedResourceError):
                await left.send([b"late"])


async def test_send_nowait_and_immediate() -> None:
    async with open_socket(SocketType.DEALER, connect="tcp://127.0.0.1:9", immediate=True) as socket:
        with pytest.raises(trio.WouldBlock):
            socket.send_nowait([b"x"])


async def test_ipc_and_subscription(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/feed"
    with trio.fail_after(10):
        async with (
            open_socket(SocketType.XPUB, bind=endpoint) as feed,
            open_socket(SocketType.SUB, connect=endpoint, subscribe=b"news") as reader,
        ):
            assert await feed.recv() == [b"\x01news"]
            await feed.send([b"noise", b"1"])
            await feed.send([b"news", b"2"])
            assert await reader.recv() == [b"news", b"2"]


async def test_unusable_endpoint_names_itself() -> None:
    async with open_socket(SocketType.ROUTER, bind="tcp://127.0.0.1:*") as socket:
        with pytest.raises(OSError, match=re.escape(socket.endpoint)):
            async with open_socket(SocketType.ROUTER, bind=socket.endpoint):
                pass
    with pytest.raises(OSError, match="nonsense"):
        async with open_socket(SocketType.DEALER, connect="nonsense"):
            pass


async def test_mandatory_router_tells_of_strangers() -> None:
    async with open_socket(SocketType.ROUTER, bind="tcp://127.0.0.1:*", mandatory=True) as socket:
        with pytest.raises(trio.BrokenResourceError):
            await socket.send([b"nobody", b"x"])


async def test_oversized_message_is_not_delivered() -> None:
    with trio.fail_after(10):
        async with (
            open_socket(SocketType.ROUTER, bind="tcp://127.0.0.1:*", max_message=1000) as server,
            open_socket(SocketType.DEALER, connect=server.endpoint, identity=b"a") as client,
            open_socket(SocketType.DEALER, connect=server.endpoint, identity=b"b") as other,
        ):
            await client.send([b"x" * 1001])
            await other.send([b"fine"])
            assert await server.recv() == [b"b", b"fine"]


async def test_curve_admits_allowed_keys_only_and_may_change_its_mind() -> None:
    server_public, server_secret = new_curve_keys()
    public, secret = new_curve_keys()
    refused: set[str] = set()
    knocked = trio.Event()

    def on_refused(key: str) -> None:
        refused.add(key)
        knocked.set()

    allowed = AllowedKeys(on_refused=on_refused)
    quick = (timedelta(milliseconds=10), timedelta(milliseconds=10))
    with trio.fail_after(10):
        async with (
            open_socket(
                SocketType.ROUTER, bind="tcp://127.0.0.1:*", curve=CurveServer(server_secret, allowed)
            ) as server,
            open_socket(
                SocketType.DEALER,
                connect=server.endpoint,
                curve=CurveClient(public, secret, server_public),
                reconnect=quick,
                handshake=timedelta(milliseconds=300),
            ) as client,
        ):
            await client.send([b"let me in"])
            await knocked.wait()
            assert refused == {public}
            allowed.add(public)
            key, frames = await server.recv_with_key()
            assert key == public
            assert frames[1:] == [b"let me in"]
            await server.send([frames[0], b"welcome"])
            assert await client.recv() == [b"welcome"]
    assert secret.reveal() not in repr(CurveClient(public, secret, server_public))


async def test_curve_server_ignores_plain_clients_and_clients_ignore_impostors() -> None:
    public, secret = new_curve_keys()
    _other_public, other_secret = new_curve_keys()
    async with (
        open_socket(
            SocketType.ROUTER,
            bind="tcp://127.0.0.1:*",
            curve=CurveServer(other_secret, AllowedKeys([public])),
        ) as server,
        open_socket(SocketType.DEALER, connect=server.endpoint) as plain,
        open_socket(
            SocketType.DEALER, connect=server.endpoint, curve=CurveClient(public, secret, public)
        ) as misled,
    ):
        await plain.send([b"x"])
        await misled.send([b"x"])
        with trio.move_on_after(0.3) as timeout:
            await server.recv()
        assert timeout.cancelled_caught


async def test_body_errors_travel_out_as_they_are() -> None:
    _public, secret = new_curve_keys()
    with pytest.raises(LookupError):
        async with open_socket(
            SocketType.ROUTER, bind="tcp://127.0.0.1:*", curve=CurveServer(secret, AllowedKeys())
        ):
            raise LookupError
