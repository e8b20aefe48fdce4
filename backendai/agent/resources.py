"""What this host has to give."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

import psutil

from backendai.agent.settings import AgentSettings
from backendai.wire.link import NodeStat

#: Part of the memory that is left to the system, the agent and the runners, and its bounds.
_RESERVED_SHARE = 0.05
_RESERVED_BYTES = (256 << 20, 2 << 30)
#: Memory limit of the container we may run in, cgroup v2 and v1.
_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def offered_slots(settings: AgentSettings) -> dict[str, Decimal]:
    """Cores and bytes: what the settings say, else what the host has less a reserve."""
    cpu = settings.cpu if settings.cpu is not None else len(os.sched_getaffinity(0))
    if settings.memory is not None:
        memory = settings.memory
    else:
        total = _memory_total()
        low, high = _RESERVED_BYTES
        memory = total - min(max(int(total * _RESERVED_SHARE), low), high)
    return {"cpu": Decimal(str(cpu)), "mem": Decimal(memory)}


def lack(
    offered: Mapping[str, Decimal], occupied: Iterable[Mapping[str, str]], wanted: Mapping[str, str]
) -> str | None:
    """Why ``wanted`` does not fit beside ``occupied``; ``None`` when it does."""
    free = dict(offered)
    for slots in occupied:
        for name, amount in slots.items():
            free[name] = free.get(name, Decimal(0)) - Decimal(amount)
    for name, amount in wanted.items():
        try:
            needed = Decimal(amount)
        except InvalidOperation:
            return f"{name}: {amount!r} is no amount"
        if not needed.is_finite() or needed < 0:
            return f"{name}: {amount!r} is no amount"
        if needed > free.get(name, Decimal(0)):
            return f"{name}: {amount} wanted, {free.get(name, Decimal(0))} free"
    return None


def node_stat() -> NodeStat:
    """The whole host now; ``cpu_util`` in percent of one core since the last call."""
    memory = psutil.virtual_memory()
    return NodeStat(
        cpu_util=sum(psutil.cpu_percent(percpu=True)),
        mem_used=memory.total - memory.available,
        mem_total=memory.total,
    )


def _memory_total() -> int:
    total = int(psutil.virtual_memory().total)
    for path in _MEMORY_LIMITS:
        if path.exists() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total
