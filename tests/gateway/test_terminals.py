"""Terminals: WebSockets to streams whose far end is played."""

from __future__ import annotations

from base64 import b64decode, b64encode

import msgspec
import pytest
import trio
from fakes import Fakes
from gateway_client import SigningClient
from gateway_sockets import close_code, open_socket, until_none_open
from trio_websocket import ConnectionRejected, WebSocketConnection

from backendai.wire.stream_end import StreamEnd
from backendai.wire.streams import Closed, Data, Eof, Resize, StreamTarget, TerminalTarget

PTY = "/stream/session/my-sess/pty"


async def say(connection: WebSocketConnection, **frame: object) -> None:
    await connection.send_message(msgspec.json.encode(frame).decode())


async def hear(connection: WebSocketConnection, count: int) -> bytes:
    got = b""
    with trio.fail_after(5):
        while len(got) < count:
            frame = msgspec.json.decode(await connection.get_message())
            assert frame["type"] == "out"
            got += b64decode(frame["data"])
    return got


async def test_typing_and_seeing(client: SigningClient, fakes: Fakes) -> None:
    everything = bytes(range(256))
    async with open_socket(client, f"{PTY}?terminal=t2&rows=30&cols=100") as connection:
        await say(connection, type="unknown")
        await say(connection, type="ping")
        await connection.send_message(b"binary is ignored")
        await connection.send_message("[]")
        await say(connection, type="stdin", chars=b64encode(everything).decode())
        assert await hear(connection, 256) == everything
    assert fakes.streams.targets == [TerminalTarget(terminal="t2", rows=30, cols=100)]
    await until_none_open(fakes)


async def test_sizes_reach_the_terminal(client: SigningClient, fakes: Fakes) -> None:
    seen: list[object] = []
    done = trio.Event()

    async def play(end: StreamEnd, target: StreamTarget) -> None:
        while not isinstance(frame := await end.receive_frame(), Eof | Closed):
            seen.append(frame)
            if len(seen) == 2:
                done.set()

    fakes.streams.play = play
    async with open_socket(client, PTY) as connection:
        await say(connection, type="resize", rows=50, cols=132)
        await say(connection, type="stdin", chars="YQ==")
        with trio.fail_after(5):
            await done.wait()
    assert seen == [Resize(50, 132), Data(b"a")]


@pytest.mark.parametrize(
    "frame",
    [
        "{",
        '{"type":"stdin"}',
        '{"type":"stdin","chars":"!"}',
        '{"type":"stdin","chars":5}',
        '{"type":"resize","rows":0,"cols":5}',
        '{"type":"resize","rows":"x","cols":5}',
        '{"type":"resize","rows":5}',
    ],
)
async def test_malformed_frames(client: SigningClient, frame: str) -> None:
    async with open_socket(client, PTY) as connection:
        await connection.send_message(frame)
        assert await close_code(connection) == (1007, "malformed frame")


async def test_a_terminal_that_ends_closes_the_socket(client: SigningClient, fakes: Fakes) -> None:
    async def play(end: StreamEnd, target: StreamTarget) -> None:
        await end.send(b"exit")

    fakes.streams.play = play
    async with open_socket(client, PTY) as connection:
        assert await hear(connection, 4) == b"exit"
        assert await close_code(connection) == (1000, None)


async def test_restart_attaches_again_with_the_last_size(client: SigningClient, fakes: Fakes) -> None:
    async with open_socket(client, PTY) as connection:
        await say(connection, type="resize", rows=50, cols=132)
        await say(connection, type="restart")
        with trio.fail_after(5):
            while len(fakes.streams.targets) < 2:
                await trio.sleep(0.01)
        await say(connection, type="stdin", chars="YQ==")
        assert await hear(connection, 1) == b"a"
    assert [call[0] for call in fakes.sessions.calls] == ["restart"]
    assert fakes.streams.targets[1] == TerminalTarget(terminal="main", rows=50, cols=132)


async def test_restart_by_another_attaches_again(
    client: SigningClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backendai.gateway.handlers import terminal

    monkeypatch.setattr(terminal, "_HELD_LONG_ENOUGH", 0.0)
    ends: list[StreamEnd] = []

    async def play(end: StreamEnd, target: StreamTarget) -> None:
        ends.append(end)
        if len(ends) == 1:
            await end.receive()
            end.close("gone")
        else:
            await end.send(b"again")
            await end.wait_ended()

    fakes.streams.play = play
    async with open_socket(client, PTY) as connection:
        await say(connection, type="stdin", chars="YQ==")
        assert await hear(connection, 5) == b"again"
    assert len(ends) == 2


async def test_a_terminal_that_is_lost_at_once_is_not_tried_for_ever(
    client: SigningClient, fakes: Fakes
) -> None:
    async def play(end: StreamEnd, target: StreamTarget) -> None:
        end.close("gone", "the kernel has ended")

    fakes.streams.play = play
    async with open_socket(client, PTY) as connection:
        assert await close_code(connection) == (1011, "gone")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/stream/session/missing/pty", 404),
        (f"{PTY}?rows=0", 400),
        (f"{PTY}?terminal=a%2Fb", 400),
    ],
)
async def test_terminals_refused_before_the_upgrade(client: SigningClient, path: str, status: int) -> None:
    with pytest.RaisesGroup(ConnectionRejected) as rejected:
        async with open_socket(client, path):
            pass
    (error,) = rejected.value.exceptions
    assert isinstance(error, ConnectionRejected)
    assert error.status_code == status
