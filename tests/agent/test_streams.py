"""Streams from the manager's links over ZeroMQ and the agent's relays to a scripted runner."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio

from backendai.agent import streams as agent_streams
from backendai.agent.calls import CallServer
from backendai.agent.streams import StreamRelays
from backendai.bridges.zmq import AllowedKeys, CurveServer, SocketType, new_curve_keys, open_socket
from backendai.manager import stream_link
from backendai.manager.link import AgentAddress, AgentLinks, AgentUnreachable, StreamRefused, open_agent_links
from backendai.manager.settings import ManagerKeys
from backendai.wire import runner as wire
from backendai.wire.link import AgentAnswer, Done, OpenStream, Ping, ReadLogs, Refused
from backendai.wire.streams import (
    Closed,
    Data,
    DownloadTarget,
    Eof,
    PortTarget,
    Resize,
    StreamTarget,
    TerminalTarget,
    UploadTarget,
)

from .scripted_runner import RunnerSide, Script, echo, flood, scripted_runner, silent

MANAGER_PUBLIC, MANAGER_SECRET = new_curve_keys()
MANAGER = ManagerKeys(public_key=MANAGER_PUBLIC, secret_key=MANAGER_SECRET)
AGENT_PUBLIC, AGENT_SECRET = new_curve_keys()
KERNEL = uuid4()


@dataclass
class OneKernel:
    """In place of the agent's kernels: one that runs in ``directory``."""

    directory: Path
    refusals: dict[UUID, Refused] = field(default_factory=dict)

    def directory_of(self, kernel_id: UUID) -> Path | Refused:
        return self.refusals.get(kernel_id, self.directory)

    async def logs(self, kernel_id: UUID, limit: int) -> AgentAnswer:
        await trio.lowlevel.checkpoint()
        return Done()


@asynccontextmanager
async def agent(
    kernels: OneKernel, bind: str = "tcp://127.0.0.1:*"
) -> AsyncIterator[tuple[AgentAddress, StreamRelays]]:
    curve = CurveServer(AGENT_SECRET, AllowedKeys([MANAGER.public_key]))
    async with (
        open_socket(SocketType.ROUTER, bind=bind, curve=curve, hwm=1 << 20) as socket,
        trio.open_nursery() as nursery,
    ):
        relays = StreamRelays(socket, kernels)
        await nursery.start(relays.run)
        await nursery.start(CallServer(socket, kernels, relays).run)  # type: ignore[arg-type]
        yield AgentAddress(socket.endpoint, AGENT_PUBLIC), relays
        nursery.cancel_scope.cancel()


class Place:
    """Manager's links, agent and scripted runner."""

    def __init__(
        self,
        links: AgentLinks,
        target: AgentAddress,
        relays: StreamRelays,
        kernels: OneKernel,
        sides: list[RunnerSide],
    ) -> None:
        self.links = links
        self.target = target
        self.relays = relays
        self.kernels = kernels
        self.sides = sides

    def open(self, target: StreamTarget | None = None, *, kernel_id: UUID = KERNEL, timeout: float = 10):
        message = OpenStream(kernel_id=kernel_id, target=target or PortTarget(port=80))
        return self.links.open_stream(self.target, message, timeout=timeout)

    async def until_empty(self) -> None:
        """Wait until the agent knows of no stream any more."""
        with trio.fail_after(15):
            while self.relays._relays:
                await trio.sleep(0.01)
        assert self.relays._budget.left == agent_streams._WINDOWS
        assert not self.relays._of_kernel


@asynccontextmanager
async def place(directory: Path, script: Script) -> AsyncIterator[Place]:
    kernels = OneKernel(directory)
    async with (
        scripted_runner(directory, script) as sides,
        agent(kernels) as (target, relays),
        open_agent_links(MANAGER) as links,
    ):
        yield Place(links, target, relays, kernels, sides)


