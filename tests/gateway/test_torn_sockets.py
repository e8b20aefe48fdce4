"""WebSockets torn at every step, in every manner: afterwards nothing of them may be left."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fake_streams import flood
from fakes import Fakes
from gateway_client import sign_headers

from backendai.core.account import Principal
from backendai.core.errors import KernelExecutionFailed
from backendai.core.execution import ConsoleItem, RunReply, RunRequest, RunStatus
from backendai.gateway import relay, serve, socket_exchange
from backendai.gateway.app import Gateway
from backendai.gateway.edge import HttpOptions
from backendai.gateway.handlers import proxy, run_stream
from backendai.gateway.serve import HttpServer
from backendai.wire.stream_end import StreamEnd
from backendai.wire.streams import StreamTarget

SESSION = "/stream/session/my-sess"
ROUTES = {
    "pty": f"{SESSION}/pty",
    "execute": f"{SESSION}/execute",
    "httpproxy": f"{SESSION}/httpproxy?app=jupyter",
    "tcpproxy": f"{SESSION}/tcpproxy?app=jupyter",
}
#: Beginning of a masked frame whose rest never comes.
PART_OF_A_FRAME = b"\x82\xfe\xff\xff\x00\x00\x00\x00" + bytes(100)
HEAD_OF_PING = b"\x89\x00"


class Run:
    """In place of the execution service's: prints for ever, or until the agent is lost."""

    def __init__(self) -> None:
        self.open = 0
        self.prints = False
        self.agent_lost = trio.Event()

    async def __call__(self, owner: Principal, ref: str, request: RunRequest) -> RunReply:
        self.open += 1
        try:
            if not self.prints:
                await self.agent_lost.wait()
                raise KernelExecutionFailed(agent_details={"type": "unreachable", "title": "no answer"})
            await trio.lowlevel.checkpoint()
            items = (ConsoleItem(0, "stdout", "x" * 60_000),)
            return RunReply(run_id=request.run_id, status=RunStatus.CONTINUED, items=items, next_index=1)
        finally:
            self.open -= 1


class House:
    """The gateway under test, its far ends, and what it has open."""

    def __init__(self, app: Gateway, server: HttpServer, fakes: Fakes, run: Run) -> None:
        self.app = app
        self.server = server
        self.fakes = fakes
        self.run = run
        self.host = f"127.0.0.1:{server.ports[0]}"

    def leftovers(self) -> dict[str, int]:
        return {
            "connections": self.server.connections,
            "relays": len(self.app.relays._relays),
            "streams": self.fakes.streams.open,
            "runs": self.run.open,
            "scopes": len(self.app.edge._open),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "descriptors": len(os.listdir("/proc/self/fd")),
        }


@pytest.fixture
def options() -> HttpOptions:
    return HttpOptions(body_timeout=0.3, relay_idle=0.3)


@pytest.fixture
def keep_alive() -> float:
    return 0.3


@pytest.fixture
async def house(app: Gateway, fakes: Fakes, quick: None, server: HttpServer) -> House:
    run = Run()
    fakes.execution.run = run  # type: ignore[method-assign]
    return House(app, server, fakes, run)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As patient as a test can be; also with pings, which are sent all the time."""
    monkeypatch.setattr(relay, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(proxy, "LINGER", 0.1)
    monkeypatch.setattr(serve, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(serve, "SEND_TIMEOUT", 0.3)
    monkeypatch.setattr(socket_exchange, "_CLOSE_TIME", 0.1)
    monkeypatch.setattr(run_stream, "_FIRST_FRAME_TIME", 0.3)


# -- how far a client comes


async def send_request(house: House, stream: trio.SocketStream, path: str, *, whole: bool = True) -> None:
    lines = [f"GET {path} HTTP/1.1", f"Host: {house.host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    signed = sign_headers("GET", path, house.host, content_type=None)
    lines += [f"{name}: {value}" for name, value in signed.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    await stream.send_all(head if whole else head[: len(head) // 2])


async def upgrade(house: House, stream: trio.SocketStream, path: str) -> None:
    await send_request(house, stream, path)
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(1)
    assert head.startswith(b"HTTP/1.1 101")


async def begin(house: House, stream: trio.SocketStream, path: str) -> None:
    """Upgrade, and on the execution stream ask for a run."""
    await upgrade(house, stream, path)
    if path.endswith("/execute"):
        order = b'{"mode": "query", "code": "x"}'
        await stream.send_all(bytes([0x81, 0x80 | len(order), 0, 0, 0, 0]) + order)
        while not house.run.open and not house.run.prints:
            await trio.sleep(0.01)


async def part_of_the_request(house: House, stream: trio.SocketStream, path: str) -> None:
    await send_request(house, stream, path, whole=False)


async def the_request(house: House, stream: trio.SocketStream, path: str) -> None:
    await send_request(house, stream, path)


async def the_answer(house: House, stream: trio.SocketStream, path: str) -> None:
    await upgrade(house, stream, path)


async def part_of_a_frame(house: House, stream: trio.SocketStream, path: str) -> None:
    await upgrade(house, stream, path)
    await stream.send_all(PART_OF_A_FRAME)


async def a_ping(house: House, stream: trio.SocketStream, path: str) -> None:
    await begin(house, stream, path)
    assert await stream.receive_some(2) == HEAD_OF_PING


async def output(house: House, stream: trio.SocketStream, path: str) -> None:
    house.fakes.streams.play = flood
    house.run.prints = True
    await begin(house, stream, path)
    assert await stream.receive_some(10_000)


async def the_loss_of_the_agent(house: House, stream: trio.SocketStream, path: str) -> None:
    async def play(end: StreamEnd, target: StreamTarget) -> None:
        await house.run.agent_lost.wait()
        end.close("gone", "the agent is lost")

    house.fakes.streams.play = play
    await begin(house, stream, path)
    house.run.agent_lost.set()


async def the_stop_of_the_gateway(house: House, stream: trio.SocketStream, path: str) -> None:
    await begin(house, stream, path)
    house.app.edge.close()


# -- how it leaves


async def reset(stream: trio.SocketStream) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def close(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def fall_silent(stream: trio.SocketStream) -> None:
    """Neither read nor write any more; ``torn`` closes it in the end."""


STEPS = (
    part_of_the_request,
    the_request,
    the_answer,
    part_of_a_frame,
    a_ping,
    output,
    the_loss_of_the_agent,
    the_stop_of_the_gateway,
)
#: A client of the execution stream that waits for its user's line answers nothing, and must not be let go.
BY_DESIGN = {("execute", a_ping, fall_silent)}


@asynccontextmanager
async def nothing_left(house: House) -> AsyncIterator[None]:
    before = house.leftovers()

    def left() -> dict[str, int]:
        # What an earlier test has forgotten may go meanwhile.
        return {name: count for name, count in house.leftovers().items() if count > before[name]}

    yield
    with trio.move_on_after(15):
        while left():
            await trio.sleep(0.02)
    assert not left()


@pytest.mark.parametrize("leave", [reset, close, fall_silent], ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_torn(house: House, route: str, step: object, leave: object) -> None:
    if (route, step, leave) in BY_DESIGN:
        pytest.skip("it may be waiting for its user")
    async with nothing_left(house):
        host, port = house.host.split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        with trio.fail_after(10):
            await step(house, stream, ROUTES[route])  # type: ignore[operator]
        await leave(stream)  # type: ignore[operator]
        if leave is fall_silent:
            with trio.fail_after(15):
                while house.server.connections:
                    await trio.sleep(0.02)
            await stream.aclose()
    if route == "execute" and step is output:
        assert house.fakes.execution.interrupted.is_set()
