"""The one ear of a process: hears notices from PostgreSQL and passes them to those who care."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.core.notice import (
    CHANNEL,
    AccountsChanged,
    AgentRestarted,
    CallbackWaits,
    SessionChanged,
    SettingsChanged,
    TaskChanged,
    WorkWaits,
    decode,
)
from backendai.manager.address import AgentAddress
from backendai.storage import events
from backendai.supervision.broadcast import Broadcast, Subscription
from backendai.supervision.periodic import Alarm

log = structlog.get_logger(__name__)


class CachesAccounts(Protocol):
    def trust_cache(self, trusted: bool) -> None: ...
    def forget(self, access_key: str | None) -> None: ...


class NoticeBoard:
    """What was heard, for the parts of this process.

    When the connection is lost, :meth:`run` raises, waits for a session end early, caches are no longer
    trusted, and the manager starts its loops anew; events of sessions that were missed are then made up for
    from the database, every one in its turn.
    """

    def __init__(
        self,
        database: Database,
        accounts: CachesAccounts,
        *,
        agent_restarted: Callable[[AgentAddress], None] | None = None,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._agent_restarted = agent_restarted
        self._by_session: dict[UUID, list[Broadcast[SessionChanged]]] = {}
        self._by_task: dict[UUID, list[Alarm]] = {}
        #: Everything that happens to any session, for event streams.
        self.sessions: Broadcast[SessionChanged] = Broadcast()
        #: Rings when a session may have become schedulable.
        self.work_waits = Alarm()
        #: Rings when something is to be told to a URL.
        self.callback_waits = Alarm()
        #: Ring when settings or trusted keys changed.
        self.status_changed = Alarm()
        self.keys_changed = Alarm()
        self.listening = False
        #: Number of the last event that was passed on; None before the first time of listening.
        self.last_event: int | None = None

    @contextmanager
    def watch(self, session_id: UUID) -> Iterator[Subscription[SessionChanged]]:
        """What happens to one session while the block lasts; ends early when the feed is lost.

        Enter it before the session is entered into the database and nothing is missed.
        """
        broadcast: Broadcast[SessionChanged] = Broadcast()
        if not self.listening:
            broadcast.close()
        watchers = self._by_session.setdefault(session_id, [])
        watchers.append(broadcast)
        try:
            with broadcast.subscribe() as subscription:
                yield subscription
        finally:
            watchers.remove(broadcast)
            if not watchers:
                self._by_session.pop(session_id, None)

    @contextmanager
    def watch_task(self, task_id: UUID) -> Iterator[Alarm]:
        """Rings when there is news of a background task, while the block lasts."""
        alarm = Alarm()
        watchers = self._by_task.setdefault(task_id, [])
        watchers.append(alarm)
        try:
            yield alarm
        finally:
            watchers.remove(alarm)
            if not watchers:
                self._by_task.pop(task_id, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Raises :class:`~backendai.bridges.postgres.DatabaseUnavailable`."""
        try:
            async with self._database.listen(CHANNEL) as feed:
                self.listening = True
                self._accounts.trust_cache(True)
                self.status_changed.ring()
                await self._catch_up()
                task_status.started()
                async for _, payload in feed:
                    self._take(payload)
        finally:
            self.listening = False
            self._accounts.trust_cache(False)
            for watchers in self._by_session.values():
                for broadcast in watchers:
                    broadcast.close()

    async def _catch_up(self) -> None:
        if self.last_event is None:
            self.last_event = (await events.horizon(self._database)).last
            return
        while missed := await events.after(self._database, self.last_event):
            for notice in missed:
                self._take_session(notice)

    def _take(self, payload: str) -> None:
        try:
            notice = decode(payload)
        except msgspec.MsgspecError as error:
            log.warning("notices.malformed", error=str(error))
            return
        match notice:
            case SessionChanged():
                self._take_session(notice)
            case AccountsChanged():
                self._accounts.forget(notice.access_key)
            case SettingsChanged():
                self.status_changed.ring()
                self.keys_changed.ring()
            case WorkWaits():
                self.work_waits.ring()
            case CallbackWaits():
                self.callback_waits.ring()
            case TaskChanged():
                for alarm in self._by_task.get(notice.task_id, ()):
                    alarm.ring()
            case AgentRestarted() if self._agent_restarted is not None:
                self._agent_restarted(AgentAddress(notice.address, notice.public_key))

    def _take_session(self, notice: SessionChanged) -> None:
        if self.last_event is not None and notice.event.id <= self.last_event:
            return  # it was made up for already
        self.last_event = notice.event.id
        if notice.event.name in ("session_enqueued", "kernel_terminated", "kernel_cancelled"):
            self.work_waits.ring()
        for broadcast in self._by_session.get(notice.event.session_id, ()):
            broadcast.publish(notice)
        self.sessions.publish(notice)
