"""The newest measurements of kernels and agents: from memory where they arrive, from Redis elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from backendai.bridges.redis import RedisBridge, RedisUnavailable
from backendai.core.kernel import KernelStat
from backendai.core.session import SessionRecord
from backendai.core.statistics import metrics
from backendai.wire.link import NodeStat

#: Hash in database 1: kernel id to its statistics.
KERNEL_STATS = "kernel.stat"
#: Hash in database 2: agent id to its statistics.
AGENT_STATS = "agent.stat"
#: Hash in database 2: agent id to the Unix time it was last heard.
AGENT_SEEN = "agent.last_seen"

_kernel_stat = msgspec.msgpack.Decoder(KernelStat)
_node_stat = msgspec.msgpack.Decoder(NodeStat)


@dataclass(slots=True)
class HeardStats:
    """What this process heard itself, while it is the one that listens to agents."""

    #: Whether everything that there is can be found here.
    complete: bool = False
    kernels: dict[UUID, KernelStat] = field(default_factory=dict)
    nodes: dict[str, NodeStat] = field(default_factory=dict)


class LiveStats:
    """Answers with what there is; what cannot be found out is left out."""

    def __init__(self, heard: HeardStats, sessions: RedisBridge, presence: RedisBridge) -> None:
        self._heard = heard
        self._sessions = sessions
        self._presence = presence

    async def kernels(self, ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
        """Metrics objects (contract 06 §4.3) of those kernels that have any."""
        stats = await self._kernel_stats(list(ids))
        return {id_: metrics(stat) for id_, stat in stats.items()}

    async def agents(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """``{"node": {...}, "devices": {...}}`` of those agents that have any."""
        stats = await self._node_stats(list(ids))
        return {id_: _node_metrics(stat) for id_, stat in stats.items()}

    async def refresh(self, record: SessionRecord) -> SessionRecord:
        """The record with the newest statistics of its main kernel."""
        stat = (await self._kernel_stats([record.session_id])).get(record.session_id)
        return record if stat is None else msgspec.structs.replace(record, last_stat=stat)

    async def _kernel_stats(self, ids: Sequence[UUID]) -> Mapping[UUID, KernelStat]:
        if self._heard.complete or not ids:
            heard = self._heard.kernels
            return {id_: heard[id_] for id_ in ids if id_ in heard}
        values = await _read(self._sessions, KERNEL_STATS, [str(id_) for id_ in ids])
        return {id_: _kernel_stat.decode(value) for id_, value in zip(ids, values, strict=True) if value}

    async def _node_stats(self, ids: Sequence[str]) -> Mapping[str, NodeStat]:
        if self._heard.complete or not ids:
            heard = self._heard.nodes
            return {id_: heard[id_] for id_ in ids if id_ in heard}
        values = await _read(self._presence, AGENT_STATS, ids)
        return {id_: _node_stat.decode(value) for id_, value in zip(ids, values, strict=True) if value}


async def _read(redis: RedisBridge, key: str, fields: Sequence[str]) -> list[bytes | None]:
    try:
        values: list[bytes | None] = await redis.call("HMGET", key, *fields)
    except RedisUnavailable:
        return [None] * len(fields)
    return values


def _node_metrics(stat: NodeStat) -> dict[str, Any]:
    percent = f"{stat.cpu_util:.2f}"
    memory_percent = f"{100 * stat.mem_used / stat.mem_total:.2f}" if stat.mem_total else "0.00"
    cpu = {"current": percent, "capacity": "100", "pct": percent, "unit_hint": "pct"}
    mem = {
        "current": str(stat.mem_used),
        "capacity": str(stat.mem_total),
        "pct": memory_percent,
        "unit_hint": "bytes",
    }
    return {
        "node": {"cpu_util": cpu, "mem": mem},
        "devices": {"cpu_util": {"node": cpu}, "mem": {"root": mem}},
    }
