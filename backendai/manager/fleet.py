"""The agents of the installation: who speaks, who is silent, and whether they have what the book says they
have.

Runs in the process that holds the lease. A heartbeat touches memory only; the database is asked when an
agent says hello, when it falls silent, and by the periodic comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.bridges.zmq import AllowedKeys
from backendai.core.kernel import KernelPhase, KernelStat
from backendai.core.lifecycle import STARTING, Ended, Missing, Started
from backendai.core.notice import AgentRestarted, WorkWaits
from backendai.core.session import SessionStatus
from backendai.manager.clock import Clock, wall_time
from backendai.manager.link import AgentAddress
from backendai.manager.presence import Presence
from backendai.manager.reconciler import LogOrder, Reconciler, told
from backendai.manager.transitions import DestroyOrder
from backendai.storage import agents as store
from backendai.storage import enrollment, images
from backendai.storage import kernels as kernel_store
from backendai.storage.agents import BookedKernel
from backendai.storage.notices import notify
from backendai.supervision.periodic import Alarm
from backendai.wire.link import (
    LINK_VERSION,
    AgentMessage,
    Fact,
    FactAck,
    Goodbye,
    Heartbeat,
    Hello,
    HelloAccepted,
    HelloRefused,
    ManagerMessage,
    SayHello,
)

log = structlog.get_logger(__name__)

#: Logs of ended kernels that are fetched because of one heartbeat.
_MOST_ENDED = 64
#: Statuses in which an agent has a kernel, as far as the book knows.
_PRESENT = frozenset(
    {SessionStatus.RUNNING, SessionStatus.RESTARTING, SessionStatus.TERMINATING, SessionStatus.ERROR}
)


@dataclass(slots=True)
class _Agent:
    boot_id: str
    target: AgentAddress
    #: ``trio.current_time()`` of the last word.
    heard: float
    #: Live kernels as of the last heartbeat, and when that came; None before the first.
    kernels: Mapping[UUID, KernelStat] | None = None
    #: Those of them that do not run yet.
    starting: frozenset[UUID] = frozenset()
    beat_at: datetime | None = None
    #: Kernels it had for which the book has no use, when last compared.
    strays: set[UUID] = field(default_factory=set)


class Fleet:
    """Handles what agents say (it is the :class:`backendai.manager.listener.FactHandler`)."""

    def __init__(
        self,
        database: Database,
        reconciler: Reconciler,
        presence: Presence,
        *,
        encrypted: bool,
        heartbeat_interval: timedelta,
        lost_after: timedelta,
        clock: Clock = wall_time,
    ) -> None:
        self._database = database
        self._reconciler = reconciler
        self._presence = presence
        self._encrypted = encrypted
        self._heartbeat = heartbeat_interval
        self._lost_after = lost_after.total_seconds()
        self._clock = clock
        self._agents: dict[str, _Agent] = {}
        #: CURVE public key to the agent that may use it.
        self._trusted: dict[str, str] = {}
        self.allowed_keys = AllowedKeys()

    # -- loops

    async def run(
        self, keys_changed: Alarm, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watch for silence, and keep up with who is trusted, until cancelled."""
        await self._load_keys()
        now = trio.current_time()
        for known in await store.every(self._database, "ALIVE"):
            # Known from before this process had the lease: they get a full period to be heard.
            self._agents[known.id] = _Agent(known.boot_id, AgentAddress(known.address, known.public_key), now)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_keys, keys_changed)
                task_status.started()
                while True:
                    await trio.sleep(min(1.0, self._lost_after / 3))
                    await self._find_silent()
        finally:
            self._agents.clear()

    async def _load_keys(self) -> None:
        self._trusted = await enrollment.trusted(self._database)
        self.allowed_keys.replace(self._trusted)

    async def _follow_keys(self, changed: Alarm) -> None:
        while True:
            await changed.wait()
            await self._load_keys()

    async def _find_silent(self) -> None:
        limit = trio.current_time() - self._lost_after
        for agent_id in [id_ for id_, agent in self._agents.items() if agent.heard < limit]:
            log.warning("fleet.agent-lost", agent=agent_id)
            await self._leave(agent_id, "LOST")

    # -- what agents say

    async def __call__(self, sender_key: str, message: AgentMessage) -> ManagerMessage | None:
        if self._encrypted and self._trusted.get(sender_key) != message.agent_id:
            log.warning("fleet.not-its-key", agent=message.agent_id, key=sender_key)
            return HelloRefused(reason="this key may not speak for this agent")
        if isinstance(message, Hello):
            return await self._hello(sender_key, message)
        agent = self._agents.get(message.agent_id)
        if agent is None or agent.boot_id != message.boot_id:
            return SayHello()
        agent.heard = trio.current_time()
        match message:
            case Heartbeat():
                ended = set(agent.kernels or ()) - message.kernels.keys()
                agent.kernels = message.kernels
                agent.starting = frozenset(message.starting)
                agent.beat_at = self._clock()
                self._presence.heartbeat(message.agent_id, message.kernels, ended, message.node)
                self._reconciler.order(*(LogOrder(id_, agent.target) for id_ in message.ended[:_MOST_ENDED]))
                return None
            case Fact():
                await self._reconciler.take_fact(message.event, message.agent_id, agent.target)
                return FactAck(boot_id=message.boot_id, seq=message.seq)
            case Goodbye():
                log.info("fleet.goodbye", agent=message.agent_id, reason=message.reason)
                await self._leave(
                    message.agent_id, "TERMINATED" if message.reason == "shutdown" else "RESTARTING"
                )
                return None

    async def _hello(self, sender_key: str, hello: Hello) -> ManagerMessage:
        if hello.link_version != LINK_VERSION:
            reason = f"link version {hello.link_version} instead of {LINK_VERSION}"
            log.warning("fleet.hello-refused", agent=hello.agent_id, reason=reason)
            return HelloRefused(reason=reason)
        if self._encrypted and hello.public_key != sender_key:
            return HelloRefused(reason="calls must be taken with the enrolled key")
        async with self._database.transaction() as connection:
            await store.upsert(connection, hello, self._clock())
            await images.set_agent_images(connection, hello.agent_id, hello.architecture, hello.images)
            await notify(connection, WorkWaits())
            known = self._agents.get(hello.agent_id)
            if known is not None and known.boot_id != hello.boot_id:
                gone = known.target
                await notify(connection, AgentRestarted(address=gone.address, public_key=gone.public_key))
        target = AgentAddress(hello.address, hello.public_key)
        self._agents[hello.agent_id] = _Agent(hello.boot_id, target, trio.current_time())
        log.info("fleet.hello", agent=hello.agent_id, boot=hello.boot_id, kernels=len(hello.kernels))
        await self._settle(hello, target)
        return HelloAccepted(boot_id=hello.boot_id)

    async def _settle(self, hello: Hello, target: AgentAddress) -> None:
        """Compare everything an agent has with everything it should have."""
        booked = {k.id: k for k in await store.booked_kernels(self._database, hello.agent_id)}
        has = {facts.kernel_id: facts for facts in hello.kernels}
        for kernel_id, facts in has.items():
            known = booked.get(kernel_id)
            if known is None:
                self._reconciler.order(DestroyOrder(kernel_id, target, "not in the book"))
            elif facts.phase is KernelPhase.RUNNING:
                await self._reconciler.apply(kernel_id, Started(), facts=facts)
            elif facts.phase is KernelPhase.EXITED:
                reason = told(facts.exit_reason or "self-terminated")
                await self._reconciler.apply(kernel_id, Ended(reason, facts.exit_code))
        for kernel_id, known in booked.items():
            if kernel_id not in has and known.status in _PRESENT:
                await self._reconciler.apply(kernel_id, Missing())
        if any(known.status in STARTING and id_ not in has for id_, known in booked.items()):
            waiting = await kernel_store.assignments(self._database, agent_id=hello.agent_id)
            self._reconciler.order(*(each for each in waiting if each.spec.kernel_id not in has))

    async def _leave(self, agent_id: str, status: str) -> None:
        self._agents.pop(agent_id, None)
        self._presence.gone(agent_id)
        async with self._database.transaction() as connection:
            await store.set_status(connection, agent_id, status, self._clock())

    def busy_kernels(self) -> set[UUID]:
        """Kernels that were running code when last heard of."""
        return {id_ for a in self._agents.values() for id_, stat in (a.kernels or {}).items() if stat.busy}

    # -- comparison

    async def compare(self) -> None:
        """Find kernels on which agents and book disagree for longer than facts need to arrive, and act."""
        booked: dict[str, dict[UUID, BookedKernel]] = {}
        for kernel in await store.booked_kernels(self._database):
            booked.setdefault(kernel.agent_id, {})[kernel.id] = kernel
        for agent_id, agent in list(self._agents.items()):
            if agent.beat_at is not None:
                # What changed about the time of the heartbeat may rightly differ from it.
                settled = agent.beat_at - 3 * self._heartbeat
                await self._compare_agent(agent, booked.get(agent_id, {}), settled)

    async def _compare_agent(
        self, agent: _Agent, booked: Mapping[UUID, BookedKernel], settled: datetime
    ) -> None:
        has = agent.kernels or {}
        for kernel in booked.values():
            if kernel.changed >= settled:
                continue
            if kernel.id not in has and kernel.status in _PRESENT - {SessionStatus.RESTARTING}:
                await self._reconciler.apply(kernel.id, Missing())
            elif kernel.id in has.keys() - agent.starting and kernel.status in STARTING:
                await self._reconciler.apply(kernel.id, Started())
            elif kernel.id in has and kernel.status is SessionStatus.TERMINATING:
                self._reconciler.order(DestroyOrder(kernel.id, agent.target, "terminating"))
        strays = {kernel_id for kernel_id in has if kernel_id not in booked}
        for kernel_id in strays & agent.strays:  # twice in a row: no fact was merely on its way
            self._reconciler.order(DestroyOrder(kernel_id, agent.target, "not in the book"))
        agent.strays = strays
