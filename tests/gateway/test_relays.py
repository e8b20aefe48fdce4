"""Terminals and tunnels: WebSockets to streams whose far end is played."""

from __future__ import annotations

import gc
import os
import random
import resource
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import msgspec
import psutil
import pytest
import trio
from fake_streams import Play, flood, sink
from fakes import Fakes
from gateway_client import SigningClient, sign_headers
from gateway_sockets import close_code, open_socket
from trio_websocket import ConnectionRejected, WebSocketConnection

from backendai.core.errors import ServiceUnavailable
from backendai.gateway import relay, serve
from backendai.gateway.app import Gateway
from backendai.gateway.edge import HttpOptions
from backendai.manager.streams import refusal
from backendai.wire.stream_end import StreamEnd
from backendai.wire.streams import Closed, Data, Eof, PortTarget, Resize, StreamTarget, TerminalTarget

TUNNEL = "/stream/session/my-sess/tcpproxy?app=jupyter"
PTY = "/stream/session/my-sess/pty"


@pytest.fixture
def options() -> HttpOptions:
    return HttpOptions(max_body=10_000, body_timeout=0.3, relay_idle=1.0)


async def until_open(fakes: Fakes, count: int = 1) -> None:
    with trio.fail_after(10):
        while fakes.streams.open != count:
            await trio.sleep(0.01)


async def until_none_open(fakes: Fakes) -> None:
    with trio.fail_after(10):
        while fakes.streams.open:
            await trio.sleep(0.01)


# -- tunnels


@pytest.mark.parametrize(
    "path",
    [
        TUNNEL,
        "/stream/session/my-sess/httpproxy?service=jupyter",
        "/stream/kernel/my-sess/tcpproxy?app=jupyter",
        "/v4/stream/kernel/my-sess/tcpproxy?app=jupyter",
    ],
)
async def test_bytes_go_both_ways(client: SigningClient, fakes: Fakes, path: str) -> None:
    content = random.Random(1).randbytes(1 << 20)
    async with open_socket(client, path) as connection, trio.open_nursery() as nursery:

        async def send() -> None:
            for start in range(0, len(content), 50_000):
                await connection.send_message(content[start : start + 50_000])
            await connection.send_message("text is ignored")

        nursery.start_soon(send)
        got = b""
        with trio.fail_after(10):
            while len(got) < len(content):
                message = await connection.get_message()
                assert len(message) <= 256 << 10
                got += message
    assert got == content
    await until_none_open(fakes)
    assert fakes.streams.targets == [PortTarget(port=8080)]


async def test_what_the_app_is_started_with(client: SigningClient, fakes: Fakes) -> None:
    envs = quote(msgspec.json.encode({"A": "b", "N": 5}).decode())
    arguments = quote(msgspec.json.encode({"--x": None, "--y": "z", "--l": ["1", "2"]}).decode())
    path = f"{TUNNEL}&port=8090&envs={envs}&arguments={arguments}"
    async with open_socket(client, path):
        pass
    expected = {"--x": None, "--y": "z", "--l": ("1", "2")}
    assert fakes.streams.apps == [("my-sess", "jupyter", 8090, {"A": "b", "N": "5"}, expected)]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("app=nothing", 404, b"No such app service."),
        ("app=broken", 500, b"Failed to launch the app service"),
        ("port=8090", 400, b"app"),
        ("app=jupyter&port=80", 400, b"port"),
        ("app=jupyter&port=x", 400, b"port"),
        ("app=jupyter&envs=[]", 400, b"envs"),
        ("app=jupyter&envs={", 400, b"envs"),
        ("app=jupyter&arguments={%22a%22:5}", 400, b"arguments"),
    ],
)
async def test_refused_before_the_upgrade(
    client: SigningClient, query: str, status: int, text: bytes
) -> None:
    with pytest.RaisesGroup(ConnectionRejected) as rejected:
        async with open_socket(client, f"/stream/session/my-sess/tcpproxy?{query}"):
            pass
    (error,) = rejected.value.exceptions
    assert isinstance(error, ConnectionRejected)
    assert error.status_code == status
    assert text in (error.body or b"")


