"""Nothing stays where it is past its time, whatever message was lost."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.core.lifecycle import AgentGone, DeadlinePassed, DestroyWanted
from backendai.manager.clock import Clock, wall_time
from backendai.manager.fleet import Fleet
from backendai.manager.reconciler import Reconciler
from backendai.storage import agents, kernels, lifetimes
from backendai.supervision.periodic import periodic

log = structlog.get_logger(__name__)

#: How long an agent may take to say anything of a kernel it was asked to start, before it is asked again.
_ASK_AGAIN_AFTER = timedelta(seconds=10)


class Sweeper:
    def __init__(
        self,
        database: Database,
        reconciler: Reconciler,
        fleet: Fleet,
        *,
        reconcile_for: timedelta,
        clock: Clock = wall_time,
    ) -> None:
        self._database = database
        self._reconciler = reconciler
        self._fleet = fleet
        self._reconcile_for = reconcile_for
        self._clock = clock

    async def run(
        self, interval: timedelta, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Sweep every ``interval`` until cancelled."""
        await periodic(interval, self.sweep, name="sweeper", task_status=task_status)

    async def sweep(self) -> None:
        now = self._clock()
        for kernel_id in await kernels.overdue(self._database, now):
            log.warning("sweeper.deadline", kernel=str(kernel_id))
            await self._reconciler.apply(kernel_id, DeadlinePassed())
        for kernel_id in await agents.abandoned_kernels(self._database, now - self._reconcile_for):
            log.warning("sweeper.agent-gone", kernel=str(kernel_id))
            await self._reconciler.apply(kernel_id, AgentGone())
        await self._end_expired(now)
        self._reconciler.order(*await kernels.assignments(self._database, before=now - _ASK_AGAIN_AFTER))
        await self._fleet.compare()

    async def _end_expired(self, now: datetime) -> None:
        """Sessions may run only for so long, and only while they are used."""
        if busy := self._fleet.busy_kernels():
            await lifetimes.note_use(self._database, busy, now)
        for expiry in await lifetimes.expired(self._database, now):
            log.info("sweeper.expired", session=str(expiry.session_id), rule=expiry.rule)
            await self._reconciler.apply(expiry.session_id, DestroyWanted(expiry.rule), whole_session=True)
