"""The newest measurement of every kernel and agent host, kept in Redis and lost with it.

The fleet listener writes what heartbeats bring; whoever shows measurements reads them here, many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from backendai.bridges.redis import Command, RedisBridge, RedisUnavailable
from backendai.core.kernel import KernelStat
from backendai.wire.link import Heartbeat, NodeStat

#: Seconds without a new measurement after which the last one is forgotten.
KEPT_FOR = 120

S = TypeVar("S", KernelStat, NodeStat)

_encode = msgspec.msgpack.Encoder().encode


def kernel_commands(heartbeat: Heartbeat) -> list[Command]:
    """What to send to the database of live sessions (1)."""
    return [
        ("SET", _kernel_key(str(kernel_id)), _encode(stat), "EX", KEPT_FOR)
        for kernel_id, stat in heartbeat.kernels.items()
    ]


def node_command(heartbeat: Heartbeat) -> Command:
    """What to send to the database of agent presence (2)."""
    return ("SET", _node_key(heartbeat.agent_id), _encode(heartbeat.node), "EX", KEPT_FOR)


class Measurements:
    """Reads them back. While Redis is down nothing is known; no answer depends on it alone."""

    def __init__(self, sessions: RedisBridge, presence: RedisBridge) -> None:
        self._sessions = sessions
        self._presence = presence

    async def of_kernels(self, kernel_ids: Sequence[str]) -> Mapping[str, KernelStat]:
        """By kernel id, for those that were measured lately."""
        return await _read(self._sessions, KernelStat, kernel_ids, [_kernel_key(key) for key in kernel_ids])

    async def of_nodes(self, agent_ids: Sequence[str]) -> Mapping[str, NodeStat]:
        """By agent id, for those that were heard of lately."""
        return await _read(self._presence, NodeStat, agent_ids, [_node_key(key) for key in agent_ids])


def _kernel_key(kernel_id: str) -> str:
    return f"kernel:{kernel_id}:stat"


def _node_key(agent_id: str) -> str:
    return f"agent:{agent_id}:node"


async def _read(redis: RedisBridge, kind: type[S], names: Sequence[str], keys: Sequence[str]) -> dict[str, S]:
    if not keys:
        return {}
    try:
        values = await redis.call("MGET", *keys)
    except RedisUnavailable:
        return {}
    return {
        name: msgspec.msgpack.decode(value, type=kind)
        for name, value in zip(names, values, strict=True)
        if value is not None
    }
