"""Streams, files and apps of sessions, through a manager on real databases to a scripted agent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

import pytest
import trio
from manager.conftest import FakeAgent, House, open_house, until

from backendai.bridges.postgres import Database
from backendai.core.errors import (
    BackendError,
    BadRequest,
    InternalError,
    InvalidParameters,
    KernelExecutionFailed,
    ObjectNotFound,
    ServiceUnavailable,
)
from backendai.core.files import FileListing
from backendai.manager.memory_link import MemoryNetwork
from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    Files,
    ListFiles,
    OpenStream,
    Refused,
    ServiceStarted,
    StartService,
    StreamOpened,
)
from backendai.wire.stream_end import StreamEnd
from backendai.wire.streams import Closed, DownloadTarget, PortTarget, TerminalTarget

TERMINAL = TerminalTarget(terminal="main")


@dataclass
class StreamAgent(FakeAgent):
    """Echoes on every stream, and refuses what ``refusal`` says."""

    refusal: str = ""

    async def run(self, network: MemoryNetwork) -> None:
        network.join(self.address, self.call, self.answer, self.echo)
        await super().run(network)

    async def call(self, message: AgentCall) -> AgentAnswer:
        if self.refusal and isinstance(message, OpenStream | ListFiles | StartService):
            self.calls.append(message)
            return Refused(code=self.refusal, msg="as told")
        match message:
            case OpenStream() if message.kernel_id in self.kernels:
                self.calls.append(message)
                return StreamOpened()
            case ListFiles():
                return Files(listing=FileListing(path=message.path))
            case StartService():
                self.calls.append(message)
                return ServiceStarted(port=message.port or 7681)
        return await super().call(message)

    async def echo(self, opened: OpenStream, end: StreamEnd) -> None:
        while (data := await end.receive()) is not None:
            await end.send(data)


@pytest.fixture
async def agent(house: House) -> StreamAgent:
    agent = StreamAgent("i-one")
    await house.add_agent(agent)
    assert await house.create("my-sess") == "RUNNING"
    return agent


async def test_a_stream_into_a_session(house: House, agent: StreamAgent) -> None:
    streams = house.manager.streams
    async with streams.open_stream(house.user, "my-sess", TERMINAL) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.send_eof()
        assert await stream.wait_ended() == Closed()
    assert isinstance(agent.calls[-1], OpenStream)
    assert agent.calls[-1].target == TERMINAL
    assert agent.calls[-1].kernel_id in agent.kernels
    assert not streams._open


async def test_an_error_of_the_user_of_a_stream_stays_as_it_is(house: House, agent: StreamAgent) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with house.manager.streams.open_stream(house.user, "my-sess", TERMINAL):
            raise RuntimeError("mine")
    assert not house.manager.streams._open


async def test_whose_sessions_and_which(house: House, agent: StreamAgent) -> None:
    streams = house.manager.streams
    for owner, name in ((house.user, "nothing"), (house.admin, "my-sess")):
        with pytest.raises(ObjectNotFound):
            async with streams.open_stream(owner, name, TERMINAL):
                pass
        with pytest.raises(ObjectNotFound):
            await streams.list_files(owner, name, ".")
    agent.mood = "ignore"
    await house.create("slow", enqueue_only=True)
    with pytest.raises(BadRequest, match="not running"):
        async with streams.open_stream(house.user, "slow", TERMINAL):
            pass


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("not-found", ObjectNotFound),
        ("too-many-streams", ServiceUnavailable),
        ("refused", ServiceUnavailable),
        ("forbidden-path", KernelExecutionFailed),
        ("kernel-exited", KernelExecutionFailed),
    ],
)
async def test_refusals_of_the_agent(
    house: House, agent: StreamAgent, code: str, error: type[BackendError]
) -> None:
    agent.refusal = code
    with pytest.raises(error):
        async with house.manager.streams.open_stream(house.user, "my-sess", DownloadTarget(paths=("x",))):
            pass
    with pytest.raises(error):
        await house.manager.streams.list_files(house.user, "my-sess", "x")
    assert not house.manager.streams._open


async def test_an_agent_that_cannot_be_reached(house: House, agent: StreamAgent) -> None:
    async with house.manager.streams.open_stream(house.user, "my-sess", TERMINAL) as stream:
        house.network.cut_off.add(agent.address.address)
        await stream.send(b"x")
        assert (await stream.wait_ended()).code == "gone"
    with pytest.raises(KernelExecutionFailed) as caught:
        async with house.manager.streams.open_stream(house.user, "my-sess", TERMINAL):
            pass
    assert caught.value.agent_details is not None
    assert caught.value.agent_details["type"] == "unreachable"
    assert not house.manager.streams._open


async def test_files(house: House, agent: StreamAgent) -> None:
    listing = await house.manager.streams.list_files(house.user, "my-sess", "sub")
    assert listing == FileListing(path="sub")


async def test_apps(house: House, agent: StreamAgent) -> None:
    streams = house.manager.streams
    app = await streams.start_app(
        house.user, "my-sess", "ttyd", port=7681, environ={"A": "b"}, arguments={"--x": None, "--y": ("1",)}
    )
    assert isinstance(agent.calls[-1], StartService)
    assert agent.calls[-1].environ == {"A": "b"}
    assert agent.calls[-1].arguments == {"--x": None, "--y": ("1",)}
    async with streams.connect(app) as stream:
        await stream.send(b"GET /")
        assert await stream.receive() == b"GET /"
    assert isinstance(agent.calls[-1], OpenStream)
    assert agent.calls[-1].target == PortTarget(port=7681)
    with pytest.raises(ObjectNotFound, match="my-sess:other"):
        await streams.start_app(house.user, "my-sess", "other", environ={}, arguments={})
    with pytest.raises(InvalidParameters):
        await streams.start_app(house.user, "my-sess", "ttyd", port=9999, environ={}, arguments={})
    agent.refusal = "timeout"
    with pytest.raises(InternalError) as caught:
        await streams.start_app(house.user, "my-sess", "ttyd", environ={}, arguments={})
    assert caught.value.data == "as told"
    agent.refusal = "no-such-service"
    with pytest.raises(ObjectNotFound):
        await streams.start_app(house.user, "my-sess", "ttyd", environ={}, arguments={})


async def test_there_is_an_end_to_the_number_of_streams(
    asyncio_loop: None, settings: ManagerSettings, accounts: FirstAccounts, database: Database
) -> None:
    settings = replace(settings, streams_per_session=2, streams=3)
    async with open_house(settings, accounts) as house:
        await house.add_agent(StreamAgent("i-one"))
        assert await house.create("first") == await house.create("second") == "RUNNING"
        streams = house.manager.streams

        async def refused(name: str, text: str) -> None:
            with pytest.raises(ServiceUnavailable, match=text):
                async with streams.open_stream(house.user, name, TERMINAL):
                    pass

        async with (
            streams.open_stream(house.user, "first", TERMINAL),
            streams.open_stream(house.user, "first", TERMINAL),
        ):
            await refused("first", "A session has at most 2")
            async with streams.open_stream(house.user, "second", TERMINAL):
                await refused("second", "This server carries at most 3")
            async with streams.open_stream(house.user, "second", TERMINAL):
                pass
        assert not streams._open


async def test_an_abandoned_opening_is_not_counted(house: House, agent: StreamAgent) -> None:
    house.network.faults.drop = 1.0
    with trio.move_on_after(0.2):
        async with house.manager.streams.open_stream(house.user, "my-sess", TERMINAL):
            pass
    house.network.faults.drop = 0.0
    await until(lambda: not house.manager.streams._open)


async def test_what_goes_through_streams_is_use(house: House, agent: StreamAgent) -> None:
    (session_id,) = agent.kernels
    noted: list[UUID] = []
    streams = house.manager.streams
    streams._note_use = noted.append
    async with streams.open_stream(house.user, "my-sess", TERMINAL) as stream:
        assert set(noted) == {session_id}
        streams.note_uses()
        noted.clear()
        for _ in range(5):
            await stream.send(b"typed")
        streams.note_uses()
        assert set(noted) == {session_id}
        assert await stream.receive() is not None
        streams.note_uses()
        noted.clear()
        streams.note_uses()
        assert noted == []
    noted.clear()
    await streams.list_files(house.user, "my-sess", ".")
    assert noted == [session_id]
