"""What happens to sessions, for those who may see it (contract 03 §7)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.errors import Forbidden, ObjectNotFound
from backendai.core.notice import SessionChanged
from backendai.core.session import SessionEvent
from backendai.manager.notices import NoticeBoard
from backendai.storage import accounts
from backendai.supervision.broadcast import Subscription

#: Events a subscriber may lag behind before its stream is cut.
_BACKLOG = 1000


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


class EventService:
    def __init__(self, database: Database, board: NoticeBoard) -> None:
        self._database = database
        self._board = board

    @asynccontextmanager
    async def subscribe(
        self, principal: Principal, wanted: EventFilter
    ) -> AsyncIterator[AsyncIterator[SessionEvent]]:
        """Events from now on; the iterator ends when the service stops.

        It raises :class:`backendai.supervision.broadcast.SubscriberTooSlow` when its reader falls far behind.
        Raises :class:`Forbidden` for another's key and :class:`ObjectNotFound` for an unknown project.
        """
        owner = wanted.owner_access_key
        if (
            owner is not None
            and owner != principal.access_key
            and not (principal.is_admin or principal.is_superadmin)
        ):
            raise Forbidden("You can only watch your own sessions.")
        projects: list[UUID] | None = None
        if wanted.group is not None:
            domain = None if principal.is_superadmin else principal.domain_name
            projects = await accounts.project_ids(self._database, wanted.group, domain)
            if not projects:
                raise ObjectNotFound("user group")
        with self._board.sessions.subscribe(_BACKLOG) as subscription:
            async with aclosing(_visible(subscription, principal, wanted, projects)) as events:
                yield events

    def close(self) -> None:
        """End every stream: the service is about to stop."""
        self._board.sessions.close()


async def _visible(
    changes: Subscription[SessionChanged],
    principal: Principal,
    wanted: EventFilter,
    projects: list[UUID] | None,
) -> AsyncGenerator[SessionEvent, None]:
    async for change in changes:
        event = change.event
        if (
            event.name.partition("_")[0] in wanted.levels
            and _may_see(principal, event)
            and _asked_for(wanted, event)
            and (projects is None or event.project_id in projects)
        ):
            yield event


def _may_see(principal: Principal, event: SessionEvent) -> bool:
    if principal.is_superadmin:
        return True
    if principal.is_admin:
        return event.domain_name == principal.domain_name
    return event.user_id == principal.user_id


def _asked_for(wanted: EventFilter, event: SessionEvent) -> bool:
    if wanted.session_id is not None:
        return event.session_id == wanted.session_id
    if wanted.session_name is not None and event.session_name != wanted.session_name:
        return False
    return wanted.owner_access_key is None or event.access_key == wanted.owner_access_key