async def test_megabytes_there_and_back(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(5 << 20)
    got = bytearray()
    with trio.fail_after(30):
        async with place(tmp_path, echo) as there:
            async with there.open() as stream, trio.open_nursery() as nursery:

                async def send() -> None:
                    await stream.send(content)
                    await stream.send_eof()

                nursery.start_soon(send)
                while (data := await stream.receive()) is not None:
                    got += data
                assert await stream.wait_ended() == Closed()
            await there.until_empty()
    assert bytes(got) == content


async def test_targets_controls_and_results_get_through(tmp_path: Path) -> None:
    seen: list[object] = []

    async def script(side: RunnerSide, target: StreamTarget) -> None:
        seen.append(target)
        await side.opened()
        while not isinstance(frame := await side.receive(), Eof):
            seen.append(frame)
        await side.send(Data(b"bye"), Closed("too-large", "at most a little"))

    terminal = TerminalTarget(terminal="t", rows=3, cols=9, argv=("sh",), restart=True)
    upload = UploadTarget(path="a/b")
    with trio.fail_after(10):
        async with place(tmp_path, script) as there:
            async with there.open(terminal) as stream:
                await stream.control(Resize(5, 6))
                await stream.send(b"hello")
                await stream.send_eof()
                assert [await stream.receive(), await stream.receive()] == [b"bye", None]
                assert stream.result == Closed("too-large", "at most a little")
            async with there.open(upload) as stream:
                await stream.send_eof()
                assert (await stream.wait_ended()).code == "too-large"
            await there.until_empty()
    assert seen == [terminal, Resize(5, 6), Data(b"hello"), upload]


@pytest.mark.parametrize("busy", [echo, flood, silent])
async def test_calls_are_not_held_up_by_streams(tmp_path: Path, busy: Script) -> None:
    with trio.fail_after(30):
        async with place(tmp_path, busy) as there, trio.open_nursery() as nursery:

            async def stream_on() -> None:
                async with there.open() as stream, trio.open_nursery() as both:

                    async def send() -> None:
                        while True:
                            await stream.send(bytes(1 << 16))

                    both.start_soon(send)
                    while busy is not silent:
                        await stream.receive()

            for _ in range(4):
                nursery.start_soon(stream_on)
            while len(there.sides) < 4:
                await trio.sleep(0.01)
            for _ in range(20):
                answer = await there.links.call(there.target, ReadLogs(kernel_id=KERNEL), timeout=2)
                assert answer == Done()
            nursery.cancel_scope.cancel()
        # Nothing to assert: that the calls were answered in time is the point.


async def test_a_slow_reader_and_a_slow_kernel_are_bounded(tmp_path: Path) -> None:
    taken: list[int] = []

    async def script(side: RunnerSide, target: StreamTarget) -> None:
        await side.opened()
        assert isinstance(target, PortTarget)
        if target.port == 1:
            taken.append(0)
            while True:
                await side.send(Data(bytes(1 << 16)))
                taken[0] += 1 << 16
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with place(tmp_path, script) as there:
            async with there.open(PortTarget(port=1)) as stream:
                # The kernel's end stalls: what is on its way fits into windows and socket buffers.
                before = -1
                while not taken or before != taken[0]:
                    before = taken[0] if taken else -1
                    await trio.sleep(0.3)
                assert taken[0] < 1 << 20
                assert await stream.receive() is not None
            async with there.open(PortTarget(port=2)) as stream:
                sent = 0
                with trio.move_on_after(1):
                    while True:
                        await stream.send(bytes(4096))
                        sent += 4096
                assert 0 < sent < 1 << 20
            await there.until_empty()


async def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(side: RunnerSide, target: StreamTarget) -> None:
        if isinstance(target, DownloadTarget):
            await side.answer(wire.Refusal(code="not-found", msg="nothing there"))
        elif isinstance(target, UploadTarget):
            return  # hangs up
        else:
            await silent(side, target)

    other = uuid4()
    monkeypatch.setattr(agent_streams, "MOST_OF_KERNEL", 2)
    with trio.fail_after(20):
        async with place(tmp_path, script) as there:
            there.kernels.refusals[other] = Refused(code="no-such-kernel", msg=str(other))

            async def code(target: StreamTarget | None = None, kernel_id: UUID = KERNEL) -> str:
                with pytest.raises(StreamRefused) as refused:
                    async with there.open(target, kernel_id=kernel_id):
                        pass
                return refused.value.code

            assert await code(DownloadTarget(paths=("x",))) == "not-found"
            assert await code(UploadTarget(path="x")) == "kernel-exited"
            assert await code(kernel_id=other) == "no-such-kernel"
            async with there.open(), there.open():
                assert await code() == "too-many-streams"
            await there.until_empty()


async def test_a_runner_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(side: RunnerSide, target: StreamTarget) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(agent_streams, "_OPEN_TIMEOUT", 0.2)
    with trio.fail_after(10):
        async with place(tmp_path, script) as there:
            with pytest.raises(StreamRefused, match="failed"):
                async with there.open():
                    pass
            monkeypatch.setattr(agent_streams, "_OPEN_TIMEOUT", 30)
            with pytest.raises(AgentUnreachable):  # and who gives up first is not waited for
                async with there.open(timeout=0.2):
                    pass
            with trio.move_on_after(0.2):
                async with there.open():
                    pass
            with trio.fail_after(5):
                while there.relays._relays:
                    await trio.sleep(0.01)


async def test_leaving_aborts_and_a_kernel_that_dies_ends(tmp_path: Path) -> None:
    heard: list[object] = []

    async def script(side: RunnerSide, target: StreamTarget) -> None:
        await side.opened()
        heard.append(await side.receive())

    with trio.fail_after(20):
        async with place(tmp_path, script) as there:
            async with there.open():
                pass
            await there.until_empty()
            assert heard.pop() in (None, Closed("aborted"))
            async with there.open() as stream:
                await stream.send(b"x")  # upon which the runner hangs up
                assert await stream.receive() is None
                assert stream.result is not None
                assert stream.result.code == "gone"
            await there.until_empty()
            assert not there.sides


async def several(heard_at: Callable[[], float]) -> None:
    """Wait for signs of life."""
    for _ in range(3):
        before = heard_at()
        while heard_at() == before:
            await trio.sleep(0.01)


async def test_an_agent_that_dies_and_one_that_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_link, "PROBE_INTERVAL", 0.1)
    monkeypatch.setattr(stream_link, "LOST_AFTER", 1000.0)
    kernels = OneKernel(tmp_path)
    with trio.fail_after(30):
        async with scripted_runner(tmp_path, silent), open_agent_links(MANAGER) as links:
            async with agent(kernels) as (target, _):
                stream_of_dead = links.open_stream(
                    target, OpenStream(kernel_id=KERNEL, target=PortTarget(port=1)), timeout=5
                )
                stream = await stream_of_dead.__aenter__()
                link = links._stream_links[target]
                await several(lambda: link._heard_at)  # the live agent answers for an idle stream
                assert stream.result is None
            monkeypatch.setattr(stream_link, "LOST_AFTER", 0.5)
            assert await stream.receive() is None
            assert stream.result is not None
            assert stream.result.code == "gone"
            await stream_of_dead.__aexit__(None, None, None)
            monkeypatch.setattr(stream_link, "LOST_AFTER", 1000.0)
            async with agent(kernels, target.address) as (target, _):
                context = links.open_stream(
                    target, OpenStream(kernel_id=KERNEL, target=PortTarget(port=1)), timeout=5
                )
                stream = await context.__aenter__()
            async with agent(kernels, target.address) as (target, _):
                assert await stream.wait_ended() == Closed(
                    "gone", "the agent does not know the stream any more"
                ) or stream.result == Closed("gone", "the agent is stopping")
                await context.__aexit__(None, None, None)


