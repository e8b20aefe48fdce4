"""Give waiting sessions a place: one snapshot, one decision, one transaction; then have them started."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

import structlog
import trio

from backendai.bridges.postgres import Database, Row
from backendai.core.lifecycle import DependencyFailed
from backendai.core.notice import SessionChanged
from backendai.core.placement import Placed, Waiting, place
from backendai.core.session import SessionEvent, SessionStatus
from backendai.manager.clock import Clock, wall_time
from backendai.manager.reconciler import Reconciler
from backendai.storage import kernels as kernel_store
from backendai.storage import leases
from backendai.storage import scheduling as store
from backendai.storage.scheduling import Reservation
from backendai.supervision.periodic import Alarm

log = structlog.get_logger(__name__)


class Scheduler:
    def __init__(
        self,
        database: Database,
        reconciler: Reconciler,
        *,
        lease_name: str,
        start_timeout: timedelta,
        clock: Clock = wall_time,
    ) -> None:
        self._database = database
        self._reconciler = reconciler
        self._lease_name = lease_name
        self._start_timeout = start_timeout
        self._clock = clock
        #: When the next session that waits for its time may start.
        self._next_start: datetime | None = None

    async def run(
        self,
        token: int,
        interval: timedelta,
        wake: Alarm,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Look when ``wake`` rings, when a session's time has come, and every ``interval``; never returns."""
        task_status.started()
        while True:
            await self.look(token)
            pause = interval
            if self._next_start is not None:
                pause = min(pause, max(timedelta(), self._next_start - self._clock()))
            with trio.move_on_after(pause.total_seconds()):
                await wake.wait()

    async def look(self, token: int) -> list[UUID]:
        """Place what can be placed and order it to be started; answers the sessions that were placed.

        Raises :class:`backendai.storage.leases.LeaseLost` when ``token`` is no longer the lease's.
        """
        for session_id, failed in (await store.doomed(self._database)).items():
            await self._reconciler.apply(session_id, DependencyFailed(failed), whole_session=True)
        placed, rows = await self._reserve(token)
        if placed:
            ids = [each.session_id for each in placed]
            now = self._clock()
            notices = [
                _notice("kernel_preparing", rows[each.session_id], kernel, SessionStatus.PREPARING)
                for each in placed
                for kernel in each.agents
            ]
            await store.prepare(self._database, ids, now, notices)
            self._reconciler.order(*await kernel_store.assignments(self._database, session_ids=ids))
        return [each.session_id for each in placed]

    async def _reserve(self, token: int) -> tuple[list[Placed], dict[UUID, Row]]:
        now = self._clock()
        async with self._database.transaction(durable=False, lock=store.RESERVATION_LOCK) as connection:
            await leases.check(connection, self._lease_name, token)
            snapshot, rows = await store.read_snapshot(connection, now)
            self._next_start = min(
                (s.starts_at for s in snapshot.pending if s.starts_at and s.starts_at > now), default=None
            )
            if not rows:
                return [], {}
            decisions = place(snapshot)
            placed = [decision for decision in decisions if isinstance(decision, Placed)]
            waiting = [decision for decision in decisions if isinstance(decision, Waiting)]
            if placed:
                await store.reserve(
                    connection,
                    list(_reservations(placed)),
                    now,
                    now + self._start_timeout,
                    [
                        _notice(
                            "session_scheduled", rows[p.session_id], p.session_id, SessionStatus.SCHEDULED
                        )
                        for p in placed
                    ],
                )
            if waiting:
                await store.explain(connection, waiting, now)
        if placed or waiting:
            log.info("scheduler.round", placed=len(placed), waiting=len(waiting))
        return placed, rows


def _reservations(placed: Iterable[Placed]) -> Iterable[Reservation]:
    for each in placed:
        for kernel_id, agent_id in each.agents.items():
            yield Reservation(kernel_id=kernel_id, session_id=each.session_id, agent_id=agent_id)


def _notice(name: str, row: Row, kernel_id: UUID, status: SessionStatus) -> SessionChanged:
    event = SessionEvent(
        name=name,
        session_id=row["id"],
        session_name=row["name"],
        access_key=row["access_key"],
        user_id=row["user_id"],
        domain_name=row["domain_name"],
        project_id=row["project_id"],
        kernel_id=kernel_id,
    )
    return SessionChanged(event=event, status=status)
