"""The in-memory twin misbehaves as told, and only then."""

from __future__ import annotations

from uuid import uuid4

import pytest
import trio
import trio.testing

from backendai.manager.link import AgentAddress, AgentUnreachable, StreamRefused
from backendai.manager.memory_link import Faults, MemoryNetwork
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    AgentMessage,
    Done,
    Fact,
    FactAck,
    KernelCreating,
    ManagerMessage,
    OpenStream,
    Ping,
    Refused,
    StreamOpened,
)
from backendai.wire.stream_end import StreamEnd
from backendai.wire.streams import Closed, PortTarget

TARGET = AgentAddress("memory://a", "key")


def fact(seq: int) -> Fact:
    return Fact(agent_id="a", boot_id="b", seq=seq, event=KernelCreating(kernel_id=uuid4()))


async def test_a_good_network_delivers(autojump_clock: trio.testing.MockClock) -> None:
    acks: list[ManagerMessage] = []

    async def facts(sender_key: str, message: AgentMessage) -> ManagerMessage:
        assert sender_key == "key"
        assert isinstance(message, Fact)
        return FactAck(boot_id="b", seq=message.seq)

    async def calls(message: AgentCall) -> AgentAnswer:
        return Done()

    async def answers(message: ManagerMessage) -> None:
        acks.append(message)

    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, facts)
        send = network.join(TARGET, calls, answers)
        assert await network.call(TARGET, Ping(), timeout=1) == Done()
        send(fact(1))
        await trio.testing.wait_all_tasks_blocked()
        assert acks == [FactAck(boot_id="b", seq=1)]
        network.cut_off.add(TARGET.address)
        with pytest.raises(AgentUnreachable):
            await network.call(TARGET, Ping(), timeout=1)
        network.cut_off.clear()
        network.leave(TARGET)
        with pytest.raises(AgentUnreachable):
            await network.call(TARGET, Ping(), timeout=1)


async def test_a_bad_network_drops_doubles_and_reorders(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[int] = []

    async def facts(sender_key: str, message: AgentMessage) -> None:
        assert isinstance(message, Fact)
        seen.append(message.seq)

    async def calls(message: AgentCall) -> AgentAnswer:
        return Done()

    async def answers(message: ManagerMessage) -> None:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, facts, faults=Faults(drop=0.2, double=0.2, max_delay=5), seed=1)
        send = network.join(TARGET, calls, answers)
        for seq in range(100):
            send(fact(seq))
        await trio.sleep(10)
        assert seen != sorted(seen)
        assert len(seen) != len(set(seen))
        assert set(seen) < set(range(100))
        network.faults.drop = 1
        with pytest.raises(AgentUnreachable):
            await network.call(TARGET, Ping(), timeout=1)


async def test_streams(autojump_clock: trio.testing.MockClock) -> None:
    async def facts(sender_key: str, message: AgentMessage) -> None: ...

    async def calls(message: AgentCall) -> AgentAnswer:
        assert isinstance(message, OpenStream)
        port = message.target.port  # type: ignore[union-attr]
        return StreamOpened() if port == 1 else Refused(code="refused")

    async def answers(message: ManagerMessage) -> None: ...

    async def echo(opened: OpenStream, end: StreamEnd) -> None:
        assert opened == message
        while (data := await end.receive()) is not None:
            await end.send(data)

    message = OpenStream(kernel_id=uuid4(), target=PortTarget(port=1))
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, facts)
        network.join(TARGET, calls, answers, echo)
        async with network.open_stream(TARGET, message, timeout=1) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            await stream.send_eof()
            assert await stream.wait_ended() == Closed()
        refused = OpenStream(kernel_id=message.kernel_id, target=PortTarget(port=2))
        with pytest.raises(StreamRefused, match="refused"):
            async with network.open_stream(TARGET, refused, timeout=1):
                pass
        async with network.open_stream(TARGET, message, timeout=1) as stream:
            network.cut_off.add(TARGET.address)
            await stream.send(b"x")
            assert (await stream.wait_ended()).code == "gone"
        with pytest.raises(AgentUnreachable):
            async with network.open_stream(TARGET, message, timeout=1):
                pass
