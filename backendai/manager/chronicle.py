"""What a session went through, and what it hangs together with (contract 02 §12)."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.chronicle import Dependency, Passage
from backendai.core.errors import BadRequest
from backendai.manager.sessions import SessionService
from backendai.storage import history as store

#: Nodes of a dependency graph drawn as a tree; what several depend on is drawn below each.
_MOST_NODES = 2000


class ChronicleService:
    def __init__(self, database: Database, sessions: SessionService) -> None:
        self._database = database
        self._sessions = sessions

    async def history(self, owner: Principal, ref: str) -> list[Passage]:
        """Every status the session had, in order; of dead sessions too."""
        record = await self._sessions.resolve(owner, ref, stale=True)
        return await store.passages(self._database, record.session_id)

    async def dependencies(self, owner: Principal, ref: str) -> Dependency:
        """Raises :class:`BadRequest` for a graph that is too large to be drawn as a tree."""
        record = await self._sessions.resolve(owner, ref, stale=True)
        nodes = await store.dependencies(self._database, record.session_id)
        drawn = 0

        def draw(session_id: UUID) -> Dependency:
            nonlocal drawn
            drawn += 1
            if drawn > _MOST_NODES:
                raise BadRequest(f"The graph has more than {_MOST_NODES} branches.")
            node = nodes[session_id]
            return Dependency(node, tuple(draw(each) for each in node.depends_on))

        return draw(record.session_id)

    async def statuses(self, owner: Principal, session_ids: Sequence[UUID]) -> dict[UUID, str]:
        """Statuses of those sessions that are the owner's; a superadmin may ask for all."""
        access_key = None if owner.is_superadmin else owner.access_key
        return await store.statuses(self._database, access_key, session_ids)
