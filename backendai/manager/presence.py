"""What agents say of themselves every few seconds, kept in Redis for whoever asks. May be lost at any
moment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.bridges.redis import Command, RedisBridge, RedisUnavailable
from backendai.core.kernel import KernelStat
from backendai.core.notice import SessionChanged
from backendai.core.session import DEAD
from backendai.manager.live_stats import AGENT_SEEN, AGENT_STATS, KERNEL_STATS, HeardStats
from backendai.supervision.broadcast import Broadcast, SubscriberTooSlow
from backendai.supervision.periodic import periodic
from backendai.wire.link import NodeStat

log = structlog.get_logger(__name__)

#: Hash in database 3: id of a live session to its name.
LIVE_SESSIONS = "sessions"
_INTERVAL = timedelta(seconds=1)
_encode = msgspec.msgpack.Encoder().encode


class Presence:
    """Collects in memory and writes at most once per second, three round trips whatever the size of the
    fleet.
    """

    def __init__(
        self,
        heard: HeardStats,
        kernel_stats: RedisBridge,
        agents: RedisBridge,
        sessions: RedisBridge,
    ) -> None:
        self._heard = heard
        self._kernel_stats = kernel_stats
        self._agents = agents
        self._sessions = sessions
        self._seen: dict[str, float] = {}
        self._fresh_kernels: dict[UUID, KernelStat] = {}
        self._gone_kernels: set[UUID] = set()
        self._gone_agents: set[str] = set()
        self._session_names: dict[UUID, str | None] = {}
        self._down = False

    def heartbeat(
        self, agent_id: str, kernels: Mapping[UUID, KernelStat], ended: set[UUID], node: NodeStat
    ) -> None:
        """``ended`` are kernels the agent had in the heartbeat before."""
        self._seen[agent_id] = time.time()
        self._heard.nodes[agent_id] = node
        self._heard.kernels.update(kernels)
        self._fresh_kernels.update(kernels)
        for kernel_id in ended:
            self._heard.kernels.pop(kernel_id, None)
            self._fresh_kernels.pop(kernel_id, None)
        self._gone_kernels |= ended

    def gone(self, agent_id: str) -> None:
        self._heard.nodes.pop(agent_id, None)
        self._seen.pop(agent_id, None)
        self._gone_agents.add(agent_id)

    async def run(
        self,
        changes: Broadcast[SessionChanged],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Write what was collected, until cancelled. What an earlier run left in Redis is cleared first."""
        await self._write(self._kernel_stats, [["DEL", KERNEL_STATS]])
        await self._write(self._agents, [["DEL", AGENT_STATS, AGENT_SEEN]])
        self._heard.complete = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_sessions, changes)
                task_status.started()
                await periodic(_INTERVAL, self._flush, name="presence")
        finally:
            self._heard.complete = False

    async def _follow_sessions(self, changes: Broadcast[SessionChanged]) -> None:
        while True:
            try:
                with changes.subscribe() as subscription:
                    async for change in subscription:
                        event = change.event
                        ended = change.status in DEAD
                        self._session_names[event.session_id] = None if ended else event.session_name
                    return
            except SubscriberTooSlow:
                log.warning("presence.sessions-lagging")

    async def _flush(self) -> None:
        await self._flush_kernels()
        await self._flush_agents()
        await self._flush_sessions()

    async def _flush_kernels(self) -> None:
        commands: list[Command] = []
        fresh, self._fresh_kernels = self._fresh_kernels, {}
        gone, self._gone_kernels = self._gone_kernels, set()
        if fresh:
            pairs = [part for id_, stat in fresh.items() for part in (str(id_), _encode(stat))]
            commands.append(["HSET", KERNEL_STATS, *pairs])
        if gone:
            commands.append(["HDEL", KERNEL_STATS, *map(str, gone)])
        await self._write(self._kernel_stats, commands)

    async def _flush_agents(self) -> None:
        commands: list[Command] = []
        seen, self._seen = self._seen, {}
        gone, self._gone_agents = self._gone_agents, set()
        if seen:
            commands.append(["HSET", AGENT_SEEN, *(part for pair in seen.items() for part in pair)])
            nodes = self._heard.nodes
            pairs = [part for id_ in seen if id_ in nodes for part in (id_, _encode(nodes[id_]))]
            if pairs:
                commands.append(["HSET", AGENT_STATS, *pairs])
        if gone:
            commands += [["HDEL", AGENT_SEEN, *gone], ["HDEL", AGENT_STATS, *gone]]
        await self._write(self._agents, commands)

    async def _flush_sessions(self) -> None:
        commands: list[Command] = []
        names, self._session_names = self._session_names, {}
        live = [part for id_, name in names.items() if name is not None for part in (str(id_), name)]
        dead = [str(id_) for id_, name in names.items() if name is None]
        if live:
            commands.append(["HSET", LIVE_SESSIONS, *live])
        if dead:
            commands.append(["HDEL", LIVE_SESSIONS, *dead])
        await self._write(self._sessions, commands)

    async def _write(self, redis: RedisBridge, commands: list[Command]) -> None:
        if not commands:
            return
        try:
            await redis.pipeline(commands)
        except RedisUnavailable as error:
            if not self._down:
                log.warning("presence.redis-unavailable", error=str(error))
            self._down = True
        else:
            self._down = False
