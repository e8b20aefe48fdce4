"""Tunnels: WebSockets to streams whose far end is played."""

from __future__ import annotations

import random
from urllib.parse import quote

import msgspec
import pytest
import trio
import trio.testing
from fake_streams import flood, sink
from fakes import Fakes
from gateway_client import SigningClient, sign_headers
from gateway_sockets import close_code, open_socket, raw_socket, until_none_open, until_open
from trio_websocket import ConnectionRejected

from backendai.core.errors import ServiceUnavailable
from backendai.gateway import relay, serve
from backendai.gateway.app import Gateway
from backendai.gateway.edge import HttpOptions
from backendai.manager.streams import refusal
from backendai.wire.stream_end import StreamEnd
from backendai.wire.streams import Closed, PortTarget, StreamTarget

_IDLE = 600.0
TUNNEL = "/stream/session/my-sess/tcpproxy?app=jupyter"


@pytest.fixture
def options() -> HttpOptions:
    return HttpOptions(max_body=10_000, body_timeout=0.3, relay_idle=1.0)


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
    sent, done = trio.Event(), trio.Event()

    async def play(end: StreamEnd, target: StreamTarget) -> None:
        await sent.wait()  # slower than the client
        while (data := await end.receive()) is not None:
            got.append(data)
        assert end.result is None
        done.set()

    fakes.streams.play = play
    async with open_socket(client, TUNNEL) as connection:
        for _ in range(20):
            await connection.send_message(bytes(10_000))
        sent.set()
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
        with trio.fail_after(10):
            await trio.testing.wait_all_tasks_blocked(0.1)
        assert 0 < sent < 16 << 20  # what fits into the sockets' own buffers
    await until_none_open(fakes)


@pytest.mark.parametrize("play", [sink, flood])
async def test_a_silent_client_is_let_go(client: SigningClient, fakes: Fakes, play: object) -> None:
    fakes.streams.play = play  # type: ignore[assignment]
    headers = sign_headers("GET", TUNNEL, client.host, content_type=None)
    async with await raw_socket(client, TUNNEL, headers):
        await until_open(fakes)
        await until_none_open(fakes)


class TestPings:
    @pytest.fixture
    def options(self) -> HttpOptions:
        return HttpOptions(relay_idle=_IDLE)

    @pytest.fixture
    def app(self, app: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
        monkeypatch.setattr(serve, "PING_INTERVAL", 0.1)
        return app

    async def test_clients_that_only_answer_pings_stay(
        self, client: SigningClient, fakes: Fakes, app: Gateway
    ) -> None:
        async with open_socket(client, TUNNEL) as connection:  # its library answers by itself
            await until_open(fakes)
            (watched,) = app.relays._relays
            opened = watched._socket.connection.heard_at
            await until_answered(watched, 2)
            watched.look(opened + _IDLE + 1e-6)
            await connection.send_message(b"x")
            assert await connection.get_message() == b"x"
            watched.look(trio.current_time() + _IDLE + 1)
            assert await close_code(connection) == (1001, "idle")

    async def test_pings_do_not_harm_what_is_being_sent(
        self, client: SigningClient, fakes: Fakes, app: Gateway
    ) -> None:
        content = random.Random(1).randbytes(1 << 16)

        async def play(end: StreamEnd, target: StreamTarget) -> None:
            while True:
                await end.send(content)

        async def read() -> None:
            got = b""
            while True:
                got += await connection.get_message()
                if len(got) >= 1 << 20:
                    assert got[: 1 << 20] == content * 16
                    got = got[1 << 20 :]

        fakes.streams.play = play
        async with open_socket(client, TUNNEL) as connection, trio.open_nursery() as nursery:
            await until_open(fakes)
            nursery.start_soon(read)
            (watched,) = app.relays._relays
            await until_answered(watched, 3)
            nursery.cancel_scope.cancel()


async def until_answered(watched: relay.Relay, times: int) -> None:
    """Wait for signs of life from a client that sends nothing but answers to pings."""
    with trio.fail_after(20):
        for _ in range(times):
            before = watched._socket.connection.heard_at
            while watched._socket.connection.heard_at == before:
                await trio.sleep(0.01)


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
    async with trio.open_nursery() as nursery:

        async def flood_it() -> None:
            while True:
                await stream.send_all(frame)

        nursery.start_soon(flood_it)
        await trio.testing.wait_all_tasks_blocked(0.1)
        nursery.cancel_scope.cancel()
    await stream.aclose()
    await until_none_open(fakes)


async def test_a_server_that_stops_says_so(client: SigningClient, fakes: Fakes, app: Gateway) -> None:
    async with open_socket(client, TUNNEL) as connection:
        await connection.send_message(b"x")
        assert await connection.get_message() == b"x"
        app.edge.close()
        assert (await close_code(connection))[0] == 1001
    await until_none_open(fakes)
