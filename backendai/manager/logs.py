"""What kernels have printed: of live ones their agents tell, of ended ones what was kept."""

from __future__ import annotations

import zlib
from datetime import timedelta
from uuid import UUID

import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.manager.clock import Clock, wall_time
from backendai.manager.link import AgentAddress, AgentCaller, AgentUnreachable
from backendai.storage import logs as store
from backendai.wire.link import Logs, ReadLogs

log = structlog.get_logger(__name__)

#: Bytes of a kernel's output that are shown and kept: the last ones.
LIMIT = 10 << 20
_CUT = f"[the beginning is missing: of a kernel's output the last {LIMIT >> 20} MiB are kept]\n"
#: How long an agent still knows what a kernel printed that ended by itself.
LINGER = timedelta(seconds=15)


class LogArchive:
    """Copies the output of ended kernels into the database, and reads it from there."""

    def __init__(
        self, database: Database, agents: AgentCaller, retention: timedelta, clock: Clock = wall_time
    ) -> None:
        self._database = database
        self._agents = agents
        self._retention = retention
        self._clock = clock

    async def keep(self, kernel_id: UUID, target: AgentAddress, timeout: float) -> None:
        """Copy what a kernel has printed so far, if its agent answers within ``timeout`` seconds."""
        call = ReadLogs(kernel_id=kernel_id, limit=LIMIT)
        try:
            answer = await self._agents.call(target, call, timeout=timeout)
        except AgentUnreachable as error:
            log.warning("logs.not-kept", kernel=str(kernel_id), why=error.why)
            return
        if isinstance(answer, Logs):
            content = await trio.to_thread.run_sync(_compressed, answer.text)
            await store.keep(self._database, kernel_id, content, answer.truncated, self._clock())

    async def kept(self, kernel_id: UUID) -> str:
        """The output of an ended kernel, or one line that says why there is none."""
        found = await store.kept(self._database, kernel_id)
        if found is None:
            days = f"{self._retention / timedelta(days=1):g} days"
            return f"[nothing is kept of what this printed: the agent was gone, or it is over {days} ago]\n"
        text = await trio.to_thread.run_sync(_decompressed, found.content)
        return shown(text, truncated=found.truncated)

    async def unkept(self) -> list[tuple[UUID, AgentAddress]]:
        """Kernels that ended just now, of which nothing is kept yet, and whom to ask."""
        found = await store.unkept(self._database, self._clock() - LINGER)
        return [(each.kernel_id, AgentAddress(each.address, each.public_key)) for each in found]

    async def prune(self) -> None:
        """Forget what is kept for longer than the retention time."""
        if number := await store.prune(self._database, self._clock() - self._retention):
            log.info("logs.pruned", kernels=number)


def shown(text: str, *, truncated: bool) -> str:
    """``text`` as users see it: what is missing is said."""
    return _CUT + text if truncated else text


def _compressed(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "replace"), 6)


def _decompressed(content: bytes) -> str:
    return zlib.decompress(content).decode("utf-8", "replace")