@pytest.mark.parametrize(
    ("closed", "code", "reason"),
    [
        (Closed(), 1001, None),
        (Closed("refused"), 1013, "refused"),
        (Closed("io-error"), 1011, "io-error"),
        (Closed("gone"), 1011, "gone"),
    ],
)
async def test_how_the_end_is_told(
    client: SigningClient, fakes: Fakes, closed: Closed, code: int, reason: str | None
) -> None:
    async def play(end: StreamEnd, target: StreamTarget) -> None:
        await end.send(b"last words")
        end.close(closed.code, closed.msg)

    fakes.streams.play = play
    async with open_socket(client, TUNNEL) as connection:
        assert await connection.get_message() == b"last words"
        assert await close_code(connection) == (code, reason)


async def test_a_half_closed_connection_ends_the_tunnel(client: SigningClient, fakes: Fakes) -> None:
    async def play(end: StreamEnd, target: StreamTarget) -> None:
        await end.send(b"bye")
        await end.send_eof()
        await end.wait_ended()

    fakes.streams.play = play
    async with open_socket(client, TUNNEL) as connection:
        assert await connection.get_message() == b"bye"
        assert await close_code(connection) == (1001, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [(refusal("refused", ""), 1013), (ServiceUnavailable("too many"), 1013), (refusal("gone", ""), 1011)],
)
async def test_refused_after_the_upgrade(
    client: SigningClient, fakes: Fakes, error: Exception, code: int
) -> None:
    fakes.streams.refusals.append(error)  # type: ignore[arg-type]
    async with open_socket(client, TUNNEL) as connection:
        assert (await close_code(connection))[0] == code


async def test_what_a_client_sent_before_it_left_is_delivered(client: SigningClient, fakes: Fakes) -> None:
    got: list[bytes] = []
    done = trio.Event()

    async def play(end: StreamEnd, target: StreamTarget) -> None:
        await trio.sleep(0.3)  # slower than the client
        while (data := await end.receive()) is not None:
            got.append(data)
        assert end.result is None
        done.set()

    fakes.streams.play = play
    async with open_socket(client, TUNNEL) as connection:
        for _ in range(20):
            await connection.send_message(bytes(10_000))
    with trio.fail_after(5):
        await done.wait()
    assert sum(map(len, got)) == 200_000
    await until_none_open(fakes)


async def test_a_slow_client_holds_the_app_back(client: SigningClient, fakes: Fakes) -> None:
    sent = 0

    async def play(end: StreamEnd, target: StreamTarget) -> None:
        nonlocal sent
        while True:
            await end.send(bytes(1 << 16))
            sent += 1 << 16

    fakes.streams.play = play
    path = TUNNEL
    headers = sign_headers("GET", path, client.host, content_type=None)
    async with await raw_socket(client, path, headers):
        await until_open(fakes)
        before = -1
        with trio.fail_after(10):
            while sent != before or not sent:
                before = sent
                await trio.sleep(0.2)
        assert sent < 16 << 20  # what fits into the sockets' own buffers
    await until_none_open(fakes)


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


@pytest.mark.parametrize("play", [sink, flood])
async def test_a_silent_client_is_let_go(client: SigningClient, fakes: Fakes, play: object) -> None:
    fakes.streams.play = play  # type: ignore[assignment]
    headers = sign_headers("GET", TUNNEL, client.host, content_type=None)
    async with await raw_socket(client, TUNNEL, headers):
        await until_open(fakes)
        await until_none_open(fakes)


