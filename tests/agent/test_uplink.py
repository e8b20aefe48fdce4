"""Facts arrive once the manager listens, whatever it forgot meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from backendai.agent import uplink as uplink_module
from backendai.agent.facts import FactOutbox
from backendai.agent.settings import AgentSettings
from backendai.agent.uplink import Uplink
from backendai.bridges.zmq import AllowedKeys
from backendai.core.kernel import KernelFacts, KernelPhase
from backendai.manager.listener import FactListener
from backendai.wire.link import (
    AgentMessage,
    Fact,
    FactAck,
    Goodbye,
    Heartbeat,
    Hello,
    HelloAccepted,
    HelloRefused,
    KernelCreating,
    KernelEvent,
    KernelFailed,
    KernelPulling,
    KernelStarted,
    KernelTerminated,
    ManagerMessage,
    SayHello,
)


class Manager:
    def __init__(self) -> None:
        self.seen: list[AgentMessage] = []
        self.known: set[str] = set()
        self.deaf_to_facts = False
        self.refusal: str | None = None
        self._heard = trio.Event()

    async def __call__(self, sender_key: str, message: AgentMessage) -> ManagerMessage | None:
        self.seen.append(message)
        self._heard.set()
        self._heard = trio.Event()
        if isinstance(message, Hello):
            if self.refusal is not None:
                return HelloRefused(reason=self.refusal)
            self.known.add(message.boot_id)
            return HelloAccepted(boot_id=message.boot_id)
        if message.boot_id not in self.known:
            return SayHello()
        if isinstance(message, Fact) and not self.deaf_to_facts:
            return FactAck(boot_id=message.boot_id, seq=message.seq)
        return None

    def of(self, kind: type[AgentMessage]) -> list[AgentMessage]:
        return [message for message in self.seen if isinstance(message, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(10):
            while not condition():
                await self._heard.wait()


@asynccontextmanager
async def open_uplink(endpoint: str, outbox: FactOutbox) -> AsyncIterator[Uplink]:
    settings = AgentSettings(
        agent_id="i-a",
        directory=Path(),
        manager_endpoint=endpoint,
        heartbeat_interval=timedelta(milliseconds=20),
    )

    async def heartbeat() -> Heartbeat:
        return Heartbeat(agent_id="i-a", boot_id="boot", seq=1)

    def hello() -> Hello:
        return Hello(agent_id="i-a", boot_id="boot", version="1", address="tcp://x", slots={})

    uplink = Uplink(settings, "boot", outbox, hello=hello, heartbeat=heartbeat)
    async with trio.open_nursery() as nursery:
        await nursery.start(uplink.run)
        yield uplink
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_listener(manager: Manager, endpoint: str = "tcp://127.0.0.1:*") -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(FactListener(manager, endpoint, None, AllowedKeys()).run)
        nursery.cancel_scope.cancel()


def ended() -> KernelTerminated:
    return KernelTerminated(kernel_id=uuid4(), reason="x")


async def test_facts_wait_for_a_manager_and_keep_their_order(tmp_path: Path) -> None:
    outbox = FactOutbox("i-a", "boot")
    events = [ended() for _ in range(5)]
    for event in events[:3]:
        outbox.report(event)
    endpoint = f"ipc://{tmp_path}/facts"  # nobody listens there yet
    async with open_uplink(endpoint, outbox) as uplink:
        manager = Manager()
        async with open_listener(manager, endpoint):
            await manager.until(lambda: len(manager.of(Fact)) == 3)
            assert isinstance(manager.seen[0], Hello)
            await manager.until(lambda: len(manager.of(Heartbeat)) >= 3)
            for event in events[3:]:
                outbox.report(event)
            await manager.until(lambda: len(manager.of(Fact)) == 5)
            assert [fact.event for fact in manager.of(Fact)] == events
            await uplink.say_goodbye("agent-restart")
            await manager.until(lambda: manager.of(Goodbye))
            assert outbox.waiting() == []


async def test_a_manager_that_forgot_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = FactOutbox("i-a", "boot")
    manager = Manager()
    manager.deaf_to_facts = True
    async with open_listener(manager) as endpoint, open_uplink(endpoint, outbox):
        event = ended()
        outbox.report(event)
        await manager.until(lambda: manager.of(Fact))
        manager.known.clear()
        manager.deaf_to_facts = False
        manager.seen.clear()
        await manager.until(lambda: manager.of(Fact))
        assert len(manager.of(Hello)) == 1
        assert manager.of(Fact)[0].event == event


async def test_unacknowledged_facts_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink_module, "_FACTS_AGAIN", (0.05, 0.2))
    outbox = FactOutbox("i-a", "boot")
    manager = Manager()
    manager.deaf_to_facts = True
    async with open_listener(manager) as endpoint, open_uplink(endpoint, outbox):
        outbox.report(ended())
        outbox.report(ended())
        await manager.until(lambda: len(manager.of(Fact)) >= 6)
        assert [fact.seq for fact in manager.of(Fact)][:4] == [1, 2, 1, 2]
        manager.deaf_to_facts = False
        await manager.until(lambda: not outbox.waiting())


@pytest.mark.usefixtures("error_logs_expected")
async def test_a_refused_agent_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink_module, "_HELLO_AGAIN", 0.05)
    monkeypatch.setattr(uplink_module, "_HELLO_AGAIN_REFUSED", 0.05)
    manager = Manager()
    manager.refusal = "another version"
    async with open_listener(manager) as endpoint, open_uplink(endpoint, FactOutbox("i-a", "boot")):
        await manager.until(lambda: len(manager.of(Hello)) >= 3)
        assert not manager.of(Heartbeat)
        manager.refusal = None
        await manager.until(lambda: manager.of(Heartbeat))


def test_outbox_leaves_out_what_a_newer_fact_made_pointless() -> None:
    outbox = FactOutbox("i-a", "boot")
    one, two = uuid4(), uuid4()
    facts = KernelFacts(kernel_id=one, session_id=one, phase=KernelPhase.RUNNING, image="i")
    events: list[KernelEvent] = [
        KernelPulling(kernel_id=one),
        KernelCreating(kernel_id=one),
        KernelCreating(kernel_id=two),
        KernelStarted(kernel_id=one, facts=facts),
        KernelFailed(kernel_id=two, code="x"),
        KernelTerminated(kernel_id=one, reason="x"),
    ]
    for event in events:
        outbox.report(event)
    assert [(fact.seq, fact.event) for fact in outbox.waiting()] == [(n, events[n - 1]) for n in (4, 5, 6)]
    assert [fact.seq for fact in outbox.waiting(after=5)] == [6]
    outbox.acknowledge("another boot", 4)
    outbox.acknowledge("boot", 5)
    outbox.acknowledge("boot", 99)
    assert [fact.seq for fact in outbox.waiting()] == [4, 6]
