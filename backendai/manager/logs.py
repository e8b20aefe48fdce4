"""What kernels have printed: of live ones their agents tell, of ended ones what was kept.

The agent of a kernel that has ended keeps its output until it is in the database, so no message that is lost
and no process that dies on the way takes it along.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.core.errors import ObjectNotFound, OutputNotKept
from backendai.core.execution import RunReply
from backendai.core.output import MOST_LOG, KernelOutput, MalformedOutput, RunOutput, read_on, within
from backendai.manager.clock import Clock, wall_time
from backendai.manager.link import AgentAddress, AgentCaller, AgentUnreachable
from backendai.storage import logs as store
from backendai.storage.logs import KeptLog, KeptRun
from backendai.wire.link import ForgetOutput, Logs, Output, ReadLogs, ReadOutput

log = structlog.get_logger(__name__)

#: How long an agent still knows the runs of a kernel that ended by itself.
LINGER = timedelta(seconds=15)
#: Seconds an agent has to give what is missing to somebody who waits for it.
_SOON = 5.0
#: Outputs on their way at once: each may take some ten MiB, several times.
_FETCHES = 2
#: Bytes of console text in one reply.
_MOST_REPLY = 1 << 20


class LogArchive:
    """Copies the output of ended kernels into the database, and reads it from there.

    ``limit``: bytes of a kernel's log that are shown and kept, the last ones; ``replay_limit``: of the items
    of its runs.
    """

    def __init__(
        self,
        database: Database,
        agents: AgentCaller,
        retention: timedelta,
        clock: Clock = wall_time,
        *,
        limit: int = MOST_LOG,
        replay_limit: int = 4 << 20,
    ) -> None:
        self._database = database
        self._agents = agents
        self._retention = retention
        self._clock = clock
        self.limit = limit
        self._replay_limit = replay_limit
        self._fetching = trio.CapacityLimiter(_FETCHES)

    # -- keeping

    async def keep(self, kernel_id: UUID, target: AgentAddress, timeout: float) -> None:
        """Copy what a live kernel has printed so far, if its agent answers within ``timeout`` seconds."""
        call = ReadLogs(kernel_id=kernel_id, limit=self.limit)
        try:
            answer = await self._agents.call(target, call, timeout=timeout)
        except AgentUnreachable as error:
            log.warning("logs.not-kept", kernel=str(kernel_id), why=error.why)
            return
        if isinstance(answer, Logs):
            content = await trio.to_thread.run_sync(_compressed, answer.text)
            kept = KeptLog(content=content, truncated=answer.truncated)
            await store.keep(self._database, kernel_id, _name(target), kept, self._clock())

    async def fetch(self, kernel_id: UUID, target: AgentAddress, timeout: float) -> None:
        """Copy all that an ended kernel has printed, if its agent has it, and let that forget it then."""
        async with self._fetching:
            await self._fetch(kernel_id, target, timeout)

    async def _fetch(self, kernel_id: UUID, target: AgentAddress, timeout: float) -> None:
        try:
            answer = await self._agents.call(target, ReadOutput(kernel_id=kernel_id), timeout=timeout)
        except AgentUnreachable as error:
            log.warning("logs.not-fetched", kernel=str(kernel_id), why=error.why)
            return
        if not isinstance(answer, Output):
            return
        kept, runs = await trio.to_thread.run_sync(self._packed, kernel_id, answer.output)
        async with self._database.transaction() as connection:
            if await store.keep(connection, kernel_id, _name(target), kept, self._clock()):
                await store.keep_runs(connection, kernel_id, runs)
        with suppress(AgentUnreachable):  # it will name the kernel again
            await self._agents.call(target, ForgetOutput(kernel_id=kernel_id), timeout=timeout)

    def _packed(self, kernel_id: UUID, output: KernelOutput) -> tuple[KeptLog, list[KeptRun]]:
        text = output.log.encode("utf-8", "replace")
        runs = output.runs
        try:
            runs = None if runs is None else within(runs, self._replay_limit)
        except MalformedOutput as error:
            log.warning("logs.malformed-runs", kernel=str(kernel_id), error=str(error))
            runs = None
        kept = KeptLog(
            content=zlib.compress(text[-self.limit :], 6),
            truncated=output.log_truncated or len(text) > self.limit,
            complete=True,
            runs_lost=runs is None,
        )
        return kept, [_kept_run(run) for run in runs or ()]

    async def prune(self) -> None:
        """Forget what is kept for longer than the retention time."""
        if number := await store.prune(self._database, self._clock() - self._retention):
            log.info("logs.pruned", kernels=number)

    # -- reading

    async def log(self, kernel_id: UUID, target: AgentAddress | None, ended: datetime | None) -> str:
        """The log of an ended kernel. Raises :class:`OutputNotKept`."""
        await self._complete(kernel_id, target)
        found = await store.kept(self._database, kernel_id)
        if found is None:
            raise self._not_kept(ended)
        text = await trio.to_thread.run_sync(_decompressed, found.content)
        return self.shown(text, truncated=found.truncated)

    async def replay(
        self, kernel_id: UUID, target: AgentAddress | None, ended: datetime | None, run_id: str, after: int
    ) -> RunReply:
        """What a run of an ended kernel had printed from item ``after`` on, or from the first that is kept.

        Raises :class:`OutputNotKept`, and :class:`ObjectNotFound` for a run that there was not.
        """
        await self._complete(kernel_id, target)
        found = await store.kept_run(self._database, kernel_id, run_id)
        if found is None:
            if await store.knows_runs(self._database, kernel_id):
                raise ObjectNotFound("run")
            raise self._not_kept(ended)
        return await trio.to_thread.run_sync(_reply, found, after)

    async def _complete(self, kernel_id: UUID, target: AgentAddress | None) -> None:
        """Have in the database what the agent still has."""
        if target is not None and not await store.is_complete(self._database, kernel_id):
            await self.fetch(kernel_id, target, _SOON)

    def _not_kept(self, ended: datetime | None) -> OutputNotKept:
        expired = ended is not None and ended < self._clock() - self._retention
        days = f"{self._retention / timedelta(days=1):g} days"
        return OutputNotKept(
            f"The session ended more than {days} ago, for which output is kept."
            if expired
            else "It was lost with the host or the processes that had it.",
            data={
                "reason": "expired" if expired else "lost",
                "retention": self._retention.total_seconds(),
            },
        )

    def shown(self, text: str, *, truncated: bool) -> str:
        """``text`` as users see it: what is missing is said."""
        if not truncated:
            return text
        return (
            f"[the beginning is missing: of a kernel's output the last {_size(self.limit)} are kept]\n{text}"
        )


def _kept_run(run: RunOutput) -> KeptRun:
    return KeptRun(
        run_id=run.run_id,
        exit_code=run.exit_code,
        truncated=run.truncated,
        first_index=run.first_index,
        next_index=run.next_index,
        content=zlib.compress(run.content, 6),
    )


def _reply(kept: KeptRun, after: int) -> RunReply:
    run = RunOutput(
        run_id=kept.run_id,
        exit_code=kept.exit_code,
        truncated=kept.truncated,
        first_index=kept.first_index,
        next_index=kept.next_index,
        content=zlib.decompress(kept.content),
    )
    return read_on(run, after, _MOST_REPLY)


def _name(target: AgentAddress) -> tuple[str, str]:
    return target.address, target.public_key


def _size(number: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number} bytes"


def _compressed(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "replace"), 6)


def _decompressed(content: bytes) -> str:
    return zlib.decompress(content).decode("utf-8", "replace")
