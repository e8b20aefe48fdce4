"""What happens to sessions, for those who may see it (contract 03 §7)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.errors import Forbidden, ObjectNotFound
from backendai.core.notice import SessionChanged
from backendai.core.session import SessionEvent
from backendai.manager.clock import Clock, wall_time
from backendai.manager.cursors import StreamCursors
from backendai.manager.notices import NoticeBoard
from backendai.storage import accounts
from backendai.storage import events as store

log = structlog.get_logger(__name__)

#: Events a subscriber may lag behind before its stream is cut.
_BACKLOG = 1000
#: Seconds between two notes of how far a reader has come, and for the last one.
_NOTE_INTERVAL = 5.0
_NOTE_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """``None`` lets everything pass. ``session_id`` overrides name and owner."""

    session_name: str | None = None
    session_id: UUID | None = None
    owner_access_key: str | None = None
    #: Name of a project.
    group: str | None = None
    #: ``session``, ``kernel`` or both.
    levels: frozenset[str] = frozenset({"session", "kernel"})


class EventFeed(AsyncIterator[SessionEvent]):
    """Events, for one task to read. ``complete`` is False when some that were asked for are not known any
    more.
    """

    def __init__(self, events: AsyncIterator[SessionEvent], *, complete: bool = True) -> None:
        self._events = events
        self.complete = complete

    async def __anext__(self) -> SessionEvent:
        return await self._events.__anext__()


class EventService:
    def __init__(
        self,
        database: Database,
        board: NoticeBoard,
        cursors: StreamCursors,
        retention: timedelta,
        clock: Clock = wall_time,
    ) -> None:
        self._database = database
        self._board = board
        self._cursors = cursors
        self._retention = retention
        self._clock = clock

    @asynccontextmanager
    async def subscribe(
        self,
        principal: Principal,
        wanted: EventFilter,
        *,
        after: int | None = None,
        reader: str | None = None,
    ) -> AsyncIterator[EventFeed]:
        """Events from now on, or all with numbers above ``after``; the iterator ends when the service stops.

        A ``reader`` that was here before and does not say how far it came goes on from there. The iterator
        raises :class:`backendai.supervision.broadcast.SubscriberTooSlow` when its reader falls far behind.
        Raises :class:`Forbidden` for another's key and :class:`ObjectNotFound` for an unknown project.
        """
        visible = await self._visible(principal, wanted)
        if after is None and reader is not None:
            after = await self._cursors.recall(reader)
        horizon = await store.horizon(self._database)
        complete = after is None or horizon.first - 1 <= after <= horizon.last
        start = after if after is not None and complete else horizon.last
        events = self._follow(principal, wanted, visible, start)
        async with aclosing(events if reader is None else self._noting(events, reader, start)) as feed:
            yield EventFeed(feed, complete=complete)

    def close(self) -> None:
        """End every stream: the service is about to stop."""
        self._board.sessions.close()

    async def prune(self) -> None:
        """Forget what is older than the retention time."""
        await store.prune(self._database, self._clock() - self._retention)

    async def _visible(self, principal: Principal, wanted: EventFilter) -> Callable[[SessionEvent], bool]:
        owner = wanted.owner_access_key
        if (
            owner is not None
            and owner != principal.access_key
            and not (principal.is_admin or principal.is_superadmin)
        ):
            raise Forbidden("You can only watch your own sessions.")
        if wanted.group is None:
            return lambda event: _may_see(principal, event) and _asked_for(wanted, event)
        domain = None if principal.is_superadmin else principal.domain_name
        projects = await accounts.project_ids(self._database, wanted.group, domain)
        if not projects:
            raise ObjectNotFound("user group")
        return lambda event: (
            event.project_id in projects and _may_see(principal, event) and _asked_for(wanted, event)
        )

    async def _follow(
        self, principal: Principal, wanted: EventFilter, visible: Callable[[SessionEvent], bool], start: int
    ) -> AsyncGenerator[SessionEvent, None]:
        """What the database has after ``start``, then what is heard, without gap or repetition."""
        position = start

        async def read() -> list[SessionChanged]:
            return await store.after(
                self._database,
                position,
                user_id=None if principal.is_superadmin or principal.is_admin else principal.user_id,
                domain_name=None if principal.is_superadmin else principal.domain_name,
                session_id=wanted.session_id,
            )

        # A reader may take its time with what is behind it: only then it has to keep up.
        while len(page := await read()) == store.PAGE:
            for notice in page:
                position = notice.event.id
                if visible(notice.event):
                    yield notice.event
        with self._board.sessions.subscribe(_BACKLOG) as subscription:
            while page := await read():
                for notice in page:
                    position = notice.event.id
                    if visible(notice.event):
                        yield notice.event
            async for notice in subscription:
                if notice.event.id > position and visible(notice.event):
                    yield notice.event

    async def _noting(
        self, events: AsyncGenerator[SessionEvent, None], reader: str, start: int
    ) -> AsyncGenerator[SessionEvent, None]:
        """Keep note of what the reader has taken, as far as it came back for more."""
        position = noted = start
        await self._cursors.remember(reader, start)
        noted_at = trio.current_time()
        async with aclosing(events):
            try:
                async for event in events:
                    yield event
                    position = event.id
                    if trio.current_time() > noted_at + _NOTE_INTERVAL:
                        await self._cursors.remember(reader, position)
                        noted, noted_at = position, trio.current_time()
            finally:
                if position != noted:
                    with trio.move_on_after(_NOTE_TIMEOUT, shield=True):
                        await self._cursors.remember(reader, position)


def _may_see(principal: Principal, event: SessionEvent) -> bool:
    if principal.is_superadmin:
        return True
    if principal.is_admin:
        return event.domain_name == principal.domain_name
    return event.user_id == principal.user_id


def _asked_for(wanted: EventFilter, event: SessionEvent) -> bool:
    if event.name.partition("_")[0] not in wanted.levels:
        return False
    if wanted.session_id is not None:
        return event.session_id == wanted.session_id
    if wanted.session_name is not None and event.session_name != wanted.session_name:
        return False
    return wanted.owner_access_key is None or event.access_key == wanted.owner_access_key