async def test_a_client_that_answers_pings_may_be_quiet(client: SigningClient, fakes: Fakes) -> None:
    async with open_socket(client, TUNNEL) as connection:
        for _ in range(8):
            await trio.sleep(0.25)
            await connection.pong()
        assert connection.closed is None
        await connection.send_message(b"x")
        assert await connection.get_message() == b"x"


class TestPings:
    @pytest.fixture
    def app(self, app: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
        monkeypatch.setattr(serve, "PING_INTERVAL", 0.2)
        return app

    async def test_clients_that_only_answer_pings_stay(self, client: SigningClient, fakes: Fakes) -> None:
        async with open_socket(client, TUNNEL) as connection:  # its library answers by itself
            await trio.sleep(2.5)
            await connection.send_message(b"x")
            assert await connection.get_message() == b"x"

    async def test_pings_do_not_harm_what_is_being_sent(self, client: SigningClient, fakes: Fakes) -> None:
        content = random.Random(1).randbytes(1 << 16)

        async def play(end: StreamEnd, target: StreamTarget) -> None:
            while True:
                await end.send(content)

        fakes.streams.play = play
        async with open_socket(client, TUNNEL) as connection:
            got = b""
            until = trio.current_time() + 1.5
            while trio.current_time() < until:
                got += await connection.get_message()
                if len(got) >= 1 << 20:
                    assert got[: 1 << 20] == content * 16
                    got = got[1 << 20 :]
                    await trio.sleep(0.05)


async def test_a_torn_connection_ends_the_stream(
    client: SigningClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LINGER", 0.1)
    fakes.streams.play = sink
    headers = sign_headers("GET", TUNNEL, client.host, content_type=None)
    stream = await raw_socket(client, TUNNEL, headers)
    await until_open(fakes)
    # More than anybody takes, so that nobody reads on until the end of the connection.
    frame = b"\x82\xfe\xff\xff\x00\x00\x00\x00" + bytes(65535)
    with trio.move_on_after(0.5):
        while True:
            await stream.send_all(frame)
    await stream.aclose()
    await until_none_open(fakes)


async def test_a_server_that_stops_says_so(client: SigningClient, fakes: Fakes, app: Gateway) -> None:
    async with open_socket(client, TUNNEL) as connection:
        await connection.send_message(b"x")
        assert await connection.get_message() == b"x"
        app.edge.close()
        assert (await close_code(connection))[0] == 1001
    await until_none_open(fakes)


# -- terminals


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


# -- many

CLIENTS = Path(__file__).parent / "abandoning_clients.py"


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestMany:
    @pytest.fixture
    def options(self) -> HttpOptions:
        return HttpOptions(relay_idle=600.0)

    @pytest.mark.parametrize(
        ("play", "count", "kilobytes"),
        [(sink, 2000, 50), (flood, 500, 50 + (16 << 10) // 500 + 20)],
    )
    async def test_abandoned_sockets_cost_little_and_are_let_go(
        self,
        client: SigningClient,
        fakes: Fakes,
        app: Gateway,
        many_files: None,
        play: Play,
        count: int,
        kilobytes: int,
    ) -> None:
        """Their output is not taken, so with the flood all windows are full, the 16 MiB they share included.

        What plays the flood lives in this process too; the clients have their own.
        """
        fakes.streams.play = play
        gc.collect()
        before = psutil.Process().memory_info().rss
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        run = partial(
            trio.run_process,
            [sys.executable, str(CLIENTS), client.host, TUNNEL, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
        )
        async with trio.open_nursery() as nursery:
            clients = await nursery.start(run)
            with trio.fail_after(60):
                assert await clients.stdout.receive_some() == b"open\n"
            await until_open(fakes, count)
            await trio.sleep(1)  # for the windows to fill
            grown = psutil.Process().memory_info().rss - before
            assert grown < count * kilobytes << 10
            for each in app.relays._relays:
                each._idle = 0.1
            with trio.fail_after(30):
                while fakes.streams.open:
                    await trio.sleep(0.1)
            await clients.stdin.aclose()
