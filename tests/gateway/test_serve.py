"""The server under hostile bytes, and how it ends connections and itself."""

from __future__ import annotations

import base64
import os
import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing
import trustme
from fakes import Fakes
from gateway_client import SigningClient, sign_headers

from backendai.gateway import serve, socket_exchange
from backendai.gateway.app import Gateway, create_app
from backendai.gateway.serve import HttpServer, bind, load_config, tls_context

UPGRADE = (
    b"GET /stream/session/abcd/execute HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
)
KEY = b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"

HOSTILE = {
    "no key": (UPGRADE + b"\r\n",),
    "no key, then data": (UPGRADE + b"\r\n", b"hello", b"more"),
    "old version": (UPGRADE + KEY + b"Sec-WebSocket-Version: 8\r\n\r\n", b"xxxx"),
    "bad key": (UPGRADE + b"Sec-WebSocket-Key: \xff\xfe\r\n" + VERSION + b"\r\n",),
    "data before the answer": (UPGRADE + KEY + VERSION + b"\r\n\x81\x05hello", b"\xff" * 100, b"\xff" * 100),
    "garbage after": (UPGRADE + KEY + VERSION + b"\r\n", b"\xff" * 100, b"\xff" * 100),
    "bad extension": (UPGRADE + KEY + VERSION + b"Sec-WebSocket-Extensions: permessage-deflate; x=\r\n\r\n",),
    "non-ASCII upgrade": (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: \xff\r\nConnection: \xff\r\n\r\n",),
    "upgrade with a body": (UPGRADE + KEY + VERSION + b"Content-Length: 5\r\n\r\nhello",),
    "h2c": (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: \xff\r\n\r\n", b"junk" * 10),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\xff" * 50),
    "method": (b"\xff\xff / HTTP/1.1\r\n\r\n",),
    "long method": (b"A" * 70_000 + b" / HTTP/1.1\r\n\r\n",),
    "long header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",),
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",),
    "negative length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",),
    "bad chunk": (b"POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",),
    "no host": (b"GET / HTTP/1.1\r\n\r\n",),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"junk"),
    "absolute": (b"GET http://e/%FF%00/x HTTP/1.1\r\nHost: x\r\n\r\n",),
    "bad IPv6": (b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n",),
    "double slash": (b"GET //auth HTTP/1.1\r\nHost: x\r\n\r\n",),
    "half a body": (b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc",),
    "odd length": (b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n",),
    "pipelined": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 30 + UPGRADE + KEY + VERSION + b"\r\njunk",),
    "nothing": (),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bytes_end_their_own_connection_only(
    client: SigningClient, port: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for chunk in HOSTILE[name]:
            try:
                await stream.send_all(chunk)
            except trio.BrokenResourceError:
                break
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert (await client.http.get("/")).status_code == 200
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert (await client.http.get("/")).status_code == 200
    assert "request failed" not in caplog.text


async def read_to_end(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(5):
        async for chunk in stream:
            data += chunk
    return data


async def read_answer(stream: trio.SocketStream) -> None:
    """An answer to ``GET /``, which ends with a closing brace."""
    data = b""
    with trio.fail_after(5):
        while not data.endswith(b"}"):
            data += await stream.receive_some()
    assert data.startswith(b"HTTP/1.1 200")


class TestEndsOfConnections:
    """Under quart-trio's own connection class, neither closed the socket."""

    @pytest.mark.parametrize("keep_alive", [600.0])
    async def test_the_client_wants_it_closed(self, port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _ in range(3):  # until then it stays
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await read_answer(stream)
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize("keep_alive", [0.2])
    async def test_it_has_been_idle(self, port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_answer(stream)
            assert await read_to_end(stream) == b""


GREEDY = {
    "unknown path": (
        b"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000\r\n" + b"a" * 4096 + b"\r\n",
    ),
    "too large": (
        b"POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000\r\n" + b"a" * 4096 + b"\r\n",
    ),
    "wrong method": (b"PUT /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"a" * 4096),
}


@pytest.mark.parametrize("name", GREEDY)
async def test_client_that_goes_on_sending_is_let_go(server: HttpServer, port: int, name: str) -> None:
    """Pieces of a body that nobody reads used to block their connection for ever."""
    head, piece = GREEDY[name]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head)
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(piece)
    with trio.fail_after(5):
        while server.connections:
            await trio.sleep(0.01)


async def test_websocket_client_that_goes_on_sending_is_let_go(
    server: HttpServer, port: int, client: SigningClient, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_exchange, "_CLOSE_TIME", 0.2)
    path = "/stream/session/abcd/execute"
    headers = sign_headers("GET", path, client.host, content_type=None)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    upgrade = UPGRADE.replace(b"Host: x", b"Host: " + client.host.encode()) + KEY + VERSION + lines
    frames = b"\x81\x81\0\0\0\0x" * 200
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(upgrade + b"\r\n")
        with trio.fail_after(5):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(frames)
    with trio.fail_after(5):
        while server.connections:
            await trio.sleep(0.01)


async def test_client_that_stops_reading_is_cut(
    app: Gateway, monkeypatch: pytest.MonkeyPatch, fakes: Fakes, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(serve, "SEND_TIMEOUT", 0.2)
    config = load_config(1 << 20)
    binding = bind("127.0.0.1", 0, config)
    server = HttpServer(app, config, [binding], grace=0.1)
    await nursery.start(server.run)
    async with await trio.open_tcp_stream("127.0.0.1", binding.port) as stream:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(request * 100)
    nursery.cancel_scope.cancel()


async def test_stop_is_prompt_with_streams_and_requests_open(app: Gateway, fakes: Fakes) -> None:
    config = load_config(1 << 20)
    binding = bind("127.0.0.1", 0, config)
    server = HttpServer(app, config, [binding], grace=0.5)
    host = f"127.0.0.1:{binding.port}"
    headers = sign_headers("GET", "/events/session", host, content_type=None)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        async with (
            await trio.open_tcp_stream("127.0.0.1", binding.port) as events,
            await trio.open_tcp_stream("127.0.0.1", binding.port) as idle,
            await trio.open_tcp_stream("127.0.0.1", binding.port) as half,
        ):
            await events.send_all(f"GET /events/session HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode())
            with trio.fail_after(5):
                await fakes.events.subscribed.wait()
            await idle.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_answer(idle)
            await half.send_all(b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            started = trio.current_time()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert b"event: server_close" in await read_to_end(events)
                assert await read_to_end(idle) == b""
    assert trio.current_time() - started < 2


async def test_https(fakes: Fakes, tmp_path: Path, nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(tmp_path / "cert.pem", append=True)
    config = load_config(1 << 20)
    context = tls_context(tmp_path / "cert.pem", tmp_path / "key.pem", config)
    plain, secure = bind("127.0.0.1", 0, config), bind("127.0.0.1", 0, config, context)
    server = HttpServer(create_app(fakes.services()), config, [plain, secure], grace=0.1)
    await nursery.start(server.run)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{secure.port}", verify=trusting) as http:
        client = SigningClient(http)
        assert (await client("GET", "/auth?echo=x")).json()["echo"] == "x"
        assert (await client("PATCH", "/session/abcd")).status_code == 204
        # Bytes that are no TLS disturb nobody.
        async with await trio.open_tcp_stream("127.0.0.1", secure.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await read_to_end(stream)
        assert (await client("GET", "/auth?echo=y")).json()["echo"] == "y"
    nursery.cancel_scope.cancel()