async def test_a_gateway_that_dies_loses_its_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_streams, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(agent_streams, "LOST_AFTER", 1000.0)
    monkeypatch.setattr(stream_link, "PROBE_INTERVAL", 0.1)
    with trio.fail_after(20):
        async with place(tmp_path, silent) as there, there.open() as stream:
            await several(lambda: max(there.relays._heard.values()))  # the gateway tells of its idle stream
            assert stream.result is None
            # The process is gone without a word.
            link = there.links._stream_links[there.target]
            monkeypatch.setattr(agent_streams, "LOST_AFTER", 0.5)
            monkeypatch.setattr(link._socket, "send_nowait", lambda frames: None)
            await there.until_empty()


async def test_a_stream_that_only_one_side_knows_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_link, "PROBE_INTERVAL", 0.1)
    with trio.fail_after(20):
        async with place(tmp_path, silent) as there, there.open() as stream:
            link = there.links._stream_links[there.target]
            forgotten = dict(link._streams)
            link._streams.clear()
            async with there.open():  # while there are none, nothing is compared
                with trio.fail_after(5):
                    while len(there.relays._relays) > 1:
                        await trio.sleep(0.01)
            link._streams.update(forgotten)
            assert (await stream.wait_ended()).code == "gone"


async def test_hostile_frames_cost_only_their_stream(tmp_path: Path) -> None:
    async def script(side: RunnerSide, target: StreamTarget) -> None:
        await side.opened()
        await side.connection.send_all(b"\xff\xff\xff\xff nonsense")
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with place(tmp_path, script) as there:
            async with there.open() as stream:
                assert (await stream.wait_ended()).code == "protocol"
            assert await there.links.call(there.target, Ping(), timeout=5) == Done()
            await there.until_empty()
