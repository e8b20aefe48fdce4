"""What happened to sessions, numbered in the order of commit.

Events are entered by the statements that make them true, as the last thing they do: :data:`RECORD` is the
end of each. A trigger numbers them under a lock that is held until the commit, and sends each as a notice.
So nobody may wait for a row once it has entered an event, and whoever sees an event sees all before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database
from backendai.core.notice import SessionChanged

#: The beginning of a statement's end that enters events; a set of notices (jsonb) has to follow.
RECORD = "INSERT INTO session_events (notice)"
#: Events read at once.
PAGE = 500


@dataclass(frozen=True, slots=True)
class Horizon:
    """The numbers that events have: ``last`` was given out last, nothing before ``first`` is kept."""

    first: int
    last: int


async def horizon(connection: Connection | Database) -> Horizon:
    row = await connection.fetchrow(
        """
        SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last,
               (SELECT min(id) FROM session_events) AS first
        FROM session_event_numbers
        """
    )
    assert row is not None
    return Horizon(row["last"] + 1 if row["first"] is None else row["first"], row["last"])


async def after(
    connection: Connection | Database,
    number: int,
    *,
    user_id: UUID | None = None,
    domain_name: str | None = None,
    session_id: UUID | None = None,
) -> list[SessionChanged]:
    """Up to :data:`PAGE` events with numbers above ``number``, in order; of a user, domain or session."""
    rows = await connection.fetch(
        f"""
        SELECT notice FROM session_events
        WHERE id > $1 AND ($2::uuid IS NULL OR user_id = $2) AND ($3::text IS NULL OR domain_name = $3)
          AND ($4::uuid IS NULL OR session_id = $4)
        ORDER BY id LIMIT {PAGE}
        """,  # noqa: S608  a constant of this module
        number,
        user_id,
        domain_name,
        session_id,
    )
    return msgspec.convert([row["notice"] for row in rows], list[SessionChanged])


async def prune(connection: Connection | Database, before: datetime) -> int:
    """Forget events from before a time; answers how many."""
    answer = await connection.execute("DELETE FROM session_events WHERE at < $1", before)
    return int(answer.rpartition(" ")[2])
